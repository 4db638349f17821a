"""A refiner that needs no model: the colour guided filter (He et al. 2013, fast form 2015), with a gate.

In every window alpha is fitted as a linear function of colour, a·I + b, at about the coarse mask's own resolution; the
coefficients are enlarged and applied to the colours at full resolution (`reference/refinement.md` B.3). Where colour
does not explain alpha (R² is low) the mask stays as it is: there the filter would copy texture into the matte.
"""

import math
from dataclasses import dataclass
from typing import Self

import cv2
import numpy as np
from numpy.typing import NDArray

from matting.refinement.port import ALIGNMENT, Size, Tile, TileShape

_CHANNEL_PAIRS = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))
_Plane = NDArray[np.float64]
# Bytes per pixel of a tile at the peak of its answer, measured: the fit, at its own resolution, and what is enlarged.
_FITTING, _BESIDE, _ENLARGING = 244, 16, 48
_FLAT = 1e-6  # variance of alpha below which a window has nothing to explain


@dataclass(frozen=True, slots=True)
class GuidedFilter:
    """Answers tiles.

    Attributes:
        side: T of its tiles.
        factor: The fit is made at this fraction of the stage's resolution; divides `ALIGNMENT`.
        radius: Of its windows, in pixels of the fit.
        epsilon: Added to the variances of colour, which are of values in [0, 1].
        doubtful: R² up to which the mask stays as it is.
        certain: R² from which on the fit is used as it is.
    """

    side: int = 512
    factor: int = 2
    radius: int = 4
    epsilon: float = 1e-4
    doubtful: float = 0.3
    certain: float = 0.8

    @classmethod
    def for_image(cls, image: Size, working: Size) -> Self:
        """The filter that fits at about the resolution of a coarse mask.

        Args:
            image: (height, width) of the image.
            working: (height, width) of the mask.
        """
        larger = max(image[0] / working[0], image[1] / working[1])
        return cls(factor=min(ALIGNMENT, 2 ** max(0, round(math.log2(larger)))))

    @property
    def shape(self) -> TileShape:
        """Its tiles. An answer depends on two windows around it, one for the fit and one for the mean of the fits."""
        reach = self.factor * (2 * self.radius + 2)
        return TileShape(self.side, -(-reach // ALIGNMENT) * ALIGNMENT)

    @property
    def working_bytes(self) -> int:
        """What answering one tile takes at its peak, beside the tile and its answer."""
        per_pixel = max(_BESIDE + _FITTING / self.factor**2, _ENLARGING)
        return math.ceil(self.side**2 * per_pixel)

    def answer(self, tile: Tile) -> NDArray[np.float32]:
        """Alpha of a tile's window, (S, S) float32 in [0, 1]."""
        colours = tile.image.astype(np.float32) / np.float32(255)
        # In double precision: epsilon divides what rounding leaves of a variance.
        slope, offset, explained = self._fit(
            self._reduced(colours).astype(np.float64), self._reduced(tile.mask).astype(np.float64)
        )
        size = tile.mask.shape[1], tile.mask.shape[0]
        large_slope, large_offset, trust = (_enlarged(plane, size) for plane in (slope, offset, explained))
        fitted = np.einsum("yxc,yxc->yx", large_slope, colours) + large_offset
        np.clip(fitted, 0.0, 1.0, out=fitted)
        answer = np.asarray(tile.mask + trust * (fitted - tile.mask), np.float32)
        return answer[tile.window(self.shape.answer)].copy()  # of a view all of it would be kept

    def _fit(self, colours: _Plane, alpha: _Plane) -> tuple[_Plane, _Plane, _Plane]:
        """Slope (h, w, 3), offset (h, w) and trust (h, w) in [0, 1], each the mean over the windows around a pixel."""
        mean = self._mean(colours)
        mean_alpha = self._mean(alpha)
        covariance = self._mean(colours * alpha[..., None]) - mean * mean_alpha[..., None]
        slope = _solve(self._variances(colours, mean), covariance)
        offset = mean_alpha - np.einsum("yxc,yxc->yx", slope, mean)
        variance = np.maximum(self._mean(alpha * alpha) - mean_alpha * mean_alpha, 0.0)
        share = (np.einsum("yxc,yxc->yx", slope, covariance) + _FLAT) / (variance + _FLAT)
        trust = np.clip((share - self.doubtful) / (self.certain - self.doubtful), 0.0, 1.0)
        return self._mean(slope), self._mean(offset), self._mean(trust)

    def _variances(self, colours: _Plane, mean: _Plane) -> list[_Plane]:
        """The six different entries of the covariance matrix of colour, regularised."""
        found = []
        for first, second in _CHANNEL_PAIRS:
            entry = self._mean(colours[..., first] * colours[..., second]) - mean[..., first] * mean[..., second]
            found.append(entry + self.epsilon if first == second else entry)
        return found

    def _mean(self, plane: _Plane) -> _Plane:
        side = 2 * self.radius + 1
        return np.asarray(cv2.blur(plane, (side, side), borderType=cv2.BORDER_REPLICATE), np.float64)

    def _reduced(self, plane: NDArray[np.float32]) -> NDArray[np.float32]:
        size = plane.shape[1] // self.factor, plane.shape[0] // self.factor
        return np.asarray(cv2.resize(plane, size, interpolation=cv2.INTER_AREA), np.float32)


def _enlarged(plane: _Plane, size: tuple[int, int]) -> NDArray[np.float32]:
    large = cv2.resize(plane.astype(np.float32), size, interpolation=cv2.INTER_LINEAR)
    return np.asarray(large, np.float32)


def _solve(matrix: list[_Plane], right: _Plane) -> _Plane:
    """Solve a symmetric 3x3 system at every pixel, by cofactors.

    Args:
        matrix: The entries rr, rg, rb, gg, gb, bb, each (h, w).
        right: (h, w, 3).
    """
    rr, rg, rb, gg, gb, bb = matrix
    cofactors = (
        gg * bb - gb * gb,
        rb * gb - rg * bb,
        rg * gb - rb * gg,
        rr * bb - rb * rb,
        rb * rg - rr * gb,
        rr * gg - rg * rg,
    )
    determinant = rr * cofactors[0] + rg * cofactors[1] + rb * cofactors[2]
    red, green, blue = right[..., 0], right[..., 1], right[..., 2]
    c_rr, c_rg, c_rb, c_gg, c_gb, c_bb = cofactors
    solved = np.stack(
        (
            c_rr * red + c_rg * green + c_rb * blue,
            c_rg * red + c_gg * green + c_gb * blue,
            c_rb * red + c_gb * green + c_bb * blue,
        ),
        axis=-1,
    )
    return np.asarray(solved / determinant[..., None], np.float64)

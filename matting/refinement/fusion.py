"""How the finer answers of a stage join its mask: low frequencies from the coarse pass, high ones from the fine.

`reference/refinement.md` B.3. A refiner sees one tile and may lose its way there: drift, call everything foreground,
turn inside out. Three means over the surroundings of a pixel, in the band, tell that from what refinement is for:

- **drift**: of the change, where it is small. A constant offset is all drift, and is taken off; a boundary that moves
  is large changes of few pixels, and is left.
- **disagreement at the rim** of the band, where the finer answer meets the coarse mask, which has no doubt there: who
  found the boundary within the band agrees with what is on both sides of it, who lost its way does not.
- **disagreement within**: of cells that are larger than what the coarse mask could not see. Fine structure averages
  out.

A change d becomes `exp(-(rim / agreement)² - (within / (2 agreement))²) * (d - drift)`, but never more than d itself,
nor its opposite: taking the drift off must change nothing where both agree. Everything is weighted by the band, so
that the result does not depend on how it was cut into tiles.
"""

from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from matting.refinement.options import FusionOptions
from matting.refinement.port import Size
from matting.refinement.sampling import window

CELL = 2
"""Side of the cells, in pixels of the mask that the stage starts from."""

_SMALL = 0.15
"""Changes count for the drift up to here."""

_WITHIN = 2.0
"""Within the band so much more disagreement is believed than at its rim: refining is changing."""


@dataclass(slots=True)
class Change:
    """What a tile would change.

    Attributes:
        cell: Rows and columns of the stage's canvas.
        values: float32, the answer minus the mask.
        weight: float32, of the band, 0 to 1.
    """

    cell: tuple[slice, slice]
    values: NDArray[np.float32] = field(repr=False)
    weight: NDArray[np.float32] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Means:
    """What is around every pixel of a cell, float32 planes of its size."""

    drift: NDArray[np.float32] = field(repr=False)
    rim: NDArray[np.float32] = field(repr=False)
    within: NDArray[np.float32] = field(repr=False)


class Surroundings:
    """What the changes of a stage come to on average, around every place."""

    def __init__(self, size: Size, ratio: float, sigma: float) -> None:
        """Begin without changes.

        Args:
            size: (height, width) of the stage.
            ratio: Pixels of the stage per pixel of the mask that it starts from.
            sigma: Deviation of the Gaussian that says what is around, in pixels of that mask.
        """
        self._pitch = max(1, round(CELL * ratio))
        self._sigma = sigma * ratio / self._pitch
        height, width = (-(-side // self._pitch) for side in size)
        self._sums = np.zeros((len(_SUMMED), height, width), np.float32)
        self._means: NDArray[np.float32] | None = None

    def add(self, change: Change) -> None:
        """Count one more, before the first `around`."""
        (down, rows), (across, columns) = (self._bins(span) for span in change.cell)
        values, weight = change.values, change.weight
        rim = weight * (1.0 - weight)
        planes = (weight, weight * values, weight * np.clip(values, -_SMALL, _SMALL), rim, rim * np.abs(values))
        for total, plane in zip(self._sums, planes, strict=True):
            total[down, across] += np.add.reduceat(np.add.reduceat(plane, rows, axis=0), columns, axis=1)

    def around(self, cell: tuple[slice, slice]) -> Means:
        """What is around the pixels of a cell of the canvas."""
        if self._means is None:
            self._means = self._averaged()
        return Means(*(window(plane, (1 / self._pitch, 1 / self._pitch), *cell) for plane in self._means))

    def _averaged(self) -> NDArray[np.float32]:
        sums = dict(zip(_SUMMED, self._sums, strict=True))
        sums["change"] = np.abs(sums["change"])  # of whole cells, which is what makes it a low frequency
        blurred = {name: self._blurred(plane) for name, plane in sums.items()}
        weight, rim = (np.maximum(blurred[name], np.float32(1e-6)) for name in ("weight", "rim"))
        return np.stack((blurred["small"] / weight, blurred["at_rim"] / rim, blurred["change"] / weight))

    def _bins(self, span: slice) -> tuple[slice, NDArray[np.intp]]:
        """Which cells a span falls into, and where each begins within it."""
        index = np.arange(span.start, span.stop) // self._pitch
        return slice(int(index[0]), int(index[-1]) + 1), np.flatnonzero(np.diff(index, prepend=-1))

    def _blurred(self, plane: NDArray[np.float32]) -> NDArray[np.float32]:
        found = cv2.GaussianBlur(plane, (0, 0), self._sigma, borderType=cv2.BORDER_CONSTANT)
        return np.asarray(found, np.float32).reshape(plane.shape)


_SUMMED = ("weight", "change", "small", "rim", "at_rim")


def believed(change: NDArray[np.float32], means: Means, options: FusionOptions) -> NDArray[np.float32]:
    """What is left of a change, float32 between 0 and `change`, pixel by pixel."""
    rim, within = means.rim / options.agreement, means.within / (_WITHIN * options.agreement)
    left = np.exp(-np.square(rim) - np.square(within)) * (change - means.drift)
    return np.asarray(np.clip(left, np.minimum(change, 0.0), np.maximum(change, 0.0)), np.float32)

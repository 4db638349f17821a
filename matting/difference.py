"""How far two mattes of one image are from each other, where neither is the truth."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from matting.band import boundary_band
from matting.geometry import restore


@dataclass(frozen=True, slots=True)
class Difference:
    """Of two mattes, in [0, 1] each.

    Attributes:
        mean: Of |a - b| over all pixels.
        band: Of |a - b| over the pixels in the boundary band of either; None where neither has a band.
        largest: Of any pixel.
    """

    mean: float
    band: float | None
    largest: float


def difference(first: NDArray[np.float32], second: NDArray[np.float32], radius: int = 5) -> Difference:
    """Compare two mattes of one image, at the larger of their sizes (by area); symmetric where both have one size.

    Args:
        first: (H, W) float32 in [0, 1].
        second: (h, w) float32 in [0, 1]; brought to the other's size, or the other to its, as answers are to theirs.
        radius: Half the width of the boundary band, in pixels of the larger size.
    """
    size = max(first.shape, second.shape, key=lambda shape: shape[0] * shape[1])
    one, other = (restore(alpha, (size[0], size[1])) for alpha in (first, second))
    distance = np.abs(one - other)
    band = boundary_band(one, radius) | boundary_band(other, radius)
    in_band = float(distance[band].mean(dtype=np.float64)) if band.any() else None
    return Difference(float(distance.mean(dtype=np.float64)), in_band, float(distance.max()))

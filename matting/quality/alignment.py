"""The enhanced-alignment measure: pixels and the whole region at once, at every threshold of a matte."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from matting.composition import to_uint8
from matting.quality.error import Plane, check_same_shape
from matting.quality.overlap import REGION

_LEVELS = 256
_TINY = float(np.finfo(np.float64).eps)


@dataclass(frozen=True, slots=True)
class EMeasure:
    """E-measure of one matte.

    Attributes:
        maximum: The best of the 256 thresholds.
        mean: Over the 256 thresholds.
        adaptive: At twice the matte's mean, 1 at most.
    """

    maximum: float
    mean: float
    adaptive: float


def e_measure(alpha: Plane, truth: Plane) -> EMeasure:
    """E-measure: mean of (1 + ξ)² / 4, where ξ = 2 a b / (a² + b²) (Fan et al., IJCAI 2018), in [0, 1].

    a and b are the thresholded matte and the true region, less their means. Both are binary, so that ξ has at most four
    values, which are counted instead of mapped: 256 thresholds cost one histogram. As in the published code the sum is
    divided by the pixels less one, and where the true region is empty (or full) what is right is counted alone.

    Args:
        alpha: (H, W) the matte in question, quantised to 256 levels.
        truth: (H, W) what it should be; its region counts.

    Returns:
        The measure at the best threshold, over all, and at the adaptive one.
    """
    check_same_shape(alpha, truth)
    region = truth >= REGION
    levels = to_uint8(np.ascontiguousarray(alpha))
    inside = _at_least(levels[region])
    outside = _at_least(levels[~region])
    scores = _scores(inside, outside, int(region.sum()), region.size)
    threshold = min(1.0, 2 * float(levels.mean(dtype=np.float64)) / (_LEVELS - 1))
    found = levels / np.float64(_LEVELS - 1) >= threshold
    hits = np.array([np.count_nonzero(found & region)]), np.array([np.count_nonzero(found & ~region)])
    adaptive = _scores(*hits, int(region.sum()), region.size)
    return EMeasure(float(scores.max()), float(scores.mean()), float(adaptive[0]))


def _at_least(levels: NDArray[np.uint8]) -> NDArray[np.int64]:
    """How many values are at or above each level, (256,)."""
    return np.cumsum(np.bincount(levels, minlength=_LEVELS)[::-1])[::-1]


def _scores(inside: NDArray[np.int64], outside: NDArray[np.int64], wanted: int, size: int) -> NDArray[np.float64]:
    """The measure from the foreground pixels found inside and outside of the true region of `wanted` pixels."""
    unwanted = size - wanted
    if wanted == 0:
        total = (unwanted - outside).astype(np.float64)
    elif unwanted == 0:
        total = inside.astype(np.float64)
    else:
        mean_found, mean_wanted = (inside + outside) / size, wanted / size
        counts = ((inside, 1, 1), (outside, 1, 0), (wanted - inside, 0, 1), (unwanted - outside, 0, 0))
        total = np.zeros(len(inside))
        for count, found, expected in counts:
            a, b = found - mean_found, expected - mean_wanted
            total += count * (2 * a * b / (a * a + b * b + _TINY) + 1) ** 2 / 4
    return total / (size - 1 + _TINY)

"""The structure measure: whether the parts of a matte are where the true ones are."""

import numpy as np
from numpy.typing import NDArray

from matting.quality.error import Mask, Plane, check_same_shape
from matting.quality.overlap import REGION

_TINY = float(np.finfo(np.float64).eps)


def s_measure(alpha: Plane, truth: Plane, balance: float = 0.5) -> float:
    """S-measure: balance · S_object + (1 - balance) · S_region (Fan et al., ICCV 2017), in [0, 1].

    Args:
        alpha: (H, W) the matte in question; its grey levels count.
        truth: (H, W) what it should be; its region counts.
        balance: The paper's alpha.

    Returns:
        The measure, not below 0. Where the true region is empty, 1 - mean(alpha); where it is full, mean(alpha).
    """
    check_same_shape(alpha, truth)
    region = truth >= REGION
    share = float(region.mean())
    if share in (0.0, 1.0):
        mean = float(alpha.mean(dtype=np.float64))
        return mean if share else 1.0 - mean
    objects = share * _likeness(alpha[region]) + (1 - share) * _likeness(1 - alpha[~region])
    return max(0.0, balance * objects + (1 - balance) * _regions(alpha, region))


def _likeness(values: NDArray[np.float32]) -> float:
    """O = 2 x / (x² + 1 + σ): the paper's equation 4 with λ = 1/2, σ of the sample."""
    mean = float(values.mean(dtype=np.float64))
    spread = float(values.std(dtype=np.float64, ddof=1)) if values.size > 1 else 0.0
    return 2 * mean / (mean**2 + 1 + spread + _TINY)


def _regions(alpha: Plane, region: Mask) -> float:
    """Similarity of the four quadrants around the true region's centre of mass, weighted by their areas."""
    height, width = region.shape
    rows, columns = region.sum(axis=1, dtype=np.int64), region.sum(axis=0, dtype=np.int64)
    total = int(rows.sum())
    # One past the rounded centre: the quadrant at the top left includes it.
    y = round(float(rows @ np.arange(height)) / total) + 1
    x = round(float(columns @ np.arange(width)) / total) + 1
    score = 0.0
    for down in (slice(0, y), slice(y, None)):
        for across in (slice(0, x), slice(x, None)):
            part = region[down, across]
            if part.size:
                score += part.size / region.size * _similarity(alpha[down, across], part)
    return score


def _similarity(alpha: Plane, region: Mask) -> float:
    """SSIM of one whole quadrant, without its stabilising constants (the paper's equation 6)."""
    found, wanted = float(alpha.mean(dtype=np.float64)), float(region.mean())
    freedom = max(1, region.size - 1)
    difference = alpha - np.float32(found)
    variance = float(np.square(difference).sum(dtype=np.float64)) / freedom
    expected = region.size * wanted * (1 - wanted) / freedom
    covariance = float(difference[region].sum(dtype=np.float64)) / freedom
    numerator = 4 * found * wanted * covariance
    denominator = (found**2 + wanted**2) * (variance + expected)
    if numerator:
        return numerator / (denominator + _TINY)
    return 1.0 if denominator == 0 else 0.0

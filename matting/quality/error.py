"""Per-pixel errors of a matte. Mattes are compared as they are: no min-max stretching hides their calibration."""

import numpy as np
from numpy.typing import NDArray

from matting.band import boundary_band

Plane = NDArray[np.float32]
Mask = NDArray[np.bool_]

THOUSAND = 1000.0
"""The literature's unit of sums: SAD, Grad and Conn are given in thousands."""


def mean_absolute_error(alpha: Plane, truth: Plane) -> float:
    """Mean of |alpha - truth| over all pixels, in [0, 1]."""
    check_same_shape(alpha, truth)
    return float(np.abs(alpha - truth).mean(dtype=np.float64))


def mean_squared_error(alpha: Plane, truth: Plane, where: Mask | None = None) -> float:
    """Mean of (alpha - truth)², in [0, 1].

    Args:
        alpha: (H, W) the matte in question.
        truth: (H, W) what it should be.
        where: (H, W) the pixels that count, the unknown region of a trimap for example; None for all.

    Returns:
        The mean; 0 where no pixel counts.
    """
    difference = _difference(alpha, truth, where)
    return float(np.square(difference).mean(dtype=np.float64)) if difference.size else 0.0


def sum_absolute_difference(alpha: Plane, truth: Plane, where: Mask | None = None) -> float:
    """SAD: sum of |alpha - truth| over the pixels of `where`, or all, in thousands of pixels."""
    return float(np.abs(_difference(alpha, truth, where)).sum(dtype=np.float64)) / THOUSAND


def band_absolute_error(alpha: Plane, truth: Plane, radius: int = 5) -> float:
    """Mean of |alpha - truth| over the truth's boundary band, in [0, 1].

    Args:
        alpha: (H, W) the matte in question.
        truth: (H, W) what it should be; its band is the one that counts.
        radius: Half the width of the band, in pixels.

    Returns:
        The mean; 0 where the truth has no band.
    """
    check_same_shape(alpha, truth)
    band = boundary_band(truth, radius)
    return float(np.abs(alpha[band] - truth[band]).mean(dtype=np.float64)) if band.any() else 0.0


def check_same_shape(alpha: Plane, truth: Plane, where: Mask | None = None) -> None:
    """Refuse mattes of different sizes, which numpy might broadcast."""
    if alpha.shape != truth.shape:
        raise ValueError(f"expected mattes of one size, found {alpha.shape} and {truth.shape}")
    if where is not None and where.shape != truth.shape:
        raise ValueError(f"expected a mask of the mattes' size {truth.shape}, found {where.shape}")


def _difference(alpha: Plane, truth: Plane, where: Mask | None) -> Plane:
    check_same_shape(alpha, truth, where)
    return alpha - truth if where is None else alpha[where] - truth[where]

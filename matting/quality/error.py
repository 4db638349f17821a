"""Per-pixel errors of a matte. Mattes are compared as they are: no min-max stretching hides their calibration."""

import numpy as np
from numpy.typing import NDArray

from matting.band import boundary_band


def mean_absolute_error(alpha: NDArray[np.float32], truth: NDArray[np.float32]) -> float:
    """Mean of |alpha - truth| over all pixels, in [0, 1]."""
    check_same_shape(alpha, truth)
    return float(np.abs(alpha - truth).mean(dtype=np.float64))


def band_absolute_error(alpha: NDArray[np.float32], truth: NDArray[np.float32], radius: int = 5) -> float:
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


def check_same_shape(alpha: NDArray[np.float32], truth: NDArray[np.float32]) -> None:
    """Refuse mattes of different sizes, which numpy might broadcast."""
    if alpha.shape != truth.shape:
        raise ValueError(f"expected mattes of one size, found {alpha.shape} and {truth.shape}")

"""The boundary band: where a matte is decided, and where its quality shows."""

import cv2
import numpy as np
from numpy.typing import NDArray

_UNDECIDED = 1.0 / 255.0


def boundary_band(alpha: NDArray[np.float32], radius: int) -> NDArray[np.bool_]:
    """Mark the pixels near the 0.5 contour, and the undecided ones wherever they are.

    Args:
        alpha: (H, W) float32 in [0, 1].
        radius: Pixels from the contour, in a disc, that still belong to the band.

    Returns:
        (H, W) bool; nowhere true where the matte is empty or full.
    """
    inside = (alpha >= 0.5).astype(np.uint8)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    near = cv2.morphologyEx(inside, cv2.MORPH_GRADIENT, kernel).astype(np.bool_)
    return near | ((alpha > _UNDECIDED) & (alpha < 1.0 - _UNDECIDED))

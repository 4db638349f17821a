"""A trimap of a matte: what is certain, and where a matting method should look."""

import cv2
import numpy as np
from numpy.typing import NDArray

BACKGROUND, UNKNOWN, FOREGROUND = 0, 128, 255

_CERTAIN = 4.0 / 255.0
_SIDES_PER_RADIUS = 256


def trimap(alpha: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Call everything unknown that is undecided or crosses 0.5, and what is near to it.

    Near is 1/256 of the longer side: four pixels of a network's 1024, by which its boundary may well be off.

    Args:
        alpha: (H, W) float32 in [0, 1].

    Returns:
        (H, W) uint8 of `BACKGROUND`, `UNKNOWN` and `FOREGROUND`.
    """
    inside = (alpha >= 0.5).view(np.uint8)
    unknown = ((alpha > _CERTAIN) & (alpha < 1.0 - _CERTAIN)).view(np.uint8)
    unknown |= np.asarray(cv2.morphologyEx(inside, cv2.MORPH_GRADIENT, _square(1)), np.uint8).reshape(alpha.shape)
    radius = max(1, round(max(alpha.shape) / _SIDES_PER_RADIUS))
    unknown = np.asarray(cv2.dilate(unknown, _square(radius)), np.uint8).reshape(alpha.shape)
    inside *= np.uint8(FOREGROUND)
    inside[unknown.view(np.bool_)] = UNKNOWN
    return inside


def _square(radius: int) -> NDArray[np.uint8]:
    # Squares, unlike discs, are dilated axis by axis: their radius costs nothing.
    return np.ones((2 * radius + 1, 2 * radius + 1), np.uint8)

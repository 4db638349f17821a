"""The boundary band of a stage: where its finer answer counts, and how much."""

from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from matting.refinement.options import BandOptions

FULL = 255


@dataclass(frozen=True, slots=True)
class Band:
    """A boundary band.

    Attributes:
        weight: (h, w) uint8, 0 outside of the band, 255 in its middle, between them where it fades in.
        share: Of the pixels that belong to it, 0 to 1.
    """

    weight: NDArray[np.uint8] = field(repr=False)
    share: float


def find_band(alpha: NDArray[np.float32], options: BandOptions, hidden: NDArray[np.uint8] | None = None) -> Band:
    """The band of a mask, by dilation alone: no distance is ever computed over the whole frame.

    What lies beyond the frame is like its border, so that a subject that is cut off there has no boundary there.

    Args:
        alpha: (h, w) float32 in [0, 1]: the mask that the stage starts from.
        options: How wide.
        hidden: (h, w) uint8, 0 where there is nothing to refine; None where there may be everywhere.
    """
    if options.everywhere:
        return Band(np.full(alpha.shape, FULL, np.uint8), 1.0)
    found = uncertain(alpha, options.uncertain)
    np.maximum(found, near_contour(alpha, options.contour), out=found)
    for width in range(options.dilate, options.feather - 1, -1):
        band = _widened(found, width, options.feather, hidden)
        if band.share <= options.max_share:
            break
    return band


def _widened(found: NDArray[np.uint8], width: int, feather: int, hidden: NDArray[np.uint8] | None) -> Band:
    weight = np.zeros_like(found)
    # Rings outwards: the innermost ones count fully, the last of them less and less.
    for index in range(feather + 1):
        level = round(FULL * (feather + 1 - index) / (feather + 1))
        np.maximum(weight, dilated(found, width - feather + index) * np.uint8(level), out=weight)
    if hidden is not None:
        weight[hidden == 0] = 0
    return Band(weight, float(np.count_nonzero(weight)) / weight.size)


def uncertain(alpha: NDArray[np.float32], margin: float) -> NDArray[np.uint8]:
    """(h, w) uint8, 1 where alpha lies strictly between the margin and one minus it."""
    inside: NDArray[np.uint8] = ((alpha > margin) & (alpha < 1.0 - margin)).view(np.uint8)
    return inside


def near_contour(alpha: NDArray[np.float32], radius: int) -> NDArray[np.uint8]:
    """(h, w) uint8, 1 within so many pixels of where alpha crosses 0.5, on both sides."""
    inside = (alpha >= 0.5).view(np.uint8)
    kernel = _disc(radius)
    return np.asarray(cv2.morphologyEx(inside, cv2.MORPH_GRADIENT, kernel), np.uint8).reshape(alpha.shape)


def dilated(mask: NDArray[np.uint8], radius: int) -> NDArray[np.uint8]:
    """A mask of 0 and 1, widened by so many pixels."""
    if radius == 0:
        return mask
    return np.asarray(cv2.dilate(mask, _disc(radius)), np.uint8).reshape(mask.shape)


def _disc(radius: int) -> NDArray[np.uint8]:
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1)), np.uint8)

"""Object crop: the subject is located at the working size; if it is small there, the network sees it again, larger.

This is what BiRefNet's author advises for large images: locate, crop, run again (`reference/refinement.md` section 0).
"""

import math
from collections.abc import Generator

import cv2
import numpy as np
from numpy.typing import NDArray

from matting.geometry import fit
from matting.refinement.coarse import CoarseMask, Crop
from matting.refinement.options import CropOptions
from matting.refinement.port import Answers, Canvas, Question

Box = tuple[int, int, int, int]


def look_again(
    image: NDArray[np.uint8], coarse: CoarseMask, options: CropOptions
) -> Generator[tuple[Question, ...], Answers, CoarseMask]:
    """Ask the network for a crop, if the subject is small.

    Args:
        image: (H, W, 3) uint8.
        coarse: What it said of the whole.
        options: What is small, and when the second answer is believed.

    Returns:
        The coarse mask with the crop; `coarse` itself where there is none, or none that can be believed.
    """
    box = subject_box(coarse, options)
    if box is None:
        return coarse
    top, left, bottom, right = box
    canvas = fit(image[top:bottom, left:right], _size(coarse.whole))
    (answer,) = yield (Canvas(canvas),)
    if answer.shape != coarse.whole.shape:
        raise ValueError(f"expected a coarse mask of {coarse.whole.shape}, found {answer.shape}")
    found = CoarseMask(coarse.whole, coarse.image, Crop(box, np.clip(answer, 0.0, 1.0)))
    return found if _agree(coarse, found, options) else coarse


def subject_box(coarse: CoarseMask, options: CropOptions) -> Box | None:
    """(top, left, bottom, right) in the image, of the subject and its margin; None where a crop would gain little."""
    inside = (coarse.whole > options.threshold).view(np.uint8)
    if not inside.any():
        return None
    x, y, width, height = cv2.boundingRect(inside)
    top, bottom = _widened(y, height, coarse.image[0] / inside.shape[0], coarse.image[0], options.margin)
    left, right = _widened(x, width, coarse.image[1] / inside.shape[1], coarse.image[1], options.margin)
    box = top, left, bottom, right
    seen = CoarseMask(coarse.whole, coarse.image, Crop(box, coarse.whole)).resolution
    gain = min(after / before for after, before in zip(seen, coarse.whole.shape, strict=True))
    return box if gain >= options.min_gain else None


def _widened(start: int, length: int, scale: float, side: int, margin: float) -> tuple[int, int]:
    """One axis of the subject's box with its margin, from pixels of the mask to those of the image."""
    more = margin * length + 1
    return max(0, math.floor((start - more) * scale)), min(side, math.ceil((start + length + more) * scale))


def _agree(before: CoarseMask, after: CoarseMask, options: CropOptions) -> bool:
    """Whether both mattes have the same subject, at the working size."""
    size = _size(before.whole)
    first, second = before.whole >= 0.5, after.at(size) >= 0.5
    union = int(np.count_nonzero(first | second))
    return union > 0 and int(np.count_nonzero(first & second)) >= options.min_agreement * union


def _size(plane: NDArray[np.float32]) -> tuple[int, int]:
    return plane.shape[0], plane.shape[1]

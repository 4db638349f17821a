"""RefineMask's own rule, boundary-aware refinement of binary masks: the reference that the soft one reduces to.

`reference/refinement.md` C.2 to C.4 (Zhang et al., CVPR 2021). The server does not run it.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

WIDTH_IN_TRAINING, WIDTH_IN_INFERENCE = 2, 1
"""Pixels from the contour that are still boundary, d̂."""


def boundary(mask: NDArray[np.bool_], width: int) -> NDArray[np.bool_]:
    """The boundary region: pixels whose Euclidean distance to the nearest pixel of the other label is at most `width`.

    Nothing beyond the frame counts. RefineMask pads with zeros, which makes a boundary of the border of its regions of
    interest; at the border of a whole image that is unwanted.

    Args:
        mask: (h, w) bool.
        width: d̂, at least 1.
    """
    if width < 1:
        raise ValueError(f"width: expected 1 or more, found {width}")
    reach = np.arange(-width, width + 1)
    disc = (reach[:, None] ** 2 + reach[None, :] ** 2 <= width**2).astype(np.uint8)
    inside = np.asarray(mask, np.uint8)
    near_inside = cv2.dilate(inside, disc).astype(np.bool_)
    near_outside = cv2.dilate(1 - inside, disc).astype(np.bool_)
    return np.where(mask, near_outside, near_inside)


def boundary_by_count(mask: NDArray[np.bool_], width: int) -> NDArray[np.bool_]:
    """As RefineMask's code has it: more than a tenth of the (2w+1)² window has the other label. Replicated border."""
    side = 2 * width + 1
    inside = np.asarray(mask, np.float32)
    share = np.asarray(cv2.blur(inside, (side, side), borderType=cv2.BORDER_REPLICATE), np.float32)
    other = np.where(mask, 1.0 - share, share)
    return np.asarray(other > 0.1 + 1e-6)


def doubled(plane: NDArray[np.float32]) -> NDArray[np.float32]:
    """Twice the sides, bilinear with aligned corners, as RefineMask enlarges both masks and regions."""
    for axis in (0, 1):
        length = plane.shape[axis]
        position = np.linspace(0.0, length - 1.0, 2 * length)
        before = np.minimum(np.floor(position).astype(np.intp), max(length - 2, 0))
        after = np.minimum(before + 1, length - 1)
        weight = np.expand_dims((position - before).astype(np.float32), 1 - axis)
        first, second = np.take(plane, before, axis), np.take(plane, after, axis)
        plane = first + (second - first) * weight
    return plane


def region(mask: NDArray[np.bool_], width: int) -> NDArray[np.bool_]:
    """Where the next stage's answer counts: the boundary, enlarged twice and cut at one half."""
    return doubled(boundary(mask, width).astype(np.float32)) >= 0.5


def training_region(predicted: NDArray[np.bool_], truth: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Where the next stage is supervised: the boundaries of the prediction and of the truth, R in C.3."""
    both = boundary(predicted, WIDTH_IN_TRAINING) | boundary(truth, WIDTH_IN_TRAINING)
    return doubled(both.astype(np.float32)) >= 0.5


def compose(fine: NDArray[np.float32], coarse: NDArray[np.float32], weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """The finer answer within, the coarser one without; exact where the weight is 0 or 1."""
    return np.asarray(weight * fine + (1 - weight) * coarse, np.float32)


def refine_logits(stages: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Inference (C.4): from the first stage on, the next one's logits count at the boundary of what was composed.

    Args:
        stages: Logits of 28², 56², 112², or any sizes that double; the 14² stage is not used. They are composed as
            they are, and cut at 0, which is a probability of one half, only to find the boundary.
    """
    composed = stages[0]
    for finer in stages[1:]:
        weight = region(composed >= 0.0, WIDTH_IN_INFERENCE).astype(np.float32)
        composed = compose(finer, doubled(composed), weight)
    return composed

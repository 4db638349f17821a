"""How well the region of a matte covers the true one."""

from collections.abc import Iterable

import numpy as np

from matting.quality.error import Mask, Plane, check_same_shape

REGION = 0.5
"""Where a matte is this or more, it is foreground."""


def iou(alpha: Plane, truth: Plane, threshold: float = REGION) -> float:
    """Intersection over union of the regions at or above the threshold, in [0, 1]; 1 where both are empty."""
    return pooled_iou([(alpha, truth)], threshold)


def pooled_iou(pairs: Iterable[tuple[Plane, Plane]], threshold: float = REGION) -> float:
    """IoU of a whole set: the sum of the intersections over the sum of the unions, in [0, 1].

    The figure that CascadePSP and CRM report on BIG, where large subjects dominate. (Their code compares 8-bit masks
    with 128, which leaves the level 128 out.)

    Args:
        pairs: Mattes and their truths, (H, W) each; sizes may differ between pairs.
        threshold: Of both.

    Returns:
        The quotient; 1 where all regions are empty.
    """
    intersection = union = 0
    for alpha, truth in pairs:
        check_same_shape(alpha, truth)
        found, wanted = alpha >= threshold, truth >= threshold
        both, either = overlap(found, wanted)
        intersection, union = intersection + both, union + either
    return intersection / union if union else 1.0


def overlap(found: Mask, wanted: Mask) -> tuple[int, int]:
    """Pixels of the intersection and of the union of two regions."""
    return int(np.count_nonzero(found & wanted)), int(np.count_nonzero(found | wanted))

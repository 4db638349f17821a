"""The weighted F-measure: errors count by where they are and what is around them."""

import math

import cv2
import numpy as np

from matting.quality.error import Plane, check_same_shape
from matting.quality.overlap import REGION

_TINY = float(np.finfo(np.float64).eps)
_HALVING = math.log(0.5) / 5
_WINDOW, _SIGMA = 7, 5.0


def weighted_f(alpha: Plane, truth: Plane) -> float:
    """Weighted F-measure with β = 1 (Margolin et al., "How to evaluate foreground maps?", CVPR 2014), in [0, 1].

    E = |alpha - region|. Outside of the region each pixel borrows the error of its nearest region pixel before E is
    averaged (a Gaussian of 7 x 7 pixels, σ = 5) to E_A; inside, the smaller of E and E_A counts, so that an error amid
    right neighbours weighs less. Outside errors weigh 2 - exp(ln(0.5)/5 · d) at the distance d of the region. Precision
    and recall follow from the weighted errors.

    Args:
        alpha: (H, W) the matte in question; its grey levels count.
        truth: (H, W) what it should be; its region counts.

    Returns:
        The measure. Where the true region is empty: 1 for a matte that is 0 everywhere, else 0.
    """
    check_same_shape(alpha, truth)
    region = truth >= REGION
    if not region.any():
        return 0.0 if alpha.any() else 1.0
    from scipy.ndimage import distance_transform_edt  # here: it comes with [train], and OpenCV's is not exact

    error = np.abs(alpha - region.astype(np.float32))
    distance, nearest = distance_transform_edt(~region, return_indices=True)
    borrowed = error[nearest[0], nearest[1]]
    del nearest
    averaged = cv2.GaussianBlur(borrowed, (_WINDOW, _WINDOW), _SIGMA, borderType=cv2.BORDER_CONSTANT)
    del borrowed
    inside = np.minimum(error, averaged)[region]
    outside = error[~region] * (2 - np.exp(_HALVING * distance[~region]))
    wanted = inside.size
    lost = float(inside.sum(dtype=np.float64))
    right, wrong = wanted - lost, float(outside.sum(dtype=np.float64))
    recall, precision = 1 - lost / wanted, right / (right + wrong + _TINY)
    return float(2 * recall * precision / (recall + precision + _TINY))

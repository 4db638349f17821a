"""How well a region keeps to the true boundary."""

import cv2
import numpy as np
from numpy.typing import NDArray

from matting.quality.error import Mask, Plane, check_same_shape
from matting.quality.overlap import REGION, overlap

_WIDTHS = 5
_PIXELS_PER_WIDTH = 300
_BIOU_SHARE = 0.02
_TILE = 512


def mean_boundary_accuracy(alpha: Plane, truth: Plane) -> float | None:
    """mBA: the share of pixels with the right label in bands around the true boundary, mean of five widths.

    CascadePSP (Cheng et al., CVPR 2020) and CRM (Shen et al., CVPR 2022). A band is the morphological gradient of the
    true region with OpenCV's ellipse of radius r; the radii are those of `band_radii`. An answer that is all
    background scores about 0.5, not 0: half of every band is background.

    Args:
        alpha: (H, W) the matte in question.
        truth: (H, W) what it should be.

    Returns:
        The mean, in [0, 1]; None where the true region is empty or full and has no boundary.
    """
    check_same_shape(alpha, truth)
    wanted = truth >= REGION
    if wanted.all() or not wanted.any():
        return None
    right = (alpha >= REGION) == wanted
    accuracies = []
    for radius in band_radii(truth.shape[0], truth.shape[1]):
        band = _gradient(wanted.view(np.uint8), radius)
        accuracies.append(np.count_nonzero(right & band) / np.count_nonzero(band))
    return float(np.mean(accuracies))


def band_radii(height: int, width: int) -> tuple[int, ...]:
    """The radii of mBA's bands in pixels: 1 + floor(t/5 · ((H+W)/300 - 1)) for t = 0 to 4, and at least 1."""
    step = ((height + width) / _PIXELS_PER_WIDTH - 1) / _WIDTHS
    return tuple(max(1, 1 + int(np.floor(step * t))) for t in range(_WIDTHS))


def boundary_iou(alpha: Plane, truth: Plane) -> float:
    """BIoU: IoU of the regions' inner boundaries (Cheng et al., "Boundary IoU", CVPR 2021), in [0, 1].

    An inner boundary is what of a region is at most d pixels from its outside, 2 % of the image's diagonal, by
    chessboard distance: d erosions by a 3 x 3 square. What lies beyond the image is outside.

    Returns:
        The quotient; 1 where both regions are empty.
    """
    check_same_shape(alpha, truth)
    height, width = truth.shape
    reach = max(1, round(_BIOU_SHARE * float(np.hypot(height, width))))
    both, either = overlap(_inner_boundary(alpha >= REGION, reach), _inner_boundary(truth >= REGION, reach))
    return both / either if either else 1.0


def _inner_boundary(region: Mask, reach: int) -> Mask:
    framed = cv2.copyMakeBorder(region.view(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    inward = cv2.distanceTransform(framed, cv2.DIST_C, cv2.DIST_MASK_3)[1:-1, 1:-1]
    return np.asarray((inward > 0) & (inward <= reach), dtype=np.bool_)


def _gradient(region: NDArray[np.uint8], radius: int) -> Mask:
    """The morphological gradient with an ellipse, only where there is a boundary: the ellipse costs radius² a pixel."""
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    band = np.zeros(region.shape, np.bool_)
    for top in range(0, region.shape[0], _TILE):
        for left in range(0, region.shape[1], _TILE):
            above, before = min(top, radius), min(left, radius)
            window = region[top - above : top + _TILE + radius, left - before : left + _TILE + radius]
            if window.min() == window.max():
                continue
            found = cv2.morphologyEx(window, cv2.MORPH_GRADIENT, kernel)
            part = band[top : top + _TILE, left : left + _TILE]
            part[:] = found[above : above + part.shape[0], before : before + part.shape[1]]
    return band

"""The connectivity error of alpha: whether what floats in the matte floats in the truth too."""

import cv2
import numpy as np

from matting.quality.error import THOUSAND, Mask, Plane, check_same_shape

_STEPS = 10
_TOLERATED = 0.15


def connectivity_error(alpha: Plane, truth: Plane, where: Mask | None = None) -> float:
    """Conn: sum of |phi(alpha) - phi(truth)| in thousands (Rhemann et al., CVPR 2009).

    The source region at a level is the largest 4-connected component of where both mattes reach it. A pixel's l is the
    highest of the levels 0, 0.1, …, 1 up to which it belongs to the source region without a break, 1 at most;
    d = alpha - l; phi = 1 - d where d is 0.15 or more, else 1. The step of 0.1 is that of the published evaluation
    code.

    Args:
        alpha: (H, W) the matte in question.
        truth: (H, W) what it should be.
        where: (H, W) the pixels that count; None for all.

    Returns:
        The sum, 0 or more.
    """
    check_same_shape(alpha, truth, where)
    level = _connected_level(np.minimum(alpha, truth))
    difference = np.abs(_phi(alpha, level) - _phi(truth, level))
    counted = difference if where is None else difference[where]
    return float(counted.sum(dtype=np.float64)) / THOUSAND


def _connected_level(common: Plane) -> Plane:
    """Up to which level each pixel is connected to the source region, (H, W) in [0, 1]."""
    level = np.zeros(common.shape, np.float32)
    connected = np.ones(common.shape, np.bool_)
    for step in range(1, _STEPS + 1):
        connected &= _largest_component(common >= np.float32(step / _STEPS))
        level[connected] = step / _STEPS
    return level


def _largest_component(region: Mask) -> Mask | np.bool_:
    count, labels, statistics, _ = cv2.connectedComponentsWithStats(region.view(np.uint8), connectivity=4)
    if count == 1:  # the background alone
        return np.bool_(False)
    return np.asarray(labels == 1 + int(np.argmax(statistics[1:, cv2.CC_STAT_AREA])), dtype=np.bool_)


def _phi(plane: Plane, level: Plane) -> Plane:
    distance = plane - level
    return 1 - np.where(distance >= _TOLERATED, distance, np.float32(0))

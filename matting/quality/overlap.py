"""How well the region of a matte covers the true one."""

import numpy as np
from numpy.typing import NDArray

from matting.quality.error import check_same_shape


def iou(alpha: NDArray[np.float32], truth: NDArray[np.float32], threshold: float = 0.5) -> float:
    """Intersection over union of the regions at or above the threshold, in [0, 1]; 1 where both are empty."""
    check_same_shape(alpha, truth)
    found, wanted = alpha >= threshold, truth >= threshold
    union = int(np.count_nonzero(found | wanted))
    return int(np.count_nonzero(found & wanted)) / union if union else 1.0

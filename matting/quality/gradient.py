"""The gradient error of alpha: whether strands and edges are as sharp as the true ones."""

import math

import cv2
import numpy as np

from matting.quality.error import THOUSAND, Mask, Plane, check_same_shape

_SIGMA = 1.4
_NEGLIGIBLE = 1e-2
_STRIP = 512


def gradient_error(alpha: Plane, truth: Plane, where: Mask | None = None) -> float:
    """Grad: sum of (|∇alpha| - |∇truth|)² in thousands, as Rhemann et al. (CVPR 2009) and alphamatting.com have it.

    The gradient is by first derivatives of a Gaussian of 1.4 pixels, cut where it is below 0.01, each kernel divided by
    its Euclidean norm; pixels beyond the image repeat its border.

    Args:
        alpha: (H, W) the matte in question.
        truth: (H, W) what it should be.
        where: (H, W) the pixels that count; None for all.

    Returns:
        The sum, 0 or more.
    """
    check_same_shape(alpha, truth, where)
    smooth, derivative = kernels()
    reach = len(smooth) // 2
    total = 0.0
    for top in range(0, truth.shape[0], _STRIP):  # so that 24 megapixels need a few rows' worth of planes
        above = min(top, reach)
        rows = slice(top - above, top + _STRIP + reach)
        found = _magnitude(alpha[rows], smooth, derivative) - _magnitude(truth[rows], smooth, derivative)
        inner = found[above : above + _STRIP]
        counted = inner if where is None else inner[where[top : top + _STRIP]]
        total += float(np.square(counted).sum(dtype=np.float64))
    return total / THOUSAND


def kernels() -> tuple[Plane, Plane]:
    """The smoothing and the differentiating kernel, 1-D, whose outer product has the norm 1."""
    reach = math.ceil(_SIGMA * math.sqrt(-2 * math.log(math.sqrt(2 * math.pi) * _SIGMA * _NEGLIGIBLE)))
    x = np.arange(-reach, reach + 1, dtype=np.float64)
    smooth = np.exp(-(x**2) / (2 * _SIGMA**2))
    derivative = x * smooth
    return (
        (smooth / np.linalg.norm(smooth)).astype(np.float32),
        (derivative / np.linalg.norm(derivative)).astype(np.float32),
    )


def _magnitude(plane: Plane, smooth: Plane, derivative: Plane) -> Plane:
    across = cv2.sepFilter2D(plane, cv2.CV_32F, derivative, smooth, borderType=cv2.BORDER_REPLICATE)
    down = cv2.sepFilter2D(plane, cv2.CV_32F, smooth, derivative, borderType=cv2.BORDER_REPLICATE)
    return np.asarray(cv2.magnitude(across, down), dtype=np.float32)

"""A matte becomes what people see: 8-bit mattes, cutouts, composites. Alpha is straight, never premultiplied.

Frugal on purpose: besides its result a function needs a few rows, or one 8-bit plane, however large the image is.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

_BLOCK_ROWS = 128


def to_uint8(alpha: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Quantise a matte by rounding to the nearest level, (H, W) float32 in [0, 1] to uint8.

    The official code truncates, which loses half a level on average and makes 0.999 less than opaque.
    """
    return np.asarray(cv2.convertScaleAbs(alpha, alpha=255.0), dtype=np.uint8).reshape(alpha.shape)


def to_uint16(alpha: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Quantise a matte by rounding to the nearest of 65,536 levels, (H, W) float32 in [0, 1] to uint16."""
    scaled = cv2.multiply(alpha, np.array([65535.0]), dtype=cv2.CV_16U)
    return np.asarray(scaled, dtype=np.uint16).reshape(alpha.shape)


def with_input_alpha(alpha: NDArray[np.float32], input_alpha: NDArray[np.uint8] | None) -> NDArray[np.float32]:
    """Multiply a matte by the transparency that the image came with.

    Args:
        alpha: (H, W) float32 in [0, 1].
        input_alpha: (H, W) uint8, or None where the image had no alpha.

    Returns:
        (H, W) float32 in [0, 1]; `alpha` itself where there is nothing to multiply.
    """
    if input_alpha is None:
        return alpha
    _check_same_size(alpha, input_alpha, "input alpha")
    product = cv2.multiply(alpha, input_alpha, scale=1.0 / 255.0, dtype=cv2.CV_32F)
    return np.asarray(product, dtype=np.float32).reshape(alpha.shape)


def cutout(rgb: NDArray[np.uint8], alpha: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Join colours and matte into RGBA with straight alpha.

    Args:
        rgb: (H, W, 3) uint8; colours are kept as they are, under transparent pixels too.
        alpha: (H, W) float32 in [0, 1].

    Returns:
        (H, W, 4) uint8.
    """
    return join(rgb, to_uint8(alpha))


def join(rgb: NDArray[np.uint8], alpha: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Colours (H, W, 3) and a matte of levels (H, W) as RGBA (H, W, 4), all uint8."""
    _check_same_size(alpha, rgb, "image")
    rgba = np.empty((*alpha.shape, 4), np.uint8)
    cv2.cvtColor(rgb, cv2.COLOR_RGB2RGBA, dst=rgba)
    rgba[..., 3] = alpha
    return rgba


def composite(
    rgb: NDArray[np.uint8], alpha: NDArray[np.float32], background: tuple[int, int, int]
) -> NDArray[np.uint8]:
    """Lay the subject over a plain colour, `alpha * rgb + (1 - alpha) * background` in sRGB.

    Args:
        rgb: (H, W, 3) uint8.
        alpha: (H, W) float32 in [0, 1].
        background: RGB, 0 to 255 each.

    Returns:
        (H, W, 3) uint8.
    """
    _check_same_size(alpha, rgb, "image")
    height, width = alpha.shape
    result = np.empty((height, width, 3), np.uint8)
    plain = np.empty((min(height, _BLOCK_ROWS), width, 3), np.uint8)
    plain[:] = background
    for top in range(0, height, _BLOCK_ROWS):
        rows = slice(top, min(top + _BLOCK_ROWS, height))
        weight = alpha[rows]
        blended = cv2.blendLinear(rgb[rows], plain[: len(weight)], weight, 1.0 - weight)
        result[rows] = blended
    return result


def _check_same_size(alpha: NDArray[np.float32] | NDArray[np.uint8], other: NDArray[np.uint8], name: str) -> None:
    if other.shape[:2] != alpha.shape:
        raise ValueError(f"expected an {name} of the matte's size {alpha.shape}, found {other.shape[:2]}")

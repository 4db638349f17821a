"""From the image to the working size and back.

Both directions use half-pixel centres, so that the matte comes back exactly where the image went. (The official
`inference.py` restores with aligned corners, which moves the border by up to half a working pixel.)
"""

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from matting.pictures import from_array, to_array


def fit(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Squash an image to the working size, as BiRefNet's published preprocessing does.

    Pillow's bilinear filter, antialiased when it shrinks; the aspect ratio is not kept, because training never saw
    padding. torchvision's `Resize` on a PIL image is this very function.

    Args:
        image: (H, W, 3) uint8 RGB.
        size: (height, width) of the working size.

    Returns:
        (height, width, 3) uint8 RGB, contiguous; the input itself when it has that size already.
    """
    if image.shape[:2] == size:
        return np.ascontiguousarray(image)
    return fit_picture(from_array(image), size)


def fit_picture(picture: Image.Image, size: tuple[int, int]) -> NDArray[np.uint8]:
    """As `fit`, of what Pillow has decoded: to the bit what it gives for the same pixels as an array.

    Args:
        picture: Of mode RGB.
        size: (height, width) of the working size.

    Returns:
        (height, width, 3) uint8 RGB, contiguous.
    """
    height, width = size
    return to_array(picture.resize((width, height), Image.Resampling.BILINEAR))


def restore(alpha: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """Bring a matte from the working size to the image size.

    Bilinear where an axis grows: it cannot leave [0, 1] (bicubic and Lanczos overshoot by a quarter at a step, which
    clipping turns into halos) and it is the fastest. Area mean where an axis shrinks, so that strands fade instead of
    vanishing between samples. Float in and out: at 12 Mpixel the 8-bit path would save about 10 ms and cost the
    16-bit outputs and the smooth ramps.

    Args:
        alpha: (h, w) float32 in [0, 1].
        size: (height, width) of the image.

    Returns:
        (height, width) float32 in [0, 1]; the input itself when it has that size already.
    """
    height, width = size
    if alpha.shape == size:
        return alpha
    smaller = (min(height, alpha.shape[0]), min(width, alpha.shape[1]))
    restored = _resized(_resized(alpha, smaller, cv2.INTER_AREA), size, cv2.INTER_LINEAR)
    return np.clip(restored, 0.0, 1.0, out=restored)  # an area mean of ones may round to 1 + 1e-7


def _resized(alpha: NDArray[np.float32], size: tuple[int, int], interpolation: int) -> NDArray[np.float32]:
    if alpha.shape == size:
        return alpha
    return np.asarray(cv2.resize(alpha, (size[1], size[0]), interpolation=interpolation), dtype=np.float32)

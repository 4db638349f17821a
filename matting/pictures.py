"""Pillow's images and numpy's arrays of the same pixels.

Pillow's own ways between the two hold the interpreter's lock while they copy, some 20 ms for 12 megapixels, during
which no event loop answers anybody. These let it go.
"""

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, _imaging

Pixels = NDArray[np.uint8]

_STRIP_ROWS = 64  # at a time, of what Pillow stores as four bytes a pixel


def share(memory: Pixels, mode: str = "RGB") -> Image.Image:
    """An image whose pixels are an array: what is written to the one is read from the other.

    Args:
        memory: (h, w, 4) uint8, contiguous, as Pillow stores its modes of three and four bands; in RGB the last channel
            means nothing. (h, w) for L.
        mode: RGB, RGBA or L.
    """
    height, width = memory.shape[:2]
    core = _imaging.map_buffer(memory, (width, height), "raw", 0, (mode, 0, 1))
    return Image.new(mode, (0, 0))._new(core)  # one of that size would clear memory that it never uses


def to_array(image: Image.Image) -> Pixels:
    """Copy the pixels of an image: (h, w, 3) uint8 of RGB, (h, w) uint8 of L."""
    width, height = image.size
    if image.mode == "L":
        plane = np.empty((height, width), np.uint8)
        share(plane, "L").im.paste(image.im, (0, 0, width, height))
        return plane
    if image.mode != "RGB":
        raise ValueError(f"expected an image of mode RGB or L, found {image.mode}")
    pixels = np.empty((height, width, 3), np.uint8)
    rows = np.empty((min(_STRIP_ROWS, height), width, 4), np.uint8)
    strip = share(rows)
    for top in range(0, height, _STRIP_ROWS):
        bottom = min(top + _STRIP_ROWS, height)
        strip.im.paste(image.im, (0, -top, width, height - top))  # what lies outside of the strip is left out
        cv2.cvtColor(rows[: bottom - top], cv2.COLOR_RGBA2RGB, dst=pixels[top:bottom])
    return pixels


def from_array(pixels: Pixels) -> Image.Image:
    """An RGB image of (h, w, 3) uint8 pixels, copied."""
    memory = np.empty((*pixels.shape[:2], 4), np.uint8)
    cv2.cvtColor(pixels, cv2.COLOR_RGB2RGBA, dst=memory)
    return share(memory)

"""The tiles that refiners are compared on. Without torch.

What proves matte models proves refiners too: the mask and the frame of a tile are made of its image, so that a refiner
is, like them, a function from images to alpha.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

CANVAS = (4000.0, 6000.0)
"""Of the frames of the proof, in pixels: global positions need all digits of float32 there."""

_REDUCTION = 4
_STEPNESS = 12.0


def tile_inputs(images: NDArray[np.uint8], answer: int) -> dict[str, NDArray[np.generic]]:
    """Image, mask and frame of tiles.

    The mask is a soft threshold of the brightness, reduced to a quarter and upsampled: it has zeros, ones and all
    between. The tile lies in its canvas where the brightness says, and so does the window in the tile, both at
    multiples of 8: black and white have it in corners.

    Args:
        images: (B, T, T, 3) uint8.
        answer: Side of the window that is answered.
    """
    side = images.shape[1]
    grey = images.mean(axis=3, dtype=np.float64) / 255
    masks, frames = [], []
    for plane in grey:
        small = cv2.resize(plane, (side // _REDUCTION, side // _REDUCTION), interpolation=cv2.INTER_AREA)
        soft = np.clip((small - plane.mean()) * _STEPNESS + 0.5, 0, 1)
        masks.append(cv2.resize(soft, (side, side), interpolation=cv2.INTER_LINEAR))
        bright = plane.mean()
        origin = [_at(bright, length - side) for length in CANVAS]
        frames.append([*origin, *CANVAS, _at(bright, side - answer), _at(1 - bright, side - answer)])
    return {
        "image": images,
        "mask": np.clip(np.stack(masks), 0, 1).astype(np.float32),
        "frame": np.array(frames, np.float32),
    }


def _at(share: float, room: float) -> float:
    return share * room // 8 * 8

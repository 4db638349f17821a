"""Bilinear sampling by windows and strips, on half-pixel centres: every window of a frame is what the whole would be.

OpenCV's resize knows whole frames only; the windows here are sampled at the frame's own coordinates, so that neither a
tile nor a strip shows in the result.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from matting.refinement.port import Size

STRIP_ROWS = 128


def window(
    source: NDArray[np.float32] | NDArray[np.uint8],
    scale: tuple[float, float],
    rows: slice,
    columns: slice,
    origin: tuple[float, float] = (0.0, 0.0),
) -> NDArray[np.float32]:
    """A window of the bilinear enlargement of a plane, its border repeated.

    Args:
        source: (h, w), float32 or uint8.
        scale: Pixels of the source per pixel of the frame, by axis.
        rows: Of the frame, with start and stop.
        columns: Likewise.
        origin: Where the plane's corner lies in the frame, in pixels of the frame.

    Returns:
        float32 of the window's size, on the scale of the source.
    """
    top, bottom, down = _taps(source.shape[0], scale[0], rows, origin[0])
    left, right, across = _taps(source.shape[1], scale[1], columns, origin[1])
    first, last = left[0], right[-1] + 1
    patch = source[:, first:last]
    tall = _mixed(
        patch[top].astype(np.float32, copy=False), patch[bottom].astype(np.float32, copy=False), down[:, None]
    )
    return _mixed(tall[:, left - first], tall[:, right - first], across)


def strip(source: NDArray[np.float32] | NDArray[np.uint8], size: Size, rows: slice) -> NDArray[np.float32]:
    """Whole rows of the bilinear resampling of a plane to a frame of a size; as `window`, and faster."""
    top, bottom, down = _taps(source.shape[0], source.shape[0] / size[0], rows)
    upper, lower = source[top].astype(np.float32, copy=False), source[bottom].astype(np.float32, copy=False)
    tall = _mixed(upper, lower, down[:, None])
    if source.shape[1] == size[1]:
        return tall
    wide = cv2.resize(tall, (size[1], len(tall)), interpolation=cv2.INTER_LINEAR)
    return np.asarray(wide, np.float32).reshape(len(tall), size[1])


def strips(height: int) -> list[slice]:
    """The rows of a frame, a strip at a time."""
    return [slice(top, min(top + STRIP_ROWS, height)) for top in range(0, height, STRIP_ROWS)]


def support(length: int, scale: float, span: slice) -> slice:
    """Pixels of a source axis that a span of the frame is made of."""
    before, after, _ = _taps(length, scale, slice(span.start, span.start + 1))
    _, last, _ = _taps(length, scale, slice(span.stop - 1, span.stop))
    return slice(int(min(before[0], after[0])), int(last[0]) + 1)


def _mixed(first: NDArray[np.float32], second: NDArray[np.float32], weight: NDArray[np.float32]) -> NDArray[np.float32]:
    # In this form equal neighbours give themselves, to the bit.
    return np.asarray(first + (second - first) * weight, np.float32)


def _taps(
    length: int, scale: float, span: slice, origin: float = 0.0
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    """Both neighbours of every position of a span, and the weight of the second."""
    position = (np.arange(span.start, span.stop, dtype=np.float64) + (0.5 - origin)) * scale - 0.5
    position = np.clip(position, 0.0, length - 1.0)
    before = np.floor(position).astype(np.intp)
    return before, np.minimum(before + 1, length - 1), (position - before).astype(np.float32)

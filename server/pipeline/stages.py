"""What happens to pixels on the host, before the network and after it.

Rules of this module: plain functions that run in a thread of the pool; whatever is not needed any more is let go of as
early as possible, because these few arrays are most of the memory of the process.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from matting.composition import composite, cutout, join, to_uint8, to_uint16, with_input_alpha
from matting.foreground import estimate_foreground
from matting.geometry import restore
from matting.trimap import trimap
from server.backends.base import Finish, Finished
from server.pipeline.decode import Metadata, decode
from server.pipeline.distant import DistantImage
from server.pipeline.encode import Compression, Pixels, encode
from server.pipeline.header import ImageHeader
from server.pipeline.request import Foreground, Output, OutputFormat, SegmentOptions

Alpha = NDArray[np.float32] | NDArray[np.uint8]

COLOURLESS = (Output.MATTE, Output.TRIMAP)
"""Outputs that need none of the image's colours."""

_SCALED_DECODE_FACTOR = 2
"""A reduced decode must still be this many times the working size; see `tests/parity/test_scaled_decode.py`."""


@dataclass(slots=True)
class Prepared:
    """An image, ready for the network, and what its answer will need.

    Attributes:
        canvas: (h, w, 3) uint8 RGB at the working size.
        rgb: (H, W, 3) uint8 at image size; None where the answer needs no colours.
        alpha: (H, W) uint8 that the image came with, or None.
        size: (H, W) of the image, upright.
        metadata: For the answer.
        finished: Whether `rgb` holds the estimated colours already.
        distant: The image, where another process holds it; then there is a canvas here, and nothing else.
    """

    canvas: NDArray[np.uint8]
    rgb: NDArray[np.uint8] | None
    alpha: NDArray[np.uint8] | None
    size: tuple[int, int]
    metadata: Metadata
    finished: bool = False
    distant: DistantImage | None = None


def prepare(
    data: bytes | DistantImage,
    header: ImageHeader,
    working_size: tuple[int, int],
    *,
    colours: bool,
    scaled_decode: bool,
) -> Prepared:
    """Decode an upload and squash it to the working size.

    Args:
        data: The encoded image.
        header: Of it.
        working_size: (height, width) that the network sees.
        colours: Whether the image itself is needed after the network has seen it.
        scaled_decode: Decode large JPEGs at a reduced scale where it is not.

    Raises:
        CorruptImageError: The image is truncated or damaged.
        NotAnImageError: Its samples are of a kind that is not read here.
    """
    if not isinstance(data, bytes):
        canvas, size = data.prepare(working_size, colours=colours)
        return Prepared(canvas, None, None, size, Metadata(), distant=data)
    height, width = (side * _SCALED_DECODE_FACTOR for side in working_size)
    at_least = (height, width) if scaled_decode and not colours else None
    decoded = decode(data, header, at_least)
    canvas = decoded.squash(working_size)
    rgb = decoded.rgb if colours else None
    return Prepared(canvas, rgb, decoded.alpha, decoded.size, decoded.metadata)


def to_finish(prepared: Prepared, alpha: NDArray[np.float32], options: SegmentOptions) -> Finish | None:
    """What a device could do for an answer; None where nothing is left to do.

    Where the image is smaller than what the network saw, or the matte has its size already, only colours are worth a
    way there and back.
    """
    colours = options.output not in COLOURLESS and options.foreground is Foreground.ESTIMATE
    rgb = prepared.rgb if colours else None
    grows = prepared.size[0] * prepared.size[1] > alpha.size
    if rgb is None and not grows:
        return None
    plain = options.output is Output.CUTOUT or (options.output is Output.MATTE and options.depth == 8)
    deep = not plain or (options.format is OutputFormat.NPY and options.output is Output.MATTE)
    return Finish(alpha, prepared.size, rgb, prepared.alpha, deep)


def take_finished(prepared: Prepared, finished: Finished) -> Alpha:
    """What `answer` is to be given instead; `prepared` keeps the colours."""
    prepared.alpha = None
    prepared.finished = finished.rgb is not None
    if finished.rgb is not None:
        prepared.rgb = finished.rgb
    return finished.alpha


def answer(prepared: Prepared, alpha: Alpha | None, options: SegmentOptions, compression: Compression) -> bytes:
    """Make the answer: restore, compose, encode. `prepared` gives its pixels away.

    Args:
        prepared: As `prepare` made it.
        alpha: (h, w) float32 in [0, 1]: the network's answer, or what was refined to image size; or as `take_finished`
            gives it; None where another process holds what was refined.
        options: What the client wants.
        compression: How hard to try.
    """
    if prepared.distant is not None:
        prepared.distant.answer(None if alpha is None else alpha.astype(np.float32, copy=False))
        return b""
    if alpha is None:
        raise ValueError("This is a bug: there is no matte to answer with")
    return encode(_compose(prepared, alpha, options), options.format, prepared.metadata, compression)


def _compose(prepared: Prepared, alpha: Alpha, options: SegmentOptions) -> Pixels:
    if alpha.dtype == np.uint8:
        return _compose_levels(prepared, alpha.astype(np.uint8, copy=False))
    alpha = with_input_alpha(restore(alpha.astype(np.float32, copy=False), prepared.size), prepared.alpha)
    rgb, prepared.rgb, prepared.alpha = prepared.rgb, None, None
    if rgb is None or options.output in COLOURLESS:
        del rgb
        return _plane(alpha, options)
    estimate = options.foreground is Foreground.ESTIMATE and not prepared.finished
    if options.output is Output.CUTOUT:
        rgba = cutout(rgb, alpha)
        del alpha
        if estimate:
            estimate_foreground(rgb, rgba[..., 3], rgba[..., :3])
        return rgba
    colours = estimate_foreground(rgb, to_uint8(alpha)) if estimate else rgb
    del rgb
    return composite(colours, alpha, options.background)


def _compose_levels(prepared: Prepared, alpha: NDArray[np.uint8]) -> Pixels:
    """A matte, or a cutout, of which everything but joining its two halves was done on the device."""
    rgb, prepared.rgb = prepared.rgb, None
    return alpha if rgb is None else join(rgb, alpha)


def _plane(alpha: NDArray[np.float32], options: SegmentOptions) -> Pixels:
    """An answer without colours."""
    if options.output is Output.TRIMAP:
        return trimap(alpha)
    if options.format is OutputFormat.NPY:
        return alpha
    return to_uint16(alpha) if options.depth == 16 else to_uint8(alpha)

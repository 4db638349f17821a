"""Encoded bytes become pixels: first frame, EXIF orientation applied, 8-bit RGB and alpha."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, JpegImagePlugin, PngImagePlugin

from server.errors import CorruptImageError
from server.pipeline.colour import to_rgb
from server.pipeline.header import DECODER_FAILURES, ImageHeader, open_image

Pixels = NDArray[np.uint8]

_STRIP_ROWS = 64
_ORIENTATION, _X_RESOLUTION, _Y_RESOLUTION, _RESOLUTION_UNIT = 0x0112, 0x011A, 0x011B, 0x0128
_CENTIMETRE = 3
_INCH_IN_CM = 2.54
_MAX_DPI = 65535

_UPRIGHT: dict[int, Callable[[Pixels], object]] = {
    2: lambda pixels: cv2.flip(pixels, 1),
    3: lambda pixels: cv2.rotate(pixels, cv2.ROTATE_180),
    4: lambda pixels: cv2.flip(pixels, 0),
    5: lambda pixels: cv2.transpose(pixels),
    6: lambda pixels: cv2.rotate(pixels, cv2.ROTATE_90_CLOCKWISE),
    7: lambda pixels: cv2.rotate(cv2.transpose(pixels), cv2.ROTATE_180),
    8: lambda pixels: cv2.rotate(pixels, cv2.ROTATE_90_COUNTERCLOCKWISE),
}
"""By EXIF orientation: what turns the stored pixels upright (EXIF 3.0, tag 0x0112)."""

_TURNED = (5, 6, 7, 8)
"""Orientations that exchange width and height."""


@dataclass(frozen=True, slots=True)
class Metadata:
    """What the answer inherits from the upload besides pixels.

    Attributes:
        icc_profile: Of the RGB pixels; None means sRGB.
        dpi: Horizontal and vertical pixels per inch, of the upright image; None where the file does not say.
    """

    icc_profile: bytes | None = None
    dpi: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """An upload, upright.

    Attributes:
        rgb: (h, w, 3) uint8; of `size`, unless the image was decoded at a reduced scale.
        alpha: (h, w) uint8 of the same pixels, or None where the file has no transparency.
        size: (height, width) of the whole image.
        metadata: Colour profile and resolution.
        format: Pillow's name of the format that it came in.
    """

    rgb: Pixels
    alpha: Pixels | None
    size: tuple[int, int]
    metadata: Metadata
    format: str


def decode(data: bytes, header: ImageHeader, at_least: tuple[int, int] | None = None) -> DecodedImage:
    """Decode the first frame of an upload that `read_header` let through.

    Needs about 7 bytes per pixel while it runs and returns 3, or 4 with alpha.

    Args:
        data: The encoded file.
        header: What `read_header` said of it.
        at_least: (height, width) of the upright image that is enough: a JPEG whose half, quarter or eighth is still
            that large is decoded at that scale, straight from its frequencies. `tests/parity/test_scaled_decode.py`
            says by how much its colours then differ.

    Raises:
        CorruptImageError: The file is truncated or damaged.
        NotAnImageError: Its samples are of a kind that is not read here.
    """
    rgb, alpha, orientation, metadata = _decode(data, header, at_least)
    rgb = _upright(rgb, orientation)
    alpha = None if alpha is None else _upright(alpha, orientation)
    # A TIFF is turned by Pillow itself, in its header already, and its orientation then reads as 1.
    height, width = header.size
    size = (width, height) if orientation in _TURNED else (height, width)
    return DecodedImage(rgb, alpha, size, metadata, header.format)


def _decode(
    data: bytes, header: ImageHeader, at_least: tuple[int, int] | None
) -> tuple[Pixels, Pixels | None, int, Metadata]:
    """As `decode`, but as stored. Pillow's copy of the pixels is gone when this returns."""
    with open_image(data, header.format) as image:
        orientation, dpi = _load(image, header, at_least)
        colours = to_rgb(image)
    alpha = None if colours.alpha is None else _array(colours.alpha, 1)[..., 0]
    if dpi is not None and orientation in _TURNED:
        dpi = (dpi[1], dpi[0])
    return _array(colours.rgb, 3), alpha, orientation, Metadata(colours.icc_profile, dpi)


def _load(
    image: ImageFile.ImageFile, header: ImageHeader, at_least: tuple[int, int] | None
) -> tuple[int, tuple[float, float] | None]:
    """Decode the pixels in place; give the orientation that is left to apply, and the resolution."""
    height, width = header.size
    _check_size(image, (width, height))  # a second header may say otherwise, and the limits held for the first
    try:
        if at_least is not None and isinstance(image, JpegImagePlugin.JpegImageFile):
            _reduce(image, at_least)
        if isinstance(image, PngImagePlugin.PngImageFile):
            image.info["stored_as"] = image.tile[0].args if image.tile else None
        else:
            _exif(image)  # before loading, which lets go of the file; a PNG's may come after its pixels
        expected = image.size  # smaller, if it is decoded at a reduced scale
        image.load()
    except DECODER_FAILURES as error:
        raise CorruptImageError(
            f"expected a whole {header.format} image of {header.size[1]}×{header.size[0]} pixels, "
            f"found one that is truncated or damaged ({error})"
        ) from error
    _check_size(image, expected)
    exif = _exif(image)
    orientation = exif.get(_ORIENTATION, 1)
    return (orientation if orientation in _UPRIGHT else 1), _dpi(image, exif)


def _check_size(image: Image.Image, expected: tuple[int, int]) -> None:
    if image.size != expected:
        raise CorruptImageError(
            f"expected an image of {expected[0]}×{expected[1]} pixels, as its header says, "
            f"found a second header that says {image.width}×{image.height}"
        )


def _reduce(image: JpegImagePlugin.JpegImageFile, at_least: tuple[int, int]) -> None:
    """Have a JPEG decoded at the smallest scale that is large enough and divides its sides.

    Other scales round the size up with pixels that do not exist, which would shift the picture by up to half of one.
    """
    height, width = at_least
    if _exif(image).get(_ORIENTATION, 1) in _TURNED:
        height, width = width, height
    for scale in (8, 4, 2):
        reduced = (image.width // scale, image.height // scale)
        if image.width % scale == image.height % scale == 0 and reduced[0] >= width and reduced[1] >= height:
            image.draft(None, reduced)
            return


def _exif(image: Image.Image) -> Image.Exif:
    try:
        return image.getexif()
    except DECODER_FAILURES:
        return Image.Exif()  # damaged metadata is no reason to refuse good pixels


def _dpi(image: Image.Image, exif: Image.Exif) -> tuple[float, float] | None:
    """Resolution as the file states it; Pillow invents 72 and 1 for files that do not say."""
    stated = image.info.get("dpi")
    if image.format in ("PNG", "BMP") or image.info.get("jfif_unit") in (1, 2):
        return _sane(stated) if stated else None
    try:
        unit = _INCH_IN_CM if exif.get(_RESOLUTION_UNIT) == _CENTIMETRE else 1.0
        horizontal = float(exif[_X_RESOLUTION])
        vertical = float(exif.get(_Y_RESOLUTION, horizontal))
        return _sane((horizontal * unit, vertical * unit))
    except DECODER_FAILURES:
        return None


def _sane(dpi: tuple[float, float]) -> tuple[float, float] | None:
    horizontal, vertical = float(dpi[0]), float(dpi[1])
    if all(math.isfinite(value) and 1.0 < value <= _MAX_DPI for value in (horizontal, vertical)):
        return horizontal, vertical
    return None


def _array(image: Image.Image, channels: int) -> Pixels:
    """Copy a Pillow image strip by strip: numpy's own conversion needs twice the picture on the way."""
    width, height = image.size
    pixels = np.empty((height, width, channels), np.uint8)
    for top in range(0, height, _STRIP_ROWS):
        bottom = min(top + _STRIP_ROWS, height)
        strip = np.asarray(image.crop((0, top, width, bottom)))
        pixels[top:bottom] = strip.reshape(bottom - top, width, channels)
    return pixels


def _upright(pixels: Pixels, orientation: int) -> Pixels:
    turn = _UPRIGHT.get(orientation)
    return pixels if turn is None else np.asarray(turn(pixels), dtype=np.uint8)

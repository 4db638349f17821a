"""Encoded bytes become pixels: first frame, EXIF orientation applied, 8-bit RGB and alpha."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from PIL import Image, ImageFile, JpegImagePlugin, PngImagePlugin, TiffImagePlugin

from matting.geometry import fit, fit_picture
from matting.pictures import Pixels, share, to_array
from server.errors import CorruptImageError
from server.pipeline.colour import to_rgb
from server.pipeline.header import DECODER_FAILURES, ImageHeader, open_image

_LENT = ("RGB", "RGBA")  # modes that are decoded into memory of ours
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


class DecodedImage:
    """An upload, upright. Its colours stay as Pillow stores them, in 4 bytes per pixel, until they are asked for.

    Attributes:
        alpha: (h, w) uint8 of the same pixels as `rgb`, or None where the file has no transparency.
        size: (height, width) of the whole image, upright.
        metadata: Colour profile and resolution.
    """

    def __init__(
        self, stored: Image.Image, orientation: int, alpha: Pixels | None, size: tuple[int, int], metadata: Metadata
    ) -> None:
        """Keep `stored`, an RGB image that is still to be turned by its orientation; the rest is as above."""
        self._stored: Image.Image | None = stored
        self._orientation = orientation
        self.alpha = alpha
        self.size = size
        self.metadata = metadata

    @cached_property
    def rgb(self) -> Pixels:
        """(h, w, 3) uint8; of `size`, unless the image was decoded at a reduced scale.

        While it is made there are 7 bytes per pixel, and 3 from then on.
        """
        stored, self._stored = self._stored, None
        if stored is None:
            raise RuntimeError("This is a bug: the pixels of an image are gone, and its colours were not kept")
        pixels = to_array(stored)
        del stored
        return _upright(pixels, self._orientation)

    def squash(self, size: tuple[int, int]) -> Pixels:
        """As `fit(image.rgb, size)`, without making `rgb` where the image is stored upright."""
        # No name for what is stored, here: `rgb` lets go of it.
        if self._stored is None or self._orientation in _UPRIGHT or self._stored.size == (size[1], size[0]):
            return fit(self.rgb, size)
        return fit_picture(self._stored, size)


def decode(data: bytes, header: ImageHeader, at_least: tuple[int, int] | None = None) -> DecodedImage:
    """Decode the first frame of an upload that `read_header` let through.

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
    with open_image(data, header.format) as image:
        orientation, dpi, memory = _load(image, header, at_least)
        colours = to_rgb(image, memory)
    # A TIFF is turned by Pillow itself, in its header already, and its orientation then reads as 1.
    height, width = header.size
    if orientation in _TURNED:
        height, width = width, height
        dpi = None if dpi is None else (dpi[1], dpi[0])
    alpha = None if colours.alpha is None else _upright(colours.alpha, orientation)
    return DecodedImage(colours.rgb, orientation, alpha, (height, width), Metadata(colours.icc_profile, dpi))


def _load(
    image: ImageFile.ImageFile, header: ImageHeader, at_least: tuple[int, int] | None
) -> tuple[int, tuple[float, float] | None, Pixels | None]:
    """Decode the pixels in place.

    Returns:
        The orientation that is left to apply, the resolution, and the memory that they were decoded into if it is ours.
    """
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
        memory, lent = _lend(image)
        image.load()
    except DECODER_FAILURES as error:
        raise CorruptImageError(
            f"expected a whole {header.format} image of {header.size[1]}×{header.size[0]} pixels, "
            f"found one that is truncated or damaged ({error})"
        ) from error
    _check_size(image, expected)
    if memory is not None and image.im is not lent:
        memory = None  # the decoder has put something else in its place
    exif = _exif(image)
    orientation = exif.get(_ORIENTATION, 1)
    return (orientation if orientation in _UPRIGHT else 1), _dpi(image, exif), memory


def _lend(image: ImageFile.ImageFile) -> tuple[Pixels | None, object]:
    """Have an image decoded into an array, which the kernel gives and takes back in larger pages than Pillow's memory.

    Decoding is quicker, and so is letting go, during which the interpreter's lock is held. Zeros matter as they do to
    Pillow: a decoder need not reach every pixel, and what was there before is somebody's.

    Returns:
        (h, w, 4) uint8 and what stands for it in the image, or None and None where the decoder wants its own.
    """
    # Without tiles an image is damaged, or says only when it is loaded how; and a TIFF's memory is that of its tiles.
    if image.mode not in _LENT or not image.tile or isinstance(image, TiffImagePlugin.TiffImageFile):
        return None, None
    memory = np.zeros((image.height, image.width, 4), np.uint8)
    image.im = share(memory, image.mode).im
    return memory, image.im


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


def _upright(pixels: Pixels, orientation: int) -> Pixels:
    turn = _UPRIGHT.get(orientation)
    return pixels if turn is None else np.asarray(turn(pixels), dtype=np.uint8)

"""Pixels become the bytes of the answer, with the upload's colour profile and resolution."""

import io
import os
import sys
import zipfile
from contextlib import suppress
from dataclasses import dataclass
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from matting.pictures import from_array, share
from server.errors import InvalidOptionError
from server.pipeline.decode import Metadata
from server.pipeline.png import encode_png
from server.pipeline.request import Output, OutputFormat

Pixels = NDArray[np.uint8] | NDArray[np.uint16] | NDArray[np.float32]

MEDIA_TYPES = {
    OutputFormat.PNG: "image/png",
    OutputFormat.WEBP: "image/webp",
    OutputFormat.JPEG: "image/jpeg",
    OutputFormat.ZIP: "application/zip",
    OutputFormat.TIFF: "image/tiff",
    OutputFormat.NPY: "application/x-npy",
}

ZIP_COLOUR, ZIP_ALPHA = "color.jpg", "alpha.png"
"""The files of a cutout as ZIP, by the names that remove.bg gave them."""

_LONGEST_SIDE = {
    OutputFormat.PNG: 1_000_000,
    OutputFormat.WEBP: 16_383,
    OutputFormat.JPEG: 65_500,
    OutputFormat.ZIP: 65_500,
    OutputFormat.TIFF: 1_000_000,
    OutputFormat.NPY: 1_000_000,
}
DEEP = (OutputFormat.PNG, OutputFormat.TIFF)
"""Formats that carry mattes of 16 bits."""

_ZIP_DATE = (1980, 1, 1, 0, 0, 0)  # the first that there is: equal answers are equal bytes
_UNIX, _READABLE = 3, 0o644 << 16
_X_RESOLUTION, _Y_RESOLUTION, _RESOLUTION_UNIT, _INCH = 0x011A, 0x011B, 0x0128, 2


@dataclass(frozen=True, slots=True)
class Compression:
    """How hard the encoders try; speed against bytes.

    Attributes:
        png_level: 0 to 9.
        jpeg_quality: 1 to 95.
        webp_quality: Of colours, 1 to 100. Mattes and the alpha of cutouts are lossless.
    """

    png_level: int = 1
    jpeg_quality: int = 92
    webp_quality: int = 90


_FORMATS = {
    Output.MATTE: (
        OutputFormat.PNG,
        OutputFormat.WEBP,
        OutputFormat.JPEG,
        OutputFormat.TIFF,
        OutputFormat.NPY,
    ),
    Output.CUTOUT: (OutputFormat.PNG, OutputFormat.WEBP, OutputFormat.ZIP, OutputFormat.TIFF, OutputFormat.NPY),
    Output.COMPOSITE: (
        OutputFormat.PNG,
        OutputFormat.WEBP,
        OutputFormat.JPEG,
        OutputFormat.TIFF,
        OutputFormat.NPY,
    ),
    Output.TRIMAP: (OutputFormat.PNG, OutputFormat.WEBP, OutputFormat.TIFF, OutputFormat.NPY),
}


def formats_of(output: Output, depth: int = 8) -> tuple[OutputFormat, ...]:
    """The formats that can carry an output, the preferred one first."""
    possible = _FORMATS[output]
    if depth == 8:
        return possible
    return tuple(name for name in possible if name in DEEP) if output is Output.MATTE else ()


def check_combination(output: Output, file_format: OutputFormat, depth: int = 8) -> None:
    """Refuse an output in a format that cannot carry it.

    Raises:
        InvalidOptionError: It names the formats that can.
    """
    possible = formats_of(output)
    if file_format not in possible:
        names = " or ".join(f"format={name}" for name in possible)
        raise InvalidOptionError(
            f"expected {names} for output={output}, found format={file_format}: {_reason(output, file_format)}"
        )
    if depth == 16 and (output is not Output.MATTE or file_format not in DEEP):
        names = " or ".join(f"format={name}" for name in DEEP)
        raise InvalidOptionError(
            f"depth=16: expected output=matte and {names}, found output={output} and format={file_format}"
        )


def _reason(output: Output, file_format: OutputFormat) -> str:
    if file_format is OutputFormat.ZIP:
        return "a ZIP holds the two halves of a cutout"
    return "it would blur the three values" if output is Output.TRIMAP else "it has no alpha"


def check_size(size: tuple[int, int], file_format: OutputFormat, output: Output = Output.MATTE) -> None:
    """Refuse an image that the format of the answer is too small for; known from the upload's header.

    Raises:
        InvalidOptionError: It names the limit and the formats that hold the image.
    """
    if max(size) > _LONGEST_SIDE[file_format]:
        possible = " or ".join(f"format={name}" for name in formats_of(output) if _LONGEST_SIDE[name] >= max(size))
        raise InvalidOptionError(
            f"expected sides of at most {_LONGEST_SIDE[file_format]} pixels for format={file_format}, "
            f"found {size[1]}×{size[0]}: use {possible}"
        )


def encode(pixels: Pixels, file_format: OutputFormat, metadata: Metadata, compression: Compression) -> bytes:
    """Encode an answer.

    Args:
        pixels: uint8; a matte or trimap (H, W), a composite (H, W, 3) or a cutout (H, W, 4). A matte also as uint16 for
            `DEEP` formats, and float32 for npy.
        file_format: One of `formats_of` the output.
        metadata: Of the upload. A matte gets its resolution but not its profile: alpha is no colour, and an RGB
            profile on a grey image is an error that decoders complain about.
        compression: Speed against bytes.
    """
    profile = None if pixels.ndim == 2 else metadata.icc_profile
    if file_format is OutputFormat.NPY:
        return _encode_npy(pixels)
    if file_format is OutputFormat.TIFF:
        return _encode_tiff(pixels, profile, metadata.dpi)
    if file_format is OutputFormat.PNG:
        return encode_png(pixels, compression.png_level, profile, metadata.dpi)
    if file_format is OutputFormat.ZIP:
        return _encode_zip(pixels, metadata, compression)
    if file_format is OutputFormat.JPEG:
        levels = np.asarray(pixels, dtype=np.uint8)
        picture = from_array(levels) if levels.ndim == 3 else Image.fromarray(levels)
        return _encode_jpeg(picture, profile, metadata.dpi, compression)
    buffer = io.BytesIO()
    # The knees: method 1 takes a fifth off the bytes of colours, but up to three times as long for a matte.
    how = {"lossless": True, "quality": 0, "method": 0} if pixels.ndim == 2 else {"method": 1}
    settings = {"quality": compression.webp_quality, **how}
    image = Image.fromarray(pixels)
    image.save(buffer, "WEBP", icc_profile=profile, exif=_resolution_exif(metadata.dpi), **settings)
    return buffer.getvalue()


def _encode_jpeg(
    picture: Image.Image, profile: bytes | None, dpi: tuple[float, float] | None, compression: Compression
) -> bytes:
    whole = tuple(round(value) for value in dpi or (0, 0))
    with _open_scratch() as file:
        picture.save(file, "JPEG", quality=compression.jpeg_quality, icc_profile=profile, dpi=whole)
        file.seek(0)
        return file.read()


def _open_scratch() -> IO[bytes]:
    """Memory to write to, with a file descriptor if possible: then Pillow encodes without the interpreter's lock."""
    if sys.platform == "linux":
        with suppress(OSError):  # a sandbox may forbid it
            return os.fdopen(os.memfd_create("birefnet-answer"), "w+b", buffering=0)
    return io.BytesIO()


def _encode_tiff(pixels: Pixels, profile: bytes | None, dpi: tuple[float, float] | None) -> bytes:
    buffer = io.BytesIO()
    # LZW without prediction: twice as fast as deflate, which libtiff runs at level 6.
    Image.fromarray(pixels).save(buffer, "TIFF", compression="tiff_lzw", icc_profile=profile, dpi=dpi)
    return buffer.getvalue()


def _encode_npy(pixels: Pixels) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, pixels, allow_pickle=False)
    return buffer.getvalue()


def _encode_zip(pixels: Pixels, metadata: Metadata, compression: Compression) -> bytes:
    """Colours and alpha of a cutout as two files, stored: both are compressed already."""
    colour = share(np.ascontiguousarray(pixels, dtype=np.uint8))  # of which RGB has no use for the fourth channel
    alpha = np.ascontiguousarray(pixels[..., 3], dtype=np.uint8)
    parts = {
        ZIP_COLOUR: _encode_jpeg(colour, metadata.icc_profile, metadata.dpi, compression),
        ZIP_ALPHA: encode_png(alpha, compression.png_level, None, metadata.dpi),
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, data in parts.items():
            entry = zipfile.ZipInfo(name, _ZIP_DATE)
            entry.create_system, entry.external_attr = _UNIX, _READABLE  # and not this machine's
            archive.writestr(entry, data)
    return buffer.getvalue()


def _resolution_exif(dpi: tuple[float, float] | None) -> bytes:
    """EXIF with the resolution alone, the only place that WebP has for it."""
    if dpi is None:
        return b""
    exif = Image.Exif()
    exif[_X_RESOLUTION], exif[_Y_RESOLUTION] = dpi
    exif[_RESOLUTION_UNIT] = _INCH
    return exif.tobytes()

"""Pixels become the bytes of the answer, with the upload's colour profile and resolution."""

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from server.errors import InvalidOptionError
from server.pipeline.decode import Metadata
from server.pipeline.png import encode_png
from server.pipeline.request import Output, OutputFormat

MEDIA_TYPES = {OutputFormat.PNG: "image/png", OutputFormat.WEBP: "image/webp", OutputFormat.JPEG: "image/jpeg"}

_LONGEST_SIDE = {OutputFormat.PNG: 1_000_000, OutputFormat.WEBP: 16_383, OutputFormat.JPEG: 65_500}
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


def formats_of(output: Output) -> tuple[OutputFormat, ...]:
    """The formats that can carry an output, the preferred one first."""
    if output is Output.CUTOUT:
        return OutputFormat.PNG, OutputFormat.WEBP
    return OutputFormat.PNG, OutputFormat.WEBP, OutputFormat.JPEG


def check_combination(output: Output, file_format: OutputFormat) -> None:
    """Refuse an output in a format that cannot carry it.

    Raises:
        InvalidOptionError: It names the formats that can.
    """
    possible = formats_of(output)
    if file_format not in possible:
        names = " or ".join(f"format={name}" for name in possible)
        raise InvalidOptionError(
            f"expected {names} for output={output}, found format={file_format}: {file_format} has no alpha"
        )


def check_size(size: tuple[int, int], file_format: OutputFormat) -> None:
    """Refuse an image that the format of the answer is too small for; known from the upload's header.

    Raises:
        InvalidOptionError: It names the limit and the formats that hold the image.
    """
    if max(size) > _LONGEST_SIDE[file_format]:
        possible = " or ".join(f"format={name}" for name, side in _LONGEST_SIDE.items() if side >= max(size))
        raise InvalidOptionError(
            f"expected sides of at most {_LONGEST_SIDE[file_format]} pixels for format={file_format}, "
            f"found {size[1]}×{size[0]}: use {possible}"
        )


def encode(pixels: NDArray[np.uint8], file_format: OutputFormat, metadata: Metadata, compression: Compression) -> bytes:
    """Encode an answer.

    Args:
        pixels: uint8; a matte (H, W), a composite (H, W, 3) or a cutout (H, W, 4).
        file_format: One of `formats_of` the output.
        metadata: Of the upload. A matte gets its resolution but not its profile: alpha is no colour, and an RGB
            profile on a grey image is an error that decoders complain about.
        compression: Speed against bytes.
    """
    profile = None if pixels.ndim == 2 else metadata.icc_profile
    if file_format is OutputFormat.PNG:
        return encode_png(pixels, compression.png_level, profile, metadata.dpi)
    buffer = io.BytesIO()
    image = Image.fromarray(pixels)
    if file_format is OutputFormat.WEBP:
        # The knees: method 1 takes a fifth off the bytes of colours, but up to three times as long for a matte.
        how = {"lossless": True, "quality": 0, "method": 0} if pixels.ndim == 2 else {"method": 1}
        settings = {"quality": compression.webp_quality, **how}
        image.save(buffer, "WEBP", icc_profile=profile, exif=_resolution_exif(metadata.dpi), **settings)
    else:
        dpi = tuple(round(value) for value in metadata.dpi or (0, 0))
        image.save(buffer, "JPEG", quality=compression.jpeg_quality, icc_profile=profile, dpi=dpi)
    return buffer.getvalue()


def _resolution_exif(dpi: tuple[float, float] | None) -> bytes:
    """EXIF with the resolution alone, the only place that WebP has for it."""
    if dpi is None:
        return b""
    exif = Image.Exif()
    exif[_X_RESOLUTION], exif[_Y_RESOLUTION] = dpi
    exif[_RESOLUTION_UNIT] = _INCH
    return exif.tobytes()

"""What an image says of itself before a pixel of it is decoded: the place where limits are enforced."""

import io
import struct
import warnings
import zlib
from dataclasses import dataclass

from PIL import (  # noqa: F401 - the plugins register themselves; else Pillow would import all of its forty on demand
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    MpoImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from server.errors import (
    BodyTooLargeError,
    CorruptImageError,
    EmptyBodyError,
    ImageTooLargeError,
)
from server.pipeline.containers import EXIF, MAX_KIND_BYTES, PROFILE, Tally, damaged, read_container
from server.pipeline.formats import sniff

# Ours is checked first, is settable, and is an error of the request; Pillow's is a warning, then another exception.
Image.MAX_IMAGE_PIXELS = None
# The pool already has a thread per core; a decoder with its own would oversubscribe them.
AvifImagePlugin.DEFAULT_MAX_THREADS = 1
# Of a PNG's colour profile once it is inflated, too; by itself Pillow would call a larger one than 1 MiB damage.
PngImagePlugin.MAX_TEXT_CHUNK = MAX_KIND_BYTES[PROFILE]
# Pillow warns of every oddity in metadata. What matters is raised anyway, and Python remembers each text for ever.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")

DECODER_FAILURES = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    ArithmeticError,
    LookupError,
    AttributeError,
    AssertionError,
    EOFError,
    RuntimeError,
    struct.error,
    zlib.error,
)
"""What Pillow's plugins raise on damaged files; not MemoryError, which is ours and not the client's."""

MAX_PIXELS_PER_BYTE = 100_000
"""Of an image of more than `_RATIO_FREE_PIXELS`. PNG and JPEG cannot reach it; one flat colour as AVIF or lossless WebP
is at a quarter of it, with anything to see it is far below. What is above is nothing but work for the server."""

_RATIO_FREE_PIXELS = 1_000_000
_METADATA = {"icc_profile": PROFILE, "exif": EXIF, "xmp": None}  # as Pillow names and we count it


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """How large an upload may be.

    Attributes:
        max_bytes: Of the file.
        max_pixels: Of the image.
        max_side: Pixels in width and in height.
        max_metadata_bytes: Of what is no pixels, all together.
    """

    max_bytes: int = 64 << 20
    max_pixels: int = 50_000_000
    max_side: int = 65_535
    max_metadata_bytes: int = 16 << 20


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """Format by Pillow's name, and size as stored: (height, width) before any EXIF orientation."""

    format: str
    size: tuple[int, int]

    @property
    def pixels(self) -> int:
        return self.size[0] * self.size[1]

    @property
    def megapixels(self) -> float:
        return self.pixels / 1e6


def check_upload(data: bytes, limits: ImageLimits) -> str:
    """Tell the format of an upload by its first bytes, in microseconds.

    Raises:
        EmptyBodyError: There are no bytes.
        BodyTooLargeError: There are too many.
        NotAnImageError: They are no image format that is read here.
    """
    if not data:
        raise EmptyBodyError("expected the bytes of an image, found 0 bytes")
    if len(data) > limits.max_bytes:
        raise BodyTooLargeError(f"expected at most {limits.max_bytes} bytes, found {len(data)}")
    return sniff(data)


def read_header(data: bytes, limits: ImageLimits) -> ImageHeader:
    """Check an upload against the limits by its header; allocates no pixels and takes well under a millisecond.

    Files that are nothing but chunks take longer, 0.1 s at most, until they are refused.

    Raises:
        EmptyBodyError, BodyTooLargeError, NotAnImageError: As `check_upload`.
        CorruptImageError: The header is damaged.
        ImageTooLargeError: The header promises too many pixels, or more than so few bytes can mean.
        MetadataTooLargeError: There is too much beside the pixels.
    """
    file_format = check_upload(data, limits)
    found = read_container(data, file_format, limits.max_metadata_bytes, limits.max_pixels)
    width, height = found or _ask_decoder(data, file_format, limits)
    header = ImageHeader(file_format, (height, width))
    if width < 1 or height < 1:
        raise CorruptImageError(f"expected a {file_format} image of at least 1×1 pixels, found {width}×{height}")
    if header.pixels > limits.max_pixels:
        raise ImageTooLargeError(
            f"expected at most {limits.max_pixels / 1e6:g} megapixels, "
            f"found {width}×{height} = {header.megapixels:.1f} megapixels"
        )
    if max(width, height) > limits.max_side:
        raise ImageTooLargeError(f"expected sides of at most {limits.max_side} pixels, found {width}×{height}")
    if header.pixels > max(_RATIO_FREE_PIXELS, len(data) * MAX_PIXELS_PER_BYTE):
        raise ImageTooLargeError(
            f"expected at most {MAX_PIXELS_PER_BYTE} pixels per byte, "
            f"found {header.megapixels:.1f} megapixels in {len(data)} bytes"
        )
    return header


def open_image(data: bytes, file_format: str) -> ImageFile.ImageFile:
    """Open an image with Pillow, without its pixels.

    Raises:
        CorruptImageError: The header is damaged.
    """
    try:
        return Image.open(io.BytesIO(data), formats=(file_format,))
    except UnidentifiedImageError as error:
        raise damaged(data, file_format) from error
    except DECODER_FAILURES as error:
        raise damaged(data, file_format, f": {error}") from error


def _ask_decoder(data: bytes, file_format: str, limits: ImageLimits) -> tuple[int, int]:
    """Width and height by Pillow, of the formats of which it opens every file at once."""
    with open_image(data, file_format) as image:
        tally = Tally(file_format, limits.max_metadata_bytes)
        for name, kind in _METADATA.items():
            if isinstance(value := image.info.get(name), bytes):
                tally.add(len(value), kind)
        return image.size

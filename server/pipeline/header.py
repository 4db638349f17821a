"""What an image says of itself before a pixel of it is decoded: the place where limits are enforced."""

import io
import struct
import warnings
import zlib
from collections.abc import Callable
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

from server.errors import BodyTooLargeError, CorruptImageError, EmptyBodyError, ImageTooLargeError
from server.pipeline.formats import sniff
from server.pipeline.stored_size import check_tiff_directory, damaged, gif_size, jpeg_size, png_size, webp_size

# Ours is checked first, is settable, and is an error of the request; Pillow's is a warning, then another exception.
Image.MAX_IMAGE_PIXELS = None
# The pool already has a thread per core; a decoder with its own would oversubscribe them.
AvifImagePlugin.DEFAULT_MAX_THREADS = 1
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

_SIZE_READERS: dict[str, Callable[[bytes], tuple[int, int]]] = {
    "JPEG": jpeg_size,
    "PNG": png_size,
    "WEBP": webp_size,
    "GIF": gif_size,
}


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """How large an upload may be."""

    max_bytes: int = 64 << 20
    max_pixels: int = 50_000_000


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """Format by Pillow's name, and size as stored: (height, width) before any EXIF orientation."""

    format: str
    size: tuple[int, int]

    @property
    def megapixels(self) -> float:
        return self.size[0] * self.size[1] / 1e6


def read_header(data: bytes, limits: ImageLimits) -> ImageHeader:
    """Check an upload against the limits by its header; allocates no pixels and takes well under a millisecond.

    Raises:
        EmptyBodyError: There are no bytes.
        BodyTooLargeError: There are too many.
        NotAnImageError: They are no image format that is read here.
        CorruptImageError: The header is damaged.
        ImageTooLargeError: The header promises too many pixels.
    """
    if not data:
        raise EmptyBodyError("expected the bytes of an image, found 0 bytes")
    if len(data) > limits.max_bytes:
        raise BodyTooLargeError(f"expected at most {limits.max_bytes} bytes, found {len(data)}")
    file_format = sniff(data)
    width, height = _size(data, file_format)
    if width < 1 or height < 1:
        raise CorruptImageError(f"expected a {file_format} image of at least 1×1 pixels, found {width}×{height}")
    if width * height > limits.max_pixels:
        raise ImageTooLargeError(
            f"expected at most {limits.max_pixels / 1e6:g} megapixels, "
            f"found {width}×{height} = {width * height / 1e6:.1f} megapixels"
        )
    return ImageHeader(file_format, (height, width))


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


def _size(data: bytes, file_format: str) -> tuple[int, int]:
    """Width and height as stored; Pillow sees only the formats of which it opens every file at once."""
    if file_format in _SIZE_READERS:
        return _SIZE_READERS[file_format](data)
    if file_format == "TIFF":
        check_tiff_directory(data)
    with open_image(data, file_format) as image:
        return image.size

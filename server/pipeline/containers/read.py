"""One entry for all formats."""

from collections.abc import Callable

from server.pipeline.containers.avif import check_avif
from server.pipeline.containers.bmp import check_bmp
from server.pipeline.containers.gif import read_gif
from server.pipeline.containers.jpeg import read_jpeg
from server.pipeline.containers.png import read_png
from server.pipeline.containers.tally import Tally
from server.pipeline.containers.tiff import check_tiff
from server.pipeline.containers.webp import read_webp

_READERS: dict[str, Callable[[bytes, Tally], tuple[int, int]]] = {
    "JPEG": read_jpeg,
    "PNG": read_png,
    "WEBP": read_webp,
    "GIF": read_gif,
}


def read_container(data: bytes, file_format: str, max_metadata_bytes: int, max_pixels: int) -> tuple[int, int] | None:
    """Walk through a file and give its width and height as stored.

    None where its decoder may be asked for them, because it reads a bounded header only.

    Args:
        data: The file.
        file_format: As `sniff` named it.
        max_metadata_bytes: Most bytes of what is no pixels.
        max_pixels: Of one piece of an image that is stored in pieces.

    Raises:
        CorruptImageError: It is damaged.
        MetadataTooLargeError: It carries too much besides pixels.
        ImageTooLargeError: Its pieces are too large.
        NotAnImageError: It is of a kind that is not read here.
    """
    tally = Tally(file_format, max_metadata_bytes)
    if file_format in _READERS:
        return _READERS[file_format](data, tally)
    if file_format == "TIFF":
        check_tiff(data, tally, max_pixels)
    elif file_format == "BMP":
        check_bmp(data)
    elif file_format == "AVIF":
        check_avif(data, max_pixels)
    return None

"""BMP: Pillow reads its header in no time, but decodes run lengths in Python, pixel by pixel."""

import struct

from server.errors import NotAnImageError
from server.pipeline.containers.tally import damaged

MAX_RUN_LENGTH_PIXELS = 4_000_000
"""Half a second's work. The format is of a time of small images."""

_RUN_LENGTHS = (1, 2)
_SLACK_BYTES = 1 << 16  # headers, palette, ends of lines


def check_bmp(data: bytes) -> None:
    """Bound a BMP of run lengths, which may be longer than its pixels, too.

    Raises:
        NotAnImageError: It is larger than what is decoded.
        CorruptImageError: There is more of it than its pixels can need.
    """
    if len(data) < 34 or int.from_bytes(data[14:18], "little") < 40:
        return  # too old for compression, or for Pillow to refuse
    width, height, compression = struct.unpack("<iixxxxI", data[18:34])
    if compression not in _RUN_LENGTHS:
        return
    pixels = abs(width) * abs(height)
    if pixels > MAX_RUN_LENGTH_PIXELS:
        raise NotAnImageError(
            f"expected at most {MAX_RUN_LENGTH_PIXELS / 1e6:g} megapixels of a BMP image with run lengths, "
            f"found {pixels / 1e6:.1f}"
        )
    if len(data) > 2 * pixels + _SLACK_BYTES:
        raise damaged(data, "BMP", f": it is too long for {pixels} pixels")

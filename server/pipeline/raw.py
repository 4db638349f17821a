"""Pixels that come without a file around them."""

import struct

from server.errors import ImageTooLargeError

_HEAD = 8  # bytes: byte order, version, place of the directory
_ENTRY = 12
_SHORT, _LONG = 3, 4
_MOST = (1 << 32) - 1


def raw_image(pixels: bytes | memoryview, height: int, width: int) -> bytes:
    """Make a file of them that is decoded like any other: an uncompressed TIFF (6.0), a header before the pixels.

    Args:
        pixels: (height, width, 3) uint8 RGB, row by row.
        height: In pixels.
        width: In pixels.

    Raises:
        ImageTooLargeError: The sides do not fit into a file.
    """
    if max(height, width, len(pixels)) > _MOST:
        raise ImageTooLargeError(f"expected sides below 2^32, found {width}×{height}")
    count = 10
    depths = _HEAD + 2 + count * _ENTRY + 4  # behind the directory
    start = depths + 6
    entries = (
        (256, _LONG, 1, width),
        (257, _LONG, 1, height),
        (258, _SHORT, 3, depths),
        (259, _SHORT, 1, 1),  # not compressed
        (262, _SHORT, 1, 2),  # RGB
        (273, _LONG, 1, start),
        (277, _SHORT, 1, 3),
        (278, _LONG, 1, height),  # one strip
        (279, _LONG, 1, len(pixels)),
        (284, _SHORT, 1, 1),  # interleaved
    )
    head = struct.pack("<2sHIH", b"II", 42, _HEAD, count) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"".join((head, struct.pack("<I3H", 0, 8, 8, 8), pixels))

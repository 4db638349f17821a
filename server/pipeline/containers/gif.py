"""GIF (89a): the blocks up to the first frame; what follows it is never looked at."""

import re
import struct

from server.pipeline.containers.tally import Tally, Walk, damaged

_BLOCK = re.compile(rb"[!,;]")
_EXTENSION, _END = ord("!"), ord(";")


def read_gif(data: bytes, tally: Tally) -> tuple[int, int]:
    """Width and height.

    They are those of the screen, which Pillow makes larger if the first frame does not fit (18 and 20).

    Raises:
        CorruptImageError: There is no frame.
        MetadataTooLargeError: There is too much in front of it.
    """
    if len(data) < 13:
        raise damaged(data, "GIF")
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    walk = Walk(data, tally, "blocks", _BLOCK, 13 + _palette_bytes(flags))
    while (at := walk.next_piece()) is not None and data[at] == _EXTENSION:
        walk.position = at + 2
        while walk.position < len(data) and (length := data[walk.position]):
            walk.position += 1 + length
            walk.count_piece()
        walk.position += 1
    if at is None or data[at] == _END or at + 10 > len(data):
        raise damaged(data, "GIF")
    left, top, frame_width, frame_height = struct.unpack_from("<HHHH", data, at + 1)
    return max(width, left + frame_width), max(height, top + frame_height)


def _palette_bytes(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0

"""WebP (RFC 9649): the size from the first chunk, and how many others there are."""

import struct

from server.pipeline.containers.tally import EXIF, MAX_FRAMES, PROFILE, Tally, damaged

_CHUNK = struct.Struct("<4sI")
_KINDS = {b"ICCP": PROFILE, b"EXIF": EXIF}
_PIXELS = (b"VP8 ", b"VP8L", b"ALPH", b"VP8X")


def read_webp(data: bytes, tally: Tally) -> tuple[int, int]:
    """Width and height (2.5 to 2.7); Pillow allocates two canvases to open.

    Raises:
        CorruptImageError: The first chunk is not there.
        MetadataTooLargeError: There is too much else: libwebp lists all chunks and all frames.
    """
    size = _size(data)
    if size is None:
        raise damaged(data, "WEBP")
    position = 12
    while position + 8 <= len(data):
        kind, length = _CHUNK.unpack_from(data, position)
        if kind == b"ANMF":
            tally.count("frames", MAX_FRAMES)
        else:
            tally.count("chunks")
            if kind not in _PIXELS:
                tally.add(min(length, len(data) - position), _KINDS.get(kind))
        position += 8 + length + length % 2
    return size


def _size(data: bytes) -> tuple[int, int] | None:
    kind, payload = data[12:16], data[20:30]
    if len(payload) < 10:
        return None
    if kind == b"VP8X":
        return 1 + int.from_bytes(payload[4:7], "little"), 1 + int.from_bytes(payload[7:10], "little")
    if kind == b"VP8L" and payload[0] == 0x2F:
        bits = int.from_bytes(payload[1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 " and payload[3:6] == b"\x9d\x01\x2a":
        width, height = struct.unpack("<HH", payload[6:10])
        return width & 0x3FFF, height & 0x3FFF
    return None

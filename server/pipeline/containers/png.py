"""PNG (third edition): all chunks up to the end of the first frame, because Pillow reads them all."""

import struct

from server.pipeline.containers.tally import EXIF, MAX_FRAMES, PROFILE, Tally, damaged

_PIXELS = (b"IDAT", b"fdAT", b"DDAT")
_HEADER_BYTES = 33  # signature, and IHDR with its length, name and checksum
_CHUNK = struct.Struct(">I4s")


def read_png(data: bytes, tally: Tally) -> tuple[int, int]:
    """Width and height, from the first chunk (11.2.1).

    Raises:
        CorruptImageError: It is not there, or there are two colour profiles, each of which would be inflated.
        MetadataTooLargeError: There is too much else.
    """
    if len(data) < _HEADER_BYTES or data[12:16] != b"IHDR":
        raise damaged(data, "PNG")
    width, height = struct.unpack_from(">II", data, 16)
    position, animated, in_pixels, profiles = _HEADER_BYTES, False, False, 0
    while position + 8 <= len(data):
        length, kind = _CHUNK.unpack_from(data, position)
        if kind == b"IEND" or (kind == b"fcTL" and animated and in_pixels):
            break
        if kind in _PIXELS:
            in_pixels = True
            tally.count("chunks of pixels", MAX_FRAMES)
        else:
            tally.count("chunks")
            tally.add(
                min(length, len(data) - position), EXIF if kind == b"eXIf" else PROFILE if kind == b"iCCP" else None
            )
        animated |= kind == b"acTL"
        profiles += kind == b"iCCP"
        if profiles > 1:
            raise damaged(data, "PNG", ": it has two colour profiles")
        position += 12 + length
    return width, height

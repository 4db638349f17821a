"""Width and height as an image file states them, read without Pillow where Pillow does more than look at the header.

Pillow walks through all metadata in front of the pixels in Python, piece by piece: of an upload that is nothing but
tiny pieces it makes half a minute and gigabytes. Here the pieces are stepped over without a copy, and counted; Pillow
never sees a file that has more of them than `MAX_PIECES`.
"""

import re
import struct

from server.errors import CorruptImageError

MAX_PIECES = 4096
"""Segments or blocks in front of the pixels. The largest colour profile takes 255 of a JPEG's; whole books fit."""

MAX_STRAY_BYTES = 1 << 16
"""Padding between them, which Pillow reads byte by byte. Some cameras write a few kilobytes."""

MAX_EXIF_SEGMENTS = 64
"""Pillow copies all Exif so far for each that is added; the standard knows one of 64 KiB, some writers use several."""

MAX_TIFF_ENTRIES = 1 << 16
"""Of a directory: as many as there are tags."""

_JPEG_MARKER = re.compile(rb"\xff[\x01-\xfe]", re.DOTALL)
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_BARE = frozenset({0xC8, *range(0xD0, 0xDA), *range(0xF0, 0xFE)})
"""Markers that Pillow takes to be without a length (ITU-T T.81, table B.1; the last ones are reserved)."""
_JPEG_SCAN = 0xDA

_GIF_BLOCK = re.compile(rb"[!,;]")


def damaged(data: bytes, file_format: str, reason: str = "") -> CorruptImageError:
    """The refusal of a file whose header makes no sense."""
    return CorruptImageError(
        f"expected a whole {file_format} image, found one whose header cannot be read ({len(data)} bytes){reason}"
    )


def png_size(data: bytes) -> tuple[int, int]:
    """From the first chunk (PNG third edition, 11.2.1): Pillow inflates all metadata in front of the pixels first.

    Raises:
        CorruptImageError: It is not there.
    """
    if len(data) < 33 or data[12:16] != b"IHDR":
        raise damaged(data, "PNG")
    width, height = struct.unpack(">II", data[16:24])
    return width, height


def webp_size(data: bytes) -> tuple[int, int]:
    """From the first chunk (RFC 9649, 2.5 to 2.7): Pillow allocates two canvases to open a file.

    Raises:
        CorruptImageError: It is not there.
    """
    kind, payload = data[12:16], data[20:30]
    if len(payload) == 10:
        if kind == b"VP8X":
            return 1 + int.from_bytes(payload[4:7], "little"), 1 + int.from_bytes(payload[7:10], "little")
        if kind == b"VP8L" and payload[0] == 0x2F:
            bits = int.from_bytes(payload[1:5], "little")
            return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
        if kind == b"VP8 " and payload[3:6] == b"\x9d\x01\x2a":
            width, height = struct.unpack("<HH", payload[6:10])
            return width & 0x3FFF, height & 0x3FFF
    raise damaged(data, "WEBP")


def jpeg_size(data: bytes) -> tuple[int, int]:
    """From the frame header (ITU-T T.81, B.2.2); goes on to the first scan, because Pillow does too.

    Raises:
        CorruptImageError: There is no frame header in front of a scan, or too much else.
    """
    size: tuple[int, int] | None = None
    exif_segments = 0
    walk = _Walk(data, "JPEG", "segments", _JPEG_MARKER, 2)
    while (at := walk.next_piece()) is not None:
        marker = data[at + 1]
        if marker == _JPEG_SCAN:
            break
        if marker in _JPEG_FRAMES and at + 9 <= len(data):
            height, width = struct.unpack_from(">HH", data, at + 5)
            size = (width, height)
        exif_segments += data.startswith(b"\xff\xe1", at) and data.startswith(b"Exif\0\0", at + 4)
        if exif_segments > MAX_EXIF_SEGMENTS:
            raise CorruptImageError(f"expected at most {MAX_EXIF_SEGMENTS} Exif segments in a JPEG image, found more")
        length = 0 if marker in _JPEG_BARE else max(2, int.from_bytes(data[at + 2 : at + 4], "big"))
        walk.position = at + 2 + length
    if at is None or size is None:
        raise damaged(data, "JPEG")
    return size


def gif_size(data: bytes) -> tuple[int, int]:
    """Of the screen, which Pillow makes larger if the first frame does not fit (GIF89a, 18 and 20).

    Raises:
        CorruptImageError: There is no frame, or too much in front of it.
    """
    if len(data) < 13:
        raise damaged(data, "GIF")
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    walk = _Walk(data, "GIF", "blocks", _GIF_BLOCK, 13 + _gif_palette_bytes(flags))
    while (at := walk.next_piece()) is not None and data[at] == ord("!"):
        walk.position = at + 2
        while walk.position < len(data) and (length := data[walk.position]):
            walk.position += 1 + length
            walk.count_piece()
        walk.position += 1
    if at is None or data[at] == ord(";") or at + 10 > len(data):
        raise damaged(data, "GIF")
    left, top, frame_width, frame_height = struct.unpack_from("<HHHH", data, at + 1)
    return max(width, left + frame_width), max(height, top + frame_height)


def check_tiff_directory(data: bytes) -> None:
    """Bound the first directory of a BigTIFF; that of a classic TIFF counts its entries in 16 bits.

    Raises:
        CorruptImageError: It says that it has more entries than there are tags.
    """
    if data[:4] != b"II+\0":  # Pillow reads no other BigTIFF
        return
    start = int.from_bytes(data[8:16], "little")
    entries = int.from_bytes(data[start : start + 8], "little")
    if entries > MAX_TIFF_ENTRIES:
        raise CorruptImageError(f"expected at most {MAX_TIFF_ENTRIES} entries in a TIFF directory, found {entries}")


def _gif_palette_bytes(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


class _Walk:
    """Steps from piece to piece of a file, within the bounds of this module."""

    def __init__(self, data: bytes, file_format: str, pieces: str, start: re.Pattern[bytes], position: int) -> None:
        self.position = position
        self._data = data
        self._file_format = file_format
        self._pieces = pieces
        self._start = start
        self._count = 0
        self._stray = 0

    def next_piece(self) -> int | None:
        """Where the next piece starts, at `position` or after some padding; None at the end of the file."""
        end = self.position + MAX_STRAY_BYTES - self._stray + 2
        found = self._start.search(self._data, self.position, end)
        if found is None:
            if end < len(self._data):
                self._refuse(f"{MAX_STRAY_BYTES} bytes between {self._pieces}")
            return None
        self._stray += found.start() - self.position
        self.count_piece()
        return found.start()

    def count_piece(self) -> None:
        self._count += 1
        if self._count > MAX_PIECES:
            self._refuse(f"{MAX_PIECES} {self._pieces}")

    def _refuse(self, bound: str) -> None:
        raise CorruptImageError(
            f"expected at most {bound} in front of the pixels of a {self._file_format} image, found more"
        )

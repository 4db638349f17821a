"""TIFF (6.0, and BigTIFF): the first directory, before Pillow and libtiff allocate what it says."""

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from server.errors import ImageTooLargeError, NotAnImageError
from server.pipeline.containers.jpeg import MAX_SCANS, check_scans
from server.pipeline.containers.tally import MAX_PIECES, PROFILE, Tally, damaged

MAX_TIFF_ENTRIES = MAX_PIECES
"""Of a directory; there are some hundred tags."""

MAX_TIFF_PARTS = 1 << 16
"""Strips or tiles. Pillow makes several objects of each."""

MAX_TIFF_VALUES = 1 << 18
"""Of one tag: the largest palette has 196,608."""

_COMPRESSIONS = {
    1: "none",
    2: "CCITT",
    3: "CCITT",
    4: "CCITT",
    5: "LZW",
    7: "JPEG",
    8: "deflate",
    32773: "PackBits",
    32946: "deflate",
    50000: "Zstandard",
}
_JPEG = 7
_WIDTH, _LENGTH, _COMPRESSION, _ROWS, _TILE_WIDTH, _TILE_LENGTH = 256, 257, 259, 278, 322, 323
_PARTS = (273, 279, 324, 325)
_PROFILE = 34675
_SINGLE = (_WIDTH, _LENGTH, _COMPRESSION, _ROWS, _TILE_WIDTH, _TILE_LENGTH)
_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}
_SHORT = 3
_BLOBS = (1, 2, 6, 7)  # types that stay what they are
_UNSIGNED = {3: 2, 4: 4, 16: 8}


@dataclass(frozen=True, slots=True)
class _Entry:
    tag: int
    kind: int
    count: int
    value: bytes

    @property
    def size(self) -> int:
        return self.count * _BYTES.get(self.kind, 0)


def check_tiff(data: bytes, tally: Tally, max_pixels: int) -> None:
    """Bound the first directory.

    Raises:
        CorruptImageError: It cannot be read, or says a thing twice.
        MetadataTooLargeError: It has too many entries, parts or values, or too many bytes of them.
        ImageTooLargeError: Its tiles have more pixels than an image may have.
        NotAnImageError: Its compression is not read here.
    """
    single: dict[int, int] = {}
    seen: set[int] = set()
    for entry in _entries(data, tally):
        if entry.tag in seen and entry.tag in (*_SINGLE, *_PARTS):
            raise damaged(data, "TIFF", f": it has the tag {entry.tag} twice")
        seen.add(entry.tag)
        if entry.tag in _SINGLE:
            single[entry.tag] = _number(data, entry)
        elif entry.size <= len(data):  # Pillow leaves out what cannot be in the file
            _account(entry, tally)
    tile = single.get(_TILE_WIDTH, 0) * single.get(_TILE_LENGTH, 0)
    if tile > max_pixels:
        raise ImageTooLargeError(
            f"expected at most {max_pixels / 1e6:g} megapixels, found a TIFF image whose tiles have {tile / 1e6:.1f}"
        )
    if (compression := single.get(_COMPRESSION, 1)) not in _COMPRESSIONS:
        known = ", ".join(dict.fromkeys(_COMPRESSIONS.values()))
        raise NotAnImageError(f"expected a TIFF image with compression {known}, found compression {compression}")
    if compression == _JPEG:
        check_scans(data, 0, MAX_SCANS + _parts(single))


def _account(entry: _Entry, tally: Tally) -> None:
    if entry.tag in _PARTS:
        if entry.count > MAX_TIFF_PARTS:
            tally.refuse(f"{MAX_TIFF_PARTS} strips or tiles")
        return
    most = MAX_TIFF_VALUES if entry.kind == _SHORT else MAX_PIECES
    if entry.kind not in _BLOBS and entry.count > most:
        tally.refuse(f"{most} values of the tag {entry.tag}")
    tally.add(entry.size, PROFILE if entry.tag == _PROFILE else None)


def _parts(single: dict[int, int]) -> int:
    """How many pieces the image is in, by its geometry: each is a JPEG of its own."""
    width, length = single.get(_WIDTH, 0), single.get(_LENGTH, 0)
    if (tile := single.get(_TILE_WIDTH, 0)) and (rows := single.get(_TILE_LENGTH, 0)):
        return math.ceil(width / tile) * math.ceil(length / rows)
    return math.ceil(length / max(1, single.get(_ROWS, length)))


def _entries(data: bytes, tally: Tally) -> Iterator[_Entry]:
    """The entries of the first directory, each of 12 bytes, or of 20 in a BigTIFF (which Pillow reads in one order)."""
    order = "<" if data[:2] == b"II" else ">"
    big = data[:4] == b"II+\0"
    counter, entry = (
        (struct.Struct("<Q"), struct.Struct("<HHQ8s"))
        if big
        else (struct.Struct(f"{order}H"), struct.Struct(f"{order}HHI4s"))
    )
    start = int.from_bytes(data[8:16] if big else data[4:8], "little" if order == "<" else "big")
    if start + counter.size > len(data):
        raise damaged(data, "TIFF")
    (entries,) = counter.unpack_from(data, start)
    if entries > MAX_TIFF_ENTRIES:
        tally.refuse(f"{MAX_TIFF_ENTRIES} directory entries")
    first = start + counter.size
    if first + entries * entry.size > len(data):
        raise damaged(data, "TIFF", f": its directory of {entries} entries is not whole")
    for index in range(entries):
        yield _Entry(*entry.unpack_from(data, first + index * entry.size))


def _number(data: bytes, entry: _Entry) -> int:
    width = _UNSIGNED.get(entry.kind)
    if width is None or entry.count != 1 or width > len(entry.value):
        raise damaged(data, "TIFF", f": expected one whole number for the tag {entry.tag}")
    return int.from_bytes(entry.value[:width], "little" if data[:2] == b"II" else "big")

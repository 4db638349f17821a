"""AVIF: the size that the AV1 data says, which libavif decodes in full before it scales it to the size of the file.

Two kilobytes that call themselves 64×64 can hold 144 megapixels. So the sequence headers (AV1, 5.5) at the beginning of
all items and tracks are read. What is not understood here is left to the decoder, whose own limit is 16384×16384.
"""

import itertools
import struct
from collections.abc import Iterator, Mapping

from server.errors import ImageTooLargeError

_MAX_BOXES = 4096  # of a file; a still has some thirty
_MAX_STARTS = 512  # of items and chunks
_MAX_UNITS = 64  # of one of them; encoders write four
_TRACKS = (b"moov", b"trak", b"mdia", b"minf", b"stbl")  # each within the one before
_OFFSETS = {b"stco": 4, b"co64": 8}
_SEQUENCE_HEADER = 1
_UNREADABLE = (struct.error, IndexError, ValueError)


def check_avif(data: bytes, max_pixels: int) -> None:
    """Refuse an AVIF whose coded size is too large, whatever its own header says.

    Raises:
        ImageTooLargeError: A sequence has more pixels than an image may have.
    """
    for start in itertools.islice(_coded_data(data), _MAX_STARTS):
        for width, height in _sequences(data, start):
            if width * height > max_pixels:
                raise ImageTooLargeError(
                    f"expected at most {max_pixels / 1e6:g} megapixels, found {width}×{height} = "
                    f"{width * height / 1e6:.1f} megapixels in the coded data of an AVIF image"
                )


def _coded_data(data: bytes) -> Iterator[int]:
    """Where the data of every item and of every track begins."""
    boxes = _Boxes(data)
    try:
        for kind, start, end in boxes.within(0, len(data)):
            if kind == b"meta":
                yield from _items(data, {kind: start for kind, start, _ in boxes.within(start + 4, end)})
            elif kind == _TRACKS[0]:
                yield from _tracks(data, boxes, start, end)
    except _UNREADABLE:
        return


class _Boxes:
    """Steps from box to box (ISO 14496-12, 4.2), over a bounded number of them in all."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._left = _MAX_BOXES

    def within(self, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
        """Kind, and begin and end of the content, of the boxes of one level."""
        while start + 8 <= end and self._left:
            self._left -= 1
            size, kind = struct.unpack_from(">I4s", self._data, start)
            head = 8
            if size == 1:
                (size,) = struct.unpack_from(">Q", self._data, start + 8)
                head = 16
            stop = end if size == 0 else min(end, start + size)
            if stop < start + head:
                return
            yield kind, start + head, stop
            start = stop


def _items(data: bytes, found: Mapping[bytes, int]) -> Iterator[int]:
    """Beginnings of items, from the item location box (8.11.3) among the boxes that were found."""
    if b"iloc" not in found:
        return
    at = found[b"iloc"]
    version, sizes, base_sizes = data[at], data[at + 4], data[at + 5]
    offset_size, length_size, base_size = sizes >> 4, sizes & 15, base_sizes >> 4
    index_size = base_sizes & 15 if version in (1, 2) else 0
    wide = 4 if version == 2 else 2
    count, at = int.from_bytes(data[at + 6 : at + 6 + wide], "big"), at + 6 + wide
    for _ in range(count):
        at += wide
        method = data[at + 1] & 15 if version in (1, 2) else 0
        at += 4 if version in (1, 2) else 2
        base, at = int.from_bytes(data[at : at + base_size], "big"), at + base_size
        (extents,), at = struct.unpack_from(">H", data, at), at + 2
        if method == 1:
            base += found.get(b"idat", 0)
        first = at + index_size
        yield base + int.from_bytes(data[first : first + offset_size], "big")
        at += extents * (index_size + offset_size + length_size)


def _tracks(data: bytes, boxes: _Boxes, start: int, end: int, depth: int = 1) -> Iterator[int]:
    """Beginnings of the first chunks of tracks (8.7.5): no frame but the first is decoded."""
    for kind, content, stop in boxes.within(start, end):
        if depth < len(_TRACKS) and kind == _TRACKS[depth]:
            yield from _tracks(data, boxes, content, stop, depth + 1)
        elif depth == len(_TRACKS) and kind in _OFFSETS:
            yield int.from_bytes(data[content + 8 : content + 8 + _OFFSETS[kind]], "big")


def _sequences(data: bytes, at: int) -> Iterator[tuple[int, int]]:
    """Width and height of the sequence headers among the first units (AV1, 5.3)."""
    try:
        for _ in range(_MAX_UNITS):
            head = data[at]
            at += 2 if head & 4 else 1
            if head & 2:
                size, at = _leb128(data, at)
            else:
                size = len(data) - at
            if head >> 3 & 15 == _SEQUENCE_HEADER:
                yield _sequence_size(_Bits(data[at : at + min(size, 1024)]))
            at += size
    except _UNREADABLE:
        return


def _leb128(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for index in range(8):
        byte = data[at + index]
        value |= (byte & 127) << 7 * index
        if byte < 128:
            return value, at + index + 1
    raise ValueError("no end of a number")


def _sequence_size(bits: "_Bits") -> tuple[int, int]:
    bits.read(4)  # profile, still picture
    if bits.read(1):  # reduced header
        bits.read(5)
    else:
        delay_bits = _timing(bits)
        display_delay = bits.read(1)
        for _ in range(bits.read(5) + 1):
            bits.read(12)
            if bits.read(5) > 7:
                bits.read(1)
            if delay_bits and bits.read(1):
                bits.read(2 * delay_bits + 1)
            if display_delay and bits.read(1):
                bits.read(4)
    width_bits, height_bits = bits.read(4) + 1, bits.read(4) + 1
    return bits.read(width_bits) + 1, bits.read(height_bits) + 1


def _timing(bits: "_Bits") -> int:
    """Skip timing and decoder model (5.5.3, 5.5.4); the bits of a delay, 0 without a model."""
    if not bits.read(1):
        return 0
    bits.read(64)
    if bits.read(1):
        zeros = 0
        while not bits.read(1):
            zeros += 1
        bits.read(zeros)
    if not bits.read(1):
        return 0
    delay_bits = bits.read(5) + 1
    bits.read(42)
    return delay_bits


class _Bits:
    def __init__(self, data: bytes) -> None:
        self._left = 8 * len(data)
        self._value = int.from_bytes(data, "big")

    def read(self, count: int) -> int:
        self._left -= count
        if self._left < 0:
            raise ValueError("no bits are left")
        return self._value >> self._left & (1 << count) - 1

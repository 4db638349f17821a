"""JPEG (ITU-T T.81): the segments in front of the pixels, and the number of scans behind them."""

import re
import struct

import numpy as np

from server.errors import CorruptImageError, NotAnImageError
from server.pipeline.containers.tally import EXIF, PROFILE, Tally, Walk, damaged

MAX_SCANS = 256
"""A decoder goes over the whole image for each; a scan of a few bytes is enough for that. Encoders write about ten."""

MAX_EXIF_SEGMENTS = 64
"""Pillow copies all Exif so far for each that is added; the standard knows one of 64 KiB, some writers use several."""

_MARKER = re.compile(rb"\xff[\x01-\xfe]", re.DOTALL)
_FRAMES = frozenset({*range(0xC0, 0xD0), 0xDE}) - {0xC4, 0xC8, 0xCC}  # Pillow takes DHP for a frame header, too
_PROGRESSIVE = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
_BARE = frozenset({0xC8, *range(0xD0, 0xDA), *range(0xF0, 0xFE)})
"""Markers that Pillow takes to be without a length (table B.1; the last ones are reserved)."""
_SCAN, _TABLES, _COMMENT = 0xDA, 0xDB, 0xFE

_KINDS = (
    (b"\xff\xe1", b"Exif\0\0", EXIF),
    (b"\xff\xe2", b"ICC_PROFILE\0", PROFILE),
    (b"\xff\xed", b"Photoshop 3.0\0", "Photoshop blocks"),
)
_STEP_BYTES = 1 << 20  # looked through at a time


def read_jpeg(data: bytes, tally: Tally) -> tuple[int, int]:
    """Width and height, from the frame header (B.2.2).

    Goes on to the first scan, because Pillow does too.

    Raises:
        CorruptImageError: There is no frame header in front of a scan, or more than one, or there are too many scans.
        MetadataTooLargeError: There is too much else.
        NotAnImageError: Its samples are not of 8 bits.
    """
    frame: tuple[int, int, int, int] | None = None
    walk = Walk(data, tally, "segments", _MARKER, 2)
    while (at := walk.next_piece()) is not None:
        marker = data[at + 1]
        if marker == _SCAN:
            break
        length = 0 if marker in _BARE else max(2, int.from_bytes(data[at + 2 : at + 4], "big"))
        if marker in _FRAMES:
            if frame is not None:
                raise damaged(data, "JPEG", ": it has two frame headers")
            frame = (marker, *_frame(data, at))
        else:
            _account(data, at, length, tally)
        walk.position = at + 2 + length
    if at is None or frame is None:
        raise damaged(data, "JPEG")
    marker, width, height, components = frame
    if marker not in _PROGRESSIVE and data[at + 4 : at + 5] == bytes([components]):
        return width, height  # one scan has it all, and the decoder ends with it
    check_scans(data, at, MAX_SCANS)
    return width, height


def _frame(data: bytes, at: int) -> tuple[int, int, int]:
    """Width, height and number of components."""
    if at + 10 > len(data):
        raise damaged(data, "JPEG")
    length, bits, height, width, components = struct.unpack_from(">HBHHB", data, at + 2)
    if bits != 8:
        raise NotAnImageError(f"expected a JPEG image of 8 bits per sample, found one of {bits}")
    if length != 8 + 3 * components:
        raise damaged(data, "JPEG", f": its frame header has {length} bytes for {components} components")
    return width, height, components


def _account(data: bytes, at: int, length: int, tally: Tally) -> None:
    marker = data[at + 1]
    if marker == _TABLES:
        tally.add(length, "quantisation tables")
    elif marker == _COMMENT or 0xE0 <= marker < 0xF0:
        found = (name for start, text, name in _KINDS if data.startswith(start, at) and data.startswith(text, at + 4))
        kind = next(found, None)
        tally.add(length, kind)
        if kind == EXIF:
            tally.count("Exif segments", MAX_EXIF_SEGMENTS)


def check_scans(data: bytes, start: int, most: int) -> None:
    """Bound the scans behind a position; in compressed data the two bytes of their marker do not occur (B.1.1.5).

    Raises:
        CorruptImageError: There are more than `most`.
    """
    scans = 0
    for first in range(start, len(data), _STEP_BYTES):
        part = np.frombuffer(data, np.uint8, min(_STEP_BYTES + 1, len(data) - first), first)
        scans += int(np.count_nonzero((part[:-1] == 0xFF) & (part[1:] == _SCAN)))
        if scans > most:
            raise CorruptImageError(f"expected at most {most} scans of JPEG data, found more")

"""What a file holds beside its pixels is counted while it is walked, and refused once it is too much.

Decoders copy and parse such things piece by piece, in Python, before they come to the first pixel: of an upload that
is nothing but tiny pieces Pillow makes half a minute and gigabytes. Here the pieces are stepped over without a copy,
and a decoder never sees a file that has too many of them.
"""

import re
from collections import Counter

from server.errors import CorruptImageError, MetadataTooLargeError

MAX_PIECES = 4096
"""Segments, chunks or blocks that are no pixels. The largest colour profile takes 255 of a JPEG's; whole books fit."""

MAX_FRAMES = 1 << 16
"""Frames of an animation whose decoder lists them all, and pieces into which the pixels of a still are cut."""

MAX_STRAY_BYTES = 1 << 16
"""Padding between pieces, which Pillow reads byte by byte. Some cameras write a few kilobytes."""

PROFILE, EXIF = "colour profile", "Exif"

MAX_KIND_BYTES = {PROFILE: 4 << 20, EXIF: 1 << 20, "Photoshop blocks": 4 << 20, "quantisation tables": 1 << 16}
"""Of what is parsed and not only carried. The profiles of printing presses have up to 3 MiB, Exif has 64 KiB."""


def damaged(data: bytes, file_format: str, reason: str = "") -> CorruptImageError:
    """The refusal of a file whose header makes no sense."""
    return CorruptImageError(
        f"expected a whole {file_format} image, found one whose header cannot be read ({len(data)} bytes){reason}"
    )


class Tally:
    """Counts the metadata of one file, by kind."""

    def __init__(self, file_format: str, max_bytes: int) -> None:
        """Begin a file.

        Args:
            file_format: For messages.
            max_bytes: Of all its metadata together, as stored.
        """
        self.file_format = file_format
        self._max_bytes = max_bytes
        self._total = 0
        self._kinds: Counter[str] = Counter()
        self._pieces: Counter[str] = Counter()

    def count(self, pieces: str, most: int = MAX_PIECES) -> None:
        """One more piece.

        Raises:
            MetadataTooLargeError: There are too many.
        """
        self._pieces[pieces] += 1
        if self._pieces[pieces] > most:
            self.refuse(f"{most} {pieces}")

    def add(self, size: int, kind: str | None = None) -> None:
        """So many more bytes of metadata, of a kind of `MAX_KIND_BYTES` or of none.

        Raises:
            MetadataTooLargeError: They are too many.
        """
        self._total += size
        if self._total > self._max_bytes:
            self.refuse(f"{self._max_bytes} bytes of metadata")
        if kind is not None:
            self._kinds[kind] += size
            if self._kinds[kind] > MAX_KIND_BYTES[kind]:
                self.refuse(f"{MAX_KIND_BYTES[kind]} bytes of {kind}")

    def refuse(self, bound: str) -> None:
        """Raise the refusal of a file that has more than a bound."""
        raise MetadataTooLargeError(
            f"expected at most {bound} beside the pixels of a {self.file_format} image, found more"
        )


class Walk:
    """Steps from piece to piece of a file whose pieces may be padded."""

    def __init__(self, data: bytes, tally: Tally, pieces: str, start: re.Pattern[bytes], position: int) -> None:
        """Begin at a position.

        Args:
            data: The file.
            tally: Where pieces are counted.
            pieces: What they are called.
            start: What a piece begins with.
            position: Where the first one is expected; the caller moves it behind each.
        """
        self.position = position
        self._data = data
        self._tally = tally
        self._pieces = pieces
        self._start = start
        self._stray = 0

    def next_piece(self) -> int | None:
        """Where the next piece starts, at `position` or after some padding; None at the end of the file."""
        end = self.position + MAX_STRAY_BYTES - self._stray + 2
        found = self._start.search(self._data, self.position, end)
        if found is None:
            if end < len(self._data):
                self._tally.refuse(f"{MAX_STRAY_BYTES} bytes between {self._pieces}")
            return None
        self._stray += found.start() - self.position
        self.count_piece()
        return found.start()

    def count_piece(self) -> None:
        """One more, within another one."""
        self._tally.count(self._pieces)

"""The gate before the door: requests whose body is still on its way.

Until its body is here a request has no header to be priced by, but it takes memory already, and for as long as its
client likes. So uploads under way are bounded, by number and by bytes, and whoever would be refused anyway is refused
before the body is read.

Rules of this module: those of `server.engine.admission`.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NoReturn

from server.engine.admission import Admission


@dataclass(frozen=True, slots=True)
class UploadLimits:
    """How much may be under way.

    Attributes:
        max_uploads: Bodies that are being read.
        max_bytes: Of them together: what was announced or reserved or, where nothing was, what has arrived. A larger
            one still comes in when it is alone, and so does the first that reserves.
        max_streams: Streams of images that are open.
    """

    max_uploads: int = 256
    max_bytes: int = 1 << 30
    max_streams: int = 64

    def __post_init__(self) -> None:
        if self.max_uploads < 1 or self.max_bytes < 1 or self.max_streams < 1:
            raise ValueError(f"upload limits: expected positive numbers, found {self}")


class Arrival:
    """One body on its way."""

    def __init__(self, uploads: "Uploads", announced: int) -> None:
        self.bytes = announced
        self._uploads = uploads
        self._arrived = 0

    async def reserve(self, most: int) -> None:
        """Wait until there is room for so many bytes, for a body that does not say how long it is until it is here.

        Reservations leave half of the room to bodies that do say, which are not asked to wait.
        """
        await self._uploads.make_room(self, most)

    def add(self, size: int) -> None:
        """So many more bytes are here.

        Raises:
            OverloadedError: They are more than was announced, and too many.
        """
        self._arrived += size
        if self._arrived > self.bytes:
            self._uploads.check_bytes(self._arrived - self.bytes, alone=self._uploads.number == 1)
            self.bytes = self._arrived


class Uploads:
    """Lets bodies be read, or refuses them at once with an honest `Retry-After`."""

    def __init__(self, limits: UploadLimits, admission: Admission) -> None:
        """Open the gate.

        Args:
            limits: How much may be under way.
            admission: The door behind it, which says whether anyone is let in, and counts refusals.
        """
        self.limits = limits
        self._admission = admission
        self._under_way: set[Arrival] = set()
        self._turn = asyncio.Lock()  # of those who wait to reserve: the first to come goes first
        self._left = asyncio.Event()
        self._reserved: dict[Arrival, int] = {}
        self._streams = 0
        admission.metrics.watch_uploads(lambda: self.number, lambda: self.bytes)
        admission.metrics.watch_streams(lambda: self._streams)

    @property
    def number(self) -> int:
        """Bodies that are being read now."""
        return len(self._under_way)

    @property
    def bytes(self) -> int:
        """Of them together."""
        return sum(arrival.bytes for arrival in self._under_way)

    @contextmanager
    def receive(self, announced: int = 0) -> Iterator[Arrival]:
        """Read a body while the context is open.

        Args:
            announced: Its bytes by its own word; 0 where it does not say.

        Raises:
            DrainingError: The process is about to exit.
            NotReadyError: The engine takes nothing.
            OverloadedError: Too much is under way.
        """
        self._admission.check_open()
        if self.number >= self.limits.max_uploads:
            detail = f"at most {self.limits.max_uploads} uploads are read at a time, and so many are under way"
            self.refuse("uploads", detail)
        self.check_bytes(announced, alone=not self._under_way)
        arrival = Arrival(self, announced)
        self._under_way.add(arrival)
        try:
            yield arrival
        finally:
            self._under_way.remove(arrival)
            self._reserved.pop(arrival, None)
            self._left.set()

    @contextmanager
    def stream(self) -> Iterator[None]:
        """Count a stream while the context is open.

        Raises:
            DrainingError, NotReadyError: As `receive`.
            OverloadedError: Too many are open.
        """
        self._admission.check_open()
        if self._streams >= self.limits.max_streams:
            detail = f"at most {self.limits.max_streams} streams are open at a time, and so many are"
            self.refuse("streams", detail)
        self._streams += 1
        try:
            yield
        finally:
            self._streams -= 1

    async def make_room(self, arrival: Arrival, most: int) -> None:
        """As `Arrival.reserve`."""
        async with self._turn:
            while self._reserved and not self._has_room(most):
                self._left.clear()
                await self._left.wait()
            self._reserved[arrival] = arrival.bytes = most

    def _has_room(self, more: int) -> bool:
        reserved = sum(self._reserved.values()) + more
        return reserved <= self.limits.max_bytes // 2 and self.bytes + more <= self.limits.max_bytes

    def refuse(self, reason: str, detail: str) -> NoReturn:
        """Refuse a request before anything is read of it.

        Raises:
            OverloadedError: Counted under the reason; it says when to come back.
        """
        self._admission.refuse_overload(reason, detail)

    def check_bytes(self, more: int, *, alone: bool) -> None:
        """Refuse bytes that there is no room for.

        Raises:
            OverloadedError: There is none.
        """
        if not alone and (found := self.bytes + more) > self.limits.max_bytes:
            detail = (
                f"at most {self.limits.max_bytes} bytes of uploads are read at a time, and this one makes it {found}"
            )
            self.refuse("uploads", detail)

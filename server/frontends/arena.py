"""Memory that an engine process and one front end share, and who may use which part of it.

The engine process gives out slots, one for each request, large enough for all that is ever to cross for it: so nobody
who holds one waits for another. Who finds no room waits, the first to come first. Pages are the kernel's until they are
used, and unused ones cost nothing.

A slot is free again when its request has left it *and* no thread of a front end is at work in it any more.
"""

import asyncio
import mmap
import os
import threading
from bisect import bisect_left, insort
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from server.errors import CancelledByClientError

_ALIGNMENT = 64  # bytes; of a cache line, and enough for every dtype


@dataclass(frozen=True, slots=True)
class Where:
    """An array in shared memory, as either side finds it: bytes from the beginning, and what is there."""

    offset: int
    shape: tuple[int, ...]
    dtype: str

    @property
    def end(self) -> int:
        """Of it, rounded up to where the next may begin."""
        return aligned(self.offset + int(np.dtype(self.dtype).itemsize * np.prod(self.shape, dtype=np.int64)))


def aligned(size: int) -> int:
    """Bytes, rounded up to where the next array may begin."""
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def lay_out(offset: int, arrays: Sequence[NDArray[Any]]) -> list[Where]:
    """Where arrays go that lie one behind the other."""
    places = []
    for array in arrays:
        places.append(Where(offset, array.shape, array.dtype.str))
        offset = places[-1].end
    return places


def create_memory(size: int) -> int:
    """The file descriptor of so many bytes of memory that other processes can be given."""
    descriptor = os.memfd_create("birefnet-arena", os.MFD_CLOEXEC)
    os.ftruncate(descriptor, size)
    return descriptor


class Arena:
    """Shared memory, as one process sees it."""

    def __init__(self, descriptor: int, size: int) -> None:
        """Map it; the descriptor may be closed afterwards."""
        self._memory = mmap.mmap(descriptor, size)
        self.size = size

    def array(self, where: Where) -> NDArray[Any]:
        """What lies there; a view."""
        return np.ndarray(where.shape, np.dtype(where.dtype), self._memory, where.offset)


class Extents:
    """Which bytes of so many are taken. Pure."""

    def __init__(self, size: int) -> None:
        self._free = [(0, size)]  # (offset, end), in order, never touching one another

    def take(self, size: int) -> int | None:
        """Where so many bytes are free, lowest first, so that the same memory is used again; None where nowhere."""
        for index, (offset, end) in enumerate(self._free):
            if end - offset >= size:
                if end - offset == size:
                    del self._free[index]
                else:
                    self._free[index] = (offset + size, end)
                return offset
        return None

    def give(self, offset: int, size: int) -> None:
        """They are free again."""
        end = offset + size
        index = bisect_left(self._free, (offset, end))
        before = self._free[index - 1][1] if index else 0
        after = self._free[index][0] if index < len(self._free) else end
        if offset < before or end > after:
            raise RuntimeError("This is a bug: bytes are given back that were free")
        if index < len(self._free) and self._free[index][0] == end:
            end = self._free.pop(index)[1]
        if index and self._free[index - 1][1] == offset:
            offset = self._free.pop(index - 1)[0]
        insort(self._free, (offset, end))

    @property
    def free(self) -> int:
        """Bytes that are."""
        return sum(end - offset for offset, end in self._free)


class Slot:
    """A part of an arena that one request may use."""

    def __init__(self, slots: "Slots", offset: int, size: int) -> None:
        self.offset = offset
        self.size = size
        self._slots = slots
        self._users = 1

    @contextmanager
    def used(self) -> Iterator[None]:
        """It is not given to another request while the context is open. In any thread.

        Raises:
            CancelledByClientError: It was given back before: the request has ended, and its thread comes too late.
        """
        with self._slots.lock:
            if not self._users:
                raise CancelledByClientError("the client left")
            self._users += 1
        try:
            yield
        finally:
            self.leave()

    def leave(self) -> None:
        """One user less."""
        with self._slots.lock:
            self._users -= 1
            last = not self._users
        if last:
            self._slots.give(self)


class Slots:
    """Gives out parts of an arena, in one event loop."""

    def __init__(self, arena: Arena) -> None:
        self.arena = arena
        self.lock = threading.Lock()
        self._extents = Extents(arena.size)
        self._waiting: deque[tuple[int, asyncio.Future[Slot]]] = deque()
        self._loop = asyncio.get_running_loop()

    @property
    def used(self) -> int:
        """Bytes that are given out."""
        return self.arena.size - self._extents.free

    @asynccontextmanager
    async def slot(self, size: int) -> AsyncIterator[Slot]:
        """Use so many bytes while the context is open; waits for them, behind who came before.

        Raises:
            ValueError: There will never be so many.
        """
        size = aligned(size)
        if size > self.arena.size:
            raise ValueError(f"expected a slot of at most {self.arena.size} bytes, found {size}")
        future: asyncio.Future[Slot] = self._loop.create_future()
        self._waiting.append((size, future))
        self._serve()
        try:
            slot = await future
        except asyncio.CancelledError:
            # It may have been given at the very instant.
            if future.done() and not future.cancelled():
                future.result().leave()
            self._serve()
            raise
        try:
            yield slot
        finally:
            slot.leave()

    def give(self, slot: Slot) -> None:
        """A slot is free. From any thread."""
        with self.lock:
            self._extents.give(slot.offset, slot.size)
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._serve)

    def _serve(self) -> None:
        while self._waiting:
            size, future = self._waiting[0]
            if not future.done():
                with self.lock:
                    offset = self._extents.take(size)
                if offset is None:
                    return
                future.set_result(Slot(self, offset, size))
            self._waiting.popleft()

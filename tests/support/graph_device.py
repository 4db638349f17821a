"""A device for `GraphRunner` that replays on the CPU, in order, only when it is waited for."""

from collections.abc import Callable

import torch
from torch import Tensor


class QueuedDevice:
    """As a GPU: what is begun happens later, on memory that was fixed when it was captured.

    Attributes:
        allocated: Bytes taken so far, on the device and pinned.
        room: Rows that fit; more are out of memory.
        captures: Rows of each capture, in order; a device learns them from the first tensor taken for it.
    """

    def __init__(self, room: int = 1 << 30) -> None:
        self.room = room
        self.allocated = 0
        self.captured = 0
        self._queue: list[Callable[[], object]] = []

    def resident(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        if shape[0] > self.room:
            raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {shape[0]} rows")
        return self.pinned(shape, dtype)

    def pinned(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        tensor = torch.full(shape, 77, dtype=dtype)  # poison: what is read must have been written
        self.allocated += tensor.nbytes
        return tensor

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        work()  # warm
        self.captured += 1
        return lambda: self._queue.append(work)

    def copy(self, target: Tensor, source: Tensor) -> None:
        self._queue.append(lambda: target.copy_(source))

    def wait(self) -> None:
        for step in self._queue:
            step()
        self._queue.clear()

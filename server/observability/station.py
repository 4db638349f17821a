"""A place where work waits and is done: how busy it is, and how many seconds of work it still holds.

The device and the pool of CPU threads are both stations, so that one measure says which of the two is saturated. What
takes much longer than other work (an encoder at its hardest level) is of a kind of its own, with a speed of its own.

Rules of this module: no metrics library. Safe to call from any thread.
"""

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

_WINDOW_S = 30.0  # of `busy_share`: about two scrapes of Prometheus
_SAMPLE_S = 1.0  # spacing of its support points
_ROUNDING = 1e-9  # of sums of sizes
_WEIGHT = 0.1  # of the newest observation in the mean time per item: about the last twenty count


@dataclass(frozen=True, slots=True, eq=False)
class _Task:
    items: float
    kind: Hashable
    worker: str | None
    started: float


class Station:
    """Counts the items that wait and run, and the seconds that running takes."""

    def __init__(self, capacity: int = 1, clock: Callable[[], float] = time.monotonic) -> None:
        if capacity < 1:
            raise ValueError(f"capacity: expected 1 or more, found {capacity}")
        self._lock = threading.Lock()
        self._clock = clock
        self._capacity = capacity
        self._held: dict[Hashable, float] = {}  # items that wait or run, by kind
        self._kind_s: dict[Hashable, float] = {}  # mean seconds per item, by kind
        self._running: set[_Task] = set()
        self._busy_s = 0.0
        self._worker_s: dict[str, float] = {}  # busy seconds, by worker
        self._item_s = self._task_s = math.nan
        self._changed = clock()
        self._samples: deque[tuple[float, float]] = deque([(self._changed, 0.0)])

    @property
    def capacity(self) -> int:
        """How many tasks it can do at once: devices, or threads."""
        return self._capacity

    @capacity.setter
    def capacity(self, capacity: int) -> None:
        with self._lock:
            self._capacity = capacity

    def arrive(self, items: float = 1, kind: Hashable = None) -> None:
        """Items begin to wait here; of a kind whose items differ in size, that much of one."""
        with self._lock:
            self._held[kind] = self._held.get(kind, 0) + items

    def leave(self, items: float = 1, kind: Hashable = None) -> None:
        """Waiting items go away without being worked on."""
        with self._lock:
            self._release(items, kind)

    def assume(self, item_s: float) -> None:
        """Take this for the mean seconds per item until something is measured."""
        with self._lock:
            if math.isnan(self._item_s):
                self._item_s = item_s

    @contextmanager
    def work(self, items: float = 1, kind: Hashable = None, worker: str | None = None) -> Iterator[None]:
        """Items that waited here are worked on, together, while the context is open; `worker` is who does it."""
        task = self._begin(items, kind, worker)
        try:
            yield
        finally:
            self._end(task)

    def dismiss(self, worker: str) -> None:
        """Nobody waits any more for what a worker does at this moment: it hangs, and its items have left."""
        with self._lock:
            self._advance()
            for task in [task for task in self._running if task.worker == worker]:
                self._running.discard(task)
                self._release(task.items, task.kind)

    def introduce(self, worker: str) -> None:
        """A worker that has done nothing yet is one of `busy_by`, too."""
        with self._lock:
            self._worker_s.setdefault(worker, 0.0)

    def busy_by(self) -> dict[str, float]:
        """As `busy_s`, of each worker that has a name."""
        with self._lock:
            self._advance()
            return dict(self._worker_s)

    @property
    def busy_s(self) -> float:
        """Seconds of work so far, unfinished work included, summed over what runs side by side."""
        with self._lock:
            self._advance()
            return self._busy_s

    @property
    def busy_share(self) -> float:
        """Share of the capacity used over about the last half minute, 0 to 1."""
        with self._lock:
            now = self._advance()
            then, busy_then = self._samples[0]
            elapsed = now - then
            return 0.0 if elapsed <= 0 else min(1.0, (self._busy_s - busy_then) / (elapsed * self._capacity))

    @property
    def item_s(self) -> float | None:
        """Mean seconds of work per item, recent ones weighted most; None before the first."""
        with self._lock:
            return None if math.isnan(self._item_s) else self._item_s

    @property
    def task_s(self) -> float | None:
        """Mean seconds of a task, whatever its items, recent ones weighted most; before the first those of an item."""
        with self._lock:
            known = self._item_s if math.isnan(self._task_s) else self._task_s
            return None if math.isnan(known) else known

    @property
    def backlog_s(self) -> float:
        """Seconds until everything that waits and runs here is done, at the measured speed; 0 before the first item."""
        with self._lock:
            if math.isnan(self._item_s):
                return 0.0
            seconds = math.fsum(items * self._kind_s.get(kind, self._item_s) for kind, items in self._held.items())
            return seconds / self._capacity

    def _begin(self, items: float, kind: Hashable, worker: str | None) -> _Task:
        with self._lock:
            task = _Task(items, kind, worker, self._advance())
            self._running.add(task)
            return task

    def _end(self, task: _Task) -> None:
        with self._lock:
            now = self._advance()
            if task not in self._running:
                return  # dismissed
            self._running.discard(task)
            self._release(task.items, task.kind)
            if task.items:
                seconds, kind = now - task.started, task.kind
                self._item_s = _mean(self._item_s, seconds / task.items)
                self._task_s = _mean(self._task_s, seconds)
                self._kind_s[kind] = _mean(self._kind_s.get(kind, math.nan), seconds / task.items)

    def _release(self, items: float, kind: Hashable) -> None:
        left = self._held.get(kind, 0) - items
        if abs(left) < _ROUNDING:
            self._held.pop(kind, None)
        else:
            self._held[kind] = left

    def _advance(self) -> float:
        """Count the work done since the last change; the lock is held."""
        now = self._clock()
        elapsed = now - self._changed
        self._busy_s += len(self._running) * elapsed
        for task in self._running:
            if task.worker is not None:
                self._worker_s[task.worker] = self._worker_s.get(task.worker, 0.0) + elapsed
        self._changed = now
        if now - self._samples[-1][0] >= _SAMPLE_S:
            self._samples.append((now, self._busy_s))
        while len(self._samples) > 1 and now - self._samples[1][0] >= _WINDOW_S:
            self._samples.popleft()
        return now


def _mean(so_far: float, observed: float) -> float:
    return observed if math.isnan(so_far) else so_far + _WEIGHT * (observed - so_far)

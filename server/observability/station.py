"""A place where work waits and is done: how busy it is, and how many seconds of work it still holds.

The device and the pool of CPU threads are both stations, so that one measure says which of the two is saturated.

Rules of this module: no metrics library. Safe to call from any thread.
"""

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_WINDOW_S = 30.0  # of `busy_share`: about two scrapes of Prometheus
_SAMPLE_S = 1.0  # spacing of its support points
_WEIGHT = 0.1  # of the newest observation in the mean time per item: about the last twenty count


class Station:
    """Counts the items that wait and run, and the seconds that running takes."""

    def __init__(self, capacity: int = 1, clock: Callable[[], float] = time.monotonic) -> None:
        if capacity < 1:
            raise ValueError(f"capacity: expected 1 or more, found {capacity}")
        self._lock = threading.Lock()
        self._clock = clock
        self._capacity = capacity
        self._waiting = 0
        self._running_items = 0
        self._running_tasks = 0
        self._busy_s = 0.0
        self._item_s = math.nan
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

    def arrive(self, items: int = 1) -> None:
        """Items begin to wait here."""
        with self._lock:
            self._waiting += items

    def leave(self, items: int = 1) -> None:
        """Waiting items go away without being worked on."""
        with self._lock:
            self._waiting -= items

    def assume(self, item_s: float) -> None:
        """Take this for the mean seconds per item until something is measured."""
        with self._lock:
            if math.isnan(self._item_s):
                self._item_s = item_s

    @contextmanager
    def work(self, items: int = 1) -> Iterator[None]:
        """Items that waited here are worked on, together, while the context is open."""
        started = self._begin(items)
        try:
            yield
        finally:
            self._end(items, started)

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
    def backlog_s(self) -> float:
        """Seconds until everything that waits and runs here is done, at the measured speed; 0 before the first item."""
        with self._lock:
            if math.isnan(self._item_s):
                return 0.0
            return (self._waiting + self._running_items) * self._item_s / self._capacity

    def _begin(self, items: int) -> float:
        with self._lock:
            now = self._advance()
            self._waiting -= items
            self._running_items += items
            self._running_tasks += 1
            return now

    def _end(self, items: int, started: float) -> None:
        with self._lock:
            now = self._advance()
            self._running_items -= items
            self._running_tasks -= 1
            if items:
                observed = (now - started) / items
                first = math.isnan(self._item_s)
                self._item_s = observed if first else self._item_s + _WEIGHT * (observed - self._item_s)

    def _advance(self) -> float:
        """Count the work done since the last change; the lock is held."""
        now = self._clock()
        self._busy_s += self._running_tasks * (now - self._changed)
        self._changed = now
        if now - self._samples[-1][0] >= _SAMPLE_S:
            self._samples.append((now, self._busy_s))
        while len(self._samples) > 1 and now - self._samples[1][0] >= _WINDOW_S:
            self._samples.popleft()
        return now

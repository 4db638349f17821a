"""The bounded pool of threads that touch pixels on the host, so that the event loop never does."""

import asyncio
import contextvars
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import cv2

from server.errors import DeadlineExceededError
from server.observability.station import Station

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Timed(Generic[T]):
    """What a piece of work returned, and its seconds in line and at work."""

    result: T
    waited_s: float
    worked_s: float


class HostPool:
    """As many threads as there are CPUs to use, and one more for headers, which must not wait behind pixels."""

    def __init__(self, workers: int, station: Station, clock: Callable[[], float] = time.monotonic) -> None:
        """Start no thread yet; they come with the first work.

        Args:
            workers: Threads that decode, resize and encode.
            station: Where their load is counted; its capacity becomes `workers`.
            clock: Monotonic seconds, the scale of deadlines.
        """
        # OpenCV would start a second pool under ours. One thread per image is what throughput wants.
        cv2.setNumThreads(1)
        station.capacity = workers
        self.workers = workers
        self._station = station
        self.clock = clock
        self._pixels = ThreadPoolExecutor(workers, thread_name_prefix="host")
        self._headers = ThreadPoolExecutor(1, thread_name_prefix="header")
        self._unfinished: set[Future[Any]] = set()

    async def glance(self, work: Callable[[], T]) -> T:
        """Run work of less than a millisecond: reading a header."""
        return await asyncio.wrap_future(self._submit(self._headers, work))

    async def run(self, work: Callable[[], T], deadline: float) -> Timed[T]:
        """Run work on pixels.

        Cancelling the caller drops the work if it has not begun. What has begun runs on, and its result is lost.

        Args:
            work: Called in a thread of the pool, with the caller's context variables.
            deadline: Monotonic seconds at which the caller stops waiting.

        Raises:
            DeadlineExceededError: The deadline has passed.
        """
        submitted = self.clock()

        def timed() -> Timed[T]:
            started = self.clock()
            with self._station.work():
                result = work()
            return Timed(result, started - submitted, self.clock() - started)

        self._station.arrive()
        future = self._submit(self._pixels, timed)
        future.add_done_callback(self._count_dropped)
        try:
            async with asyncio.timeout(deadline - submitted):
                return await asyncio.wrap_future(future)
        except TimeoutError as error:
            raise DeadlineExceededError("the deadline passed while the image was being prepared or encoded") from error

    def close(self) -> None:
        """Take no more and drop what has not begun. Returns at once; what has begun runs on."""
        self._headers.shutdown(wait=False, cancel_futures=True)
        self._pixels.shutdown(wait=False, cancel_futures=True)

    def join(self, timeout_s: float) -> bool:
        """Wait, not in the event loop, for what has begun. False when some of it still runs."""
        return not wait(self._unfinished.copy(), timeout_s).not_done

    def _submit(self, executor: ThreadPoolExecutor, work: Callable[[], T]) -> Future[T]:
        future = executor.submit(contextvars.copy_context().run, work)
        self._unfinished.add(future)
        future.add_done_callback(self._unfinished.discard)
        return future

    def _count_dropped(self, future: "Future[Timed[T]]") -> None:
        if future.cancelled():
            self._station.leave()

"""The bounded pool of threads that touch pixels on the host, so that the event loop never does."""

import asyncio
import contextvars
import heapq
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import cv2

from server.engine.batching import Priority
from server.errors import DeadlineExceededError
from server.host import lower_priority
from server.observability.station import Station

T = TypeVar("T")

_AGEING_S = 30.0  # as in `EngineLimits`: so much earlier outweighs one priority
_TOO_LATE = "the deadline passed while the image was being prepared or encoded"
_OVERHEAD = 0.1  # megapixels that take as long as what does not depend on the size


@dataclass(frozen=True, slots=True)
class Timed(Generic[T]):
    """What a piece of work returned, and its seconds in line and at work."""

    result: T
    waited_s: float
    worked_s: float


@dataclass(frozen=True, slots=True)
class HostWork:
    """What a piece of work is, for the line and for the measure of how much there is to do.

    Attributes:
        kind: Work of one kind takes time by its size.
        megapixels: Its size.
        priority: Of its request.
        since: Monotonic seconds at which its request came; None is now. Among equals the oldest request goes first,
            whatever is to be done for it, so that what has been begun is finished.
        outlived: Told of work that has begun and goes on although its caller waits no longer; what it takes is taken
            until the future is done.
    """

    kind: str = ""
    megapixels: float = 1 - _OVERHEAD
    priority: Priority = Priority.NORMAL
    since: float | None = None
    outlived: "Callable[[Future[Any]], None] | None" = field(default=None, compare=False, repr=False)

    @property
    def cost(self) -> float:
        """In units of its kind."""
        return self.megapixels + _OVERHEAD


class HostPool:
    """As many threads as there are CPUs to use, and one more for headers, which must not wait behind pixels.

    The order is that of age, with `_AGEING_S` for every step of priority: urgent work goes first, and none starves.
    """

    def __init__(
        self, workers: int, station: Station, clock: Callable[[], float] = time.monotonic, niceness: int = 0
    ) -> None:
        """Start no thread yet; they come with the first work.

        Args:
            workers: Threads that decode, resize and encode.
            station: Where their load is counted; its capacity becomes `workers`.
            clock: Monotonic seconds, the scale of deadlines.
            niceness: By which the threads for pixels give way to the event loop, and to the one for headers.
        """
        # OpenCV would start a second pool under ours. One thread per image is what throughput wants.
        cv2.setNumThreads(1)
        station.capacity = workers
        self.workers = workers
        self._station = station
        self.clock = clock
        self._pixels = ThreadPoolExecutor(workers, "host", lower_priority, (niceness,))
        self._headers = ThreadPoolExecutor(1, thread_name_prefix="header")
        self._line = _Line()
        self._unfinished: set[Future[Any]] = set()

    async def glance(self, work: Callable[[], T]) -> T:
        """Run work of less than a millisecond: reading a header."""
        return await asyncio.wrap_future(self._submit(self._headers, work))

    @contextmanager
    def plan(self, what: HostWork) -> Iterator[None]:
        """Count work that is certain to come, as long as it has not been handed in."""
        self._station.arrive(what.cost, what.kind)
        try:
            yield
        finally:
            self._station.leave(what.cost, what.kind)

    async def run(self, work: Callable[[], T], deadline: float, what: HostWork = HostWork()) -> Timed[T]:
        """Run work on pixels.

        Cancelling the caller drops the work if it has not begun. What has begun runs on, and its result is lost.

        Args:
            work: Called in a thread of the pool, with the caller's context variables.
            deadline: Monotonic seconds at which the caller stops waiting.
            what: What it is.

        Raises:
            DeadlineExceededError: The deadline has passed; what had not begun by then does not begin.
        """
        submitted = self.clock()
        if deadline <= submitted:
            raise DeadlineExceededError(_TOO_LATE)
        context = contextvars.copy_context()

        def timed() -> Timed[T]:
            started = self.clock()
            if deadline <= started:
                self._station.leave(what.cost, what.kind)
                raise DeadlineExceededError(_TOO_LATE)
            with self._station.work(what.cost, what.kind):
                result = context.run(work)
            return Timed(result, started - submitted, self.clock() - started)

        self._station.arrive(what.cost, what.kind)
        since = submitted if what.since is None else what.since
        future = self._line.add(timed, since + what.priority * _AGEING_S)
        future.add_done_callback(lambda ended: self._station.leave(what.cost, what.kind) if ended.cancelled() else None)
        self._unfinished.add(future)
        future.add_done_callback(self._unfinished.discard)
        self._pixels.submit(self._line.run_next)
        try:
            async with asyncio.timeout(deadline - submitted):
                return await asyncio.wrap_future(future)
        except TimeoutError as error:
            raise DeadlineExceededError(_TOO_LATE) from error
        finally:
            # Now: the cancellation of what was awaited reaches the pool only in the loop's next turn.
            if not future.cancel() and not future.done() and what.outlived is not None:
                what.outlived(future)

    def close(self) -> None:
        """Take no more and drop what has not begun. Returns at once; what has begun runs on."""
        self._headers.shutdown(wait=False, cancel_futures=True)
        self._pixels.shutdown(wait=False, cancel_futures=True)
        self._line.clear()

    def join(self, timeout_s: float) -> bool:
        """Wait, not in the event loop, for what has begun. False when some of it still runs."""
        return not wait(self._unfinished.copy(), timeout_s).not_done

    def _submit(self, executor: ThreadPoolExecutor, work: Callable[[], T]) -> Future[T]:
        future = executor.submit(contextvars.copy_context().run, work)
        self._unfinished.add(future)
        future.add_done_callback(self._unfinished.discard)
        return future


class _Line:
    """What waits for a thread, the most urgent first. Each addition is to be followed by one `run_next` in a thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._order = itertools.count()
        self._waiting: list[tuple[float, int, Future[Any]]] = []
        self._work: dict[Future[Any], Callable[[], Any]] = {}  # of what waits and is not cancelled

    def add(self, work: Callable[[], T], urgency: float) -> Future[T]:
        """Let work wait; a lower number is more urgent. Cancelling the future drops the work, and what that holds."""
        future: Future[T] = Future()
        with self._lock:
            self._work[future] = work
            heapq.heappush(self._waiting, (urgency, next(self._order), future))
        future.add_done_callback(lambda ended: self._work.pop(ended, None))
        return future

    def run_next(self) -> None:
        """Run what is most urgent now, if anything waits still."""
        with self._lock:
            if not self._waiting:
                return
            _, _, future = heapq.heappop(self._waiting)
        if not future.set_running_or_notify_cancel():
            return
        work = self._work.pop(future)
        try:
            result = work()
        except BaseException as error:  # noqa: BLE001 - as in every pool: the caller must learn of it, whatever it is
            future.set_exception(error)
        else:
            future.set_result(result)

    def clear(self) -> None:
        """Drop all that waits."""
        with self._lock:
            waiting, self._waiting = self._waiting, []
        for _, _, future in waiting:
            future.cancel()

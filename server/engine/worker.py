"""One thread that owns one device, and what it does with a batch.

Rules of this module: no asyncio. The backend is made, used and closed in this thread and nowhere else. Arrays are
stacked and copied here, not in the event loop. A job that has not begun can be taken back (`Future.cancel`), so a batch
bound ahead is still open to newcomers until the device takes it.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from server.backends.base import Arrays, Backend, BackendFault, OutOfMemoryFault
from server.observability.station import Station

T = TypeVar("T")
Examine = Callable[[Backend, BaseException], BaseException | None]


class DeviceThread:
    """Runs jobs on a backend, one after the other, in its own thread.

    A daemon, so that a hung device cannot keep the process from exiting.
    """

    def __init__(self, make_backend: Callable[[], Backend], name: str) -> None:
        self._jobs: SimpleQueue[_Job[object] | None] = SimpleQueue()
        self._made: Future[Backend] = Future()
        self._thread = threading.Thread(target=self._run, args=(make_backend,), name=name, daemon=True)

    def start(self) -> Future[Backend]:
        """Start the thread and make the backend in it; the future carries what that raised."""
        self._thread.start()
        return self._made

    def post(self, work: Callable[[Backend], T], examine: Examine | None = None) -> Future[T]:
        """Let the thread do something with its backend. Cancelling the future before it begins takes the job back.

        Args:
            work: What to do; the future carries its result.
            examine: Called when `work` failed, before any other job; a worse error that it finds takes the place of the
                first one.
        """
        job = _Job(_Work(work, examine))
        job.future.add_done_callback(job.work.drop)  # taken back, it waits in the line as an empty shell
        self._jobs.put(job)  # type: ignore[arg-type]  # a job is used at its own type only
        return job.future

    def stop(self) -> None:
        """End the thread after the jobs posted so far; the backend is closed last. Returns at once."""
        self._jobs.put(None)

    def join(self, timeout_s: float) -> bool:
        """Wait for the thread to end. False when it still runs: its device hangs."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self, make_backend: Callable[[], Backend]) -> None:
        try:
            backend = make_backend()
        except BaseException as error:  # noqa: BLE001 - part of the outermost loop below: the caller must learn of it
            self._made.set_exception(error)
            return
        self._made.set_result(backend)
        lost: BackendFault | None = None
        while (job := self._jobs.get()) is not None:
            failure = job.run(backend, lost)
            if isinstance(failure, BackendFault) and failure.fatal:
                lost = failure
            del job, failure  # or their arrays would live until the next one comes
        backend.close()


@dataclass(slots=True, eq=False)
class _Work(Generic[T]):
    """What a job holds, which is much: arrays. Apart from it, so that its future need not know the job."""

    do: Callable[[Backend], T] | None
    examine: Examine | None

    def drop(self, _: object = None) -> None:
        self.do = self.examine = None


@dataclass(frozen=True, slots=True)
class _Job(Generic[T]):
    work: _Work[T]
    future: "Future[T]" = field(default_factory=Future)

    def run(self, backend: Backend, lost: BackendFault | None) -> BaseException | None:
        """Do the work, or fail at once on a device that is lost. Returns what the future was failed with."""
        if not self.future.set_running_or_notify_cancel():
            return None
        try:
            result = self._attempt(backend, lost)
        except BaseException as error:  # noqa: BLE001 - outermost loop of the device thread: it must outlive every job
            self.future.set_exception(error)
            return error
        self.future.set_result(result)
        return None

    def _attempt(self, backend: Backend, lost: BackendFault | None) -> T:
        if lost is not None:
            raise lost
        do, examine = self.work.do, self.work.examine
        if do is None:
            raise RuntimeError("This is a bug: a job is to be run that was dropped")
        try:
            return do(backend)
        except BaseException as error:
            worse = examine(backend, error) if examine is not None else None
            if worse is not None:
                raise worse from error
            raise


@dataclass(frozen=True, slots=True)
class Desk:
    """Where a device thread books its work: the station of all devices, and its own name there."""

    station: Station
    name: str


@dataclass(frozen=True, slots=True)
class Answers:
    """What a batch gave.

    Attributes:
        outputs: One mapping per item that was run, without the batch axis, in the order of the items.
        started: Monotonic seconds at which the device took the batch.
        inference_s: Seconds on the device.
    """

    outputs: Sequence[Mapping[str, NDArray[np.generic]]]
    started: float
    inference_s: float


def run_items(
    backend: Backend, artifact_id: str, items: Sequence[Arrays], desk: Desk, clock: Callable[[], float]
) -> Answers:
    """Stack items, run them as one batch and take the answer apart. In the device thread.

    Raises:
        BackendFault: The batch failed, or the backend's answer does not have one row per item.
    """
    started = clock()
    with desk.station.work(len(items), worker=desk.name):
        try:
            stacked = {name: np.stack([item[name] for item in items]) for name in items[0]}
        except MemoryError as error:
            raise OutOfMemoryFault(f"no memory to stack {len(items)} items") from error
        before = clock()
        outputs = backend.run(artifact_id, stacked)
        inference_s = clock() - before
    for name, array in outputs.items():
        if array.shape[:1] != (len(items),):
            raise BackendFault(f"output `{name}`: expected {len(items)} rows, found the shape {array.shape}")
    # Copies, not views: an answer that lives on must not keep the whole batch in memory.
    split = [{name: array[row].copy() for name, array in outputs.items()} for row in range(len(items))]
    return Answers(split, started, inference_s)

"""From the queue to the devices and back, and what happens when a device fails.

Rules of this module: everything but the methods of `Flight` runs in the event loop, in short steps that never wait; so
there are no locks, and state is consistent between any two steps. Every entry gets exactly one answer.
"""

import asyncio
import logging
import math
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field

from server.backends.base import Backend, BackendFault, Device, OutOfMemoryFault
from server.engine.batching import BatchLimit, BatchQueue, Claim, Member
from server.engine.items import EngineLimits, Item, Outcome
from server.engine.warmup import SelfTestFailedError, Warm, prove
from server.engine.worker import Answers, DeviceThread, run_items
from server.errors import DeadlineExceededError, DeviceLostError, InferenceError, ServerError
from server.observability.metrics import Metrics
from server.observability.station import Station

_log = logging.getLogger(__name__)
_ROUNDING = 1e-9  # of sums of shares of batches


@dataclass(slots=True, eq=False)
class Entry:
    """One item that waits for its answer.

    Attributes:
        gone: Why nobody waits for it any more, once its answer is cancelled.
    """

    item: Item
    answer: asyncio.Future[Outcome]
    arrived: float
    gone: str = "cancelled"


@dataclass(slots=True, eq=False)
class Flight:
    """A batch on its way to a device and back.

    Attributes:
        sent: Members that the device really ran; the others had left or expired by then. Set by the device thread.
        alone: A retry of one member of a batch that failed.
    """

    artifact_id: str
    members: Sequence[Member[Entry]]
    alone: bool = False
    sent: Sequence[Member[Entry]] = ()
    job: "Future[Answers | None]" = field(default_factory=Future)

    def run(self, backend: Backend, station: Station, clock: Callable[[], float]) -> Answers | None:
        """In the device thread: leave out who has left or is too late, and run the others."""
        now = clock()
        sent = [member for member in self.members if not member.value.answer.done() and member.claim.deadline > now]
        station.leave(len(self.members) - len(sent))
        self.sent = sent
        if not sent:
            return None
        return run_items(backend, self.artifact_id, [member.value.item.arrays for member in sent], station, clock)

    def release(self) -> "Future[Answers | None]":
        """Forget the job, which knows the flight: the cycle would keep the arrays until garbage is collected."""
        job, self.job = self.job, Future()
        return job

    def examine(self, backend: Backend, error: BaseException, warm: Warm) -> BackendFault | None:
        """In the device thread, after a fault and before anything else runs: is the device itself still sound?"""
        fatal = isinstance(error, BackendFault) and error.fatal
        if self.alone or fatal or isinstance(error, OutOfMemoryFault) or warm.self_test is None:
            return None
        try:
            prove(backend, self.artifact_id, warm.self_test, warm.precision)
        except (BackendFault, SelfTestFailedError) as found:
            return BackendFault(f"it does not pass its self-test after a fault: {found}", fatal=True)
        return None


@dataclass(slots=True, eq=False)
class Worker:
    """A device as the dispatcher sees it.

    Attributes:
        flights: Posted to it and not back yet; the first is running or about to.
        warm: What it proved it can run, by artifact id.
        loading: Graphs being loaded: the device is busy, not hung.
    """

    thread: DeviceThread
    device: Device
    flights: list[Flight] = field(default_factory=list)
    warm: dict[str, Warm] = field(default_factory=dict)
    loading: int = 0
    watchdog: asyncio.TimerHandle | None = None


class Dispatcher:
    """Owns the queue, and hands batches to whichever device is free."""

    def __init__(self, limits: EngineLimits, metrics: Metrics, clock: Callable[[], float]) -> None:
        self._limits = limits
        self._metrics = metrics
        self._clock = clock
        self._queue: BatchQueue[Entry] = BatchQueue(limits.ageing_s)
        self._batch_limits: dict[Hashable, BatchLimit] = {}
        self._most: dict[str, int] = {}
        self._pending: Counter[str] = Counter()  # items without an answer, by artifact id
        self._settled: list[asyncio.Future[None]] = []  # who waits for that to change
        self.workers: list[Worker] = []
        self.lost: str | None = None
        metrics.watch_queue(self._queue.__len__)

    def allow(self, artifact_id: str, max_batch: int) -> None:
        """From now on batches of an artifact may have this many items."""
        self._most[artifact_id] = max_batch
        self._forget_limits(artifact_id)

    def forget(self, artifact_id: str) -> None:
        """No more items of an artifact will come."""
        self._most.pop(artifact_id, None)
        self._forget_limits(artifact_id)

    def add(self, item: Item) -> tuple[Entry, Member[Entry]]:
        """Queue an item; its answer comes by `entry.answer`."""
        now = self._clock()
        entry = Entry(item, asyncio.get_running_loop().create_future(), now)
        group = (item.artifact_id, item.bucket)
        claim = Claim(group, item.priority) if item.deadline is None else Claim(group, item.priority, item.deadline)
        member = self._queue.add(entry, claim, now)
        self._metrics.device.arrive()
        self._pending[item.artifact_id] += 1
        entry.answer.add_done_callback(lambda _: self._answered(item.artifact_id))
        self.dispatch()
        return entry, member

    def cancel(self, member: Member[Entry], reason: str = "cancelled") -> None:
        """Nobody waits for it any more. What is on the device already runs on, and its answer is thrown away."""
        member.value.gone = reason
        self._withdraw(member)

    def expire(self, member: Member[Entry]) -> None:
        """The deadline has passed: answer at once, wherever the item is."""
        _fail(member.value, _too_late())
        self._withdraw(member)

    def wait_s(self, ahead: int) -> float:
        """Seconds until a device takes an item that has so many requests before it, if they fill their batches.

        What is here already is counted by items, each in batches of its own artifact: a request that is refined has
        many. Of the requests that are still to come nothing is known: they are taken to be a mix of the same kind, or,
        where nothing waits, to be for the artifact with the smallest batches.
        """
        most = {artifact_id: self._size(artifact_id) for artifact_id in {*self._most, *self._pending}}
        items = self._pending.total()
        batches = sum(count / most[artifact_id] for artifact_id, count in self._pending.items())
        per_batch = items / batches if items else min(most.values(), default=1)
        batches += max(0, ahead - items) / per_batch
        whole = math.floor(batches / max(1, len(self.workers)) + _ROUNDING)
        return whole * (self._metrics.device.task_s or 0.0)

    def dispatch(self) -> None:
        """Give every device that has room the most urgent batch there is."""
        if self.lost is None and self.workers:
            for worker in self.workers:
                self._recall(worker)
            while len(self._queue):
                worker = min(self.workers, key=lambda each: len(each.flights))
                if len(worker.flights) > worker.device.look_ahead:
                    break
                self._launch(worker)

    async def settled(self, artifact_id: str | None = None) -> None:
        """Wait until every item, or every item of an artifact, has been answered."""
        while self._pending[artifact_id] if artifact_id is not None else self._pending.total():
            changed = asyncio.get_running_loop().create_future()
            self._settled.append(changed)
            await changed

    def lose(self, reason: str, landed: Sequence[Member[Entry]] = ()) -> None:
        """Give the device up for good: whatever waits, runs or has just landed is answered with `DeviceLostError`."""
        if self.lost is not None:
            return
        self.lost = reason
        self._metrics.faults.labels("fatal").inc()
        _log.critical("device lost: %s", reason)
        self.fail_all(DeviceLostError(f"the device is lost: {reason}"), landed)
        for worker in self.workers:
            self._watch(worker)

    def fail_all(self, error: ServerError, landed: Sequence[Member[Entry]] = ()) -> None:
        """Answer everything that waits or runs, and what has just landed, with an error."""
        flying = [member for worker in self.workers for flight in worker.flights for member in flight.members]
        flying += landed
        for worker in self.workers:
            for flight in worker.flights[:]:
                if flight.job.cancel():
                    flight.release()
                    worker.flights.remove(flight)
                    self._metrics.device.leave(len(flight.members))
        waiting = self._queue.clear()
        self._metrics.device.leave(len(waiting))
        for member in (*flying, *waiting):
            _fail(member.value, error)

    def _launch(self, worker: Worker) -> None:
        batch = self._queue.take(self._clock(), lambda group: self._limit(group).current(self._clock()))
        for member in batch.expired:
            self._metrics.device.leave()
            self._dropped(member)
        if batch.members:
            self._post(worker, Flight(batch.members[0].value.item.artifact_id, batch.members))

    def _post(self, worker: Worker, flight: Flight) -> None:
        loop = asyncio.get_running_loop()
        station, clock = self._metrics.device, self._clock

        def landed(job: "Future[Answers | None]") -> None:
            if not job.cancelled():
                with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                    loop.call_soon_threadsafe(self._landed, worker, flight)

        warm = worker.warm.get(flight.artifact_id)
        flight.job = worker.thread.post(
            lambda backend: flight.run(backend, station, clock),
            lambda backend, error: None if warm is None else flight.examine(backend, error, warm),
        )
        worker.flights.append(flight)
        flight.job.add_done_callback(landed)
        if len(worker.flights) == 1:
            self._watch(worker)

    def _recall(self, worker: Worker) -> None:
        """Take back what the device has not begun, so that newcomers can still join it or overtake it."""
        if not len(self._queue):
            return
        for flight in worker.flights[:]:
            if not flight.alone and flight.job.cancel():
                flight.release()
                worker.flights.remove(flight)
                self._requeue(flight.members)
        if not worker.flights:  # it may get nothing in their place: what was taken back can have expired
            self._watch(worker)

    def _requeue(self, members: Sequence[Member[Entry]]) -> None:
        gone = [member for member in members if member.value.answer.done()]
        self._metrics.device.leave(len(gone))
        for member in gone:
            self._dropped(member)
        self._queue.put_back(member for member in members if not member.value.answer.done())

    def _landed(self, worker: Worker, flight: Flight) -> None:
        worker.flights.remove(flight)
        self._watch(worker)
        sent = set(map(id, flight.sent))
        for member in flight.members:
            if id(member) not in sent:
                self._dropped(member)
        job = flight.release()
        error = job.exception()
        if error is not None:
            if not flight.sent:  # the thread refused to touch a lost device
                self._metrics.device.leave(len(flight.members))
            self._failed(worker, flight, error)
        elif (answers := job.result()) is not None:
            self._answer(flight, answers)
        self.dispatch()

    def _answer(self, flight: Flight, answers: Answers) -> None:
        size = len(flight.sent)
        self._metrics.batch_size.observe(size)
        self._metrics.inference_seconds.observe(answers.inference_s)
        for member, arrays in zip(flight.sent, answers.outputs, strict=True):
            queue_s = max(0.0, answers.started - member.value.arrived)
            self._metrics.queue_wait_seconds.observe(queue_s)
            if not member.value.answer.done():
                member.value.answer.set_result(Outcome(arrays, queue_s, answers.inference_s, size))

    def _failed(self, worker: Worker, flight: Flight, error: BaseException) -> None:
        if self.lost is not None:
            return  # everything was answered when it was lost
        _log.error(
            "batch failed: %s",
            error,
            exc_info=error,
            extra={
                "model": flight.artifact_id,
                "batch_size": len(flight.sent),
                "requests": [member.value.item.request_id for member in flight.sent],
            },
        )
        if isinstance(error, BackendFault) and error.fatal:
            self.lose(str(error), flight.sent)
        elif isinstance(error, OutOfMemoryFault):
            self._out_of_memory(flight, error)
        else:
            self._isolate(worker, flight, error)

    def _out_of_memory(self, flight: Flight, error: BaseException) -> None:
        self._metrics.faults.labels("out_of_memory").inc()
        size = len(flight.sent)
        self._limit(flight.sent[0].claim.group).shrink(size, self._clock())
        if size == 1:
            _fail(flight.sent[0].value, InferenceError(f"the device has no memory for this image: {error}"))
        else:
            self._metrics.device.arrive(size)
            self._requeue(flight.sent)

    def _isolate(self, worker: Worker, flight: Flight, error: BaseException) -> None:
        """The device has proved that it still works: run the members one by one, so that only the poison one fails."""
        if len(flight.sent) == 1:
            self._metrics.faults.labels("item").inc()
            _fail(flight.sent[0].value, InferenceError(f"the device failed on this image: {error}"))
        else:
            self._metrics.faults.labels("batch").inc()
        if len(flight.sent) > 1:
            self._metrics.device.arrive(len(flight.sent))
            for member in flight.sent:
                self._post(worker, Flight(flight.artifact_id, (member,), alone=True))

    def _watch(self, worker: Worker) -> None:
        """Start the watchdog anew: the first flight is about to run."""
        if worker.watchdog is not None:
            worker.watchdog.cancel()
            worker.watchdog = None
        if worker.flights and self.lost is None:
            worker.watchdog = asyncio.get_running_loop().call_later(self._limits.hang_s, self._hangs, worker)

    def _hangs(self, worker: Worker) -> None:
        if worker.loading:
            self._watch(worker)
        else:
            self.lose(f"{worker.device.name} did not answer for {self._limits.hang_s:g} s")

    def _withdraw(self, member: Member[Entry]) -> None:
        if self._queue.discard(member):
            self._metrics.device.leave()
            self._dropped(member)

    def _answered(self, artifact_id: str) -> None:
        self._pending[artifact_id] -= 1
        if not self._pending[artifact_id]:
            del self._pending[artifact_id]
            for waiter in self._settled:
                if not waiter.done():
                    waiter.set_result(None)
            self._settled.clear()

    def _dropped(self, member: Member[Entry]) -> None:
        """Count a member that left or expired before it cost device time, and answer it if nobody has."""
        _fail(member.value, _too_late())
        if member.value.item.part:
            return
        if member.value.answer.cancelled():
            self._metrics.dropped.labels(member.value.gone).inc()
        elif isinstance(member.value.answer.exception(), DeadlineExceededError):
            self._metrics.dropped.labels("expired").inc()

    def _limit(self, group: Hashable) -> BatchLimit:
        limit = self._batch_limits.get(group)
        if limit is None:
            artifact_id = group[0] if isinstance(group, tuple) else ""
            limit = BatchLimit(self._most.get(artifact_id, 1), self._limits.oom_recovery_s)
            self._batch_limits[group] = limit
        return limit

    def _size(self, artifact_id: str) -> int:
        """Of its largest batch, as memory allows it now."""
        now = self._clock()
        limits = [
            limit for group, limit in self._batch_limits.items() if isinstance(group, tuple) and group[0] == artifact_id
        ]
        return min((limit.current(now) for limit in limits), default=self._most.get(artifact_id, 1))

    def _forget_limits(self, artifact_id: str) -> None:
        self._batch_limits = {
            group: limit
            for group, limit in self._batch_limits.items()
            if not (isinstance(group, tuple) and group[0] == artifact_id)
        }


def _fail(entry: Entry, error: ServerError) -> None:
    if not entry.answer.done():
        entry.answer.set_exception(error)


def _too_late() -> DeadlineExceededError:
    return DeadlineExceededError("the deadline passed before the network's answer was there")

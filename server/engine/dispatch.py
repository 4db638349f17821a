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

from server.backends.base import BackendFault, OutOfMemoryFault
from server.engine.batching import BatchLimit, BatchQueue, Claim, Member
from server.engine.devices import Worker, artifact_of, idlest, living, sharing
from server.engine.flights import Entry, Flight, too_late
from server.engine.items import EngineLimits, Item, Outcome
from server.engine.worker import Answers, Desk
from server.errors import DeadlineExceededError, DeviceLostError, InferenceError, ServerError
from server.observability.metrics import Metrics

_log = logging.getLogger(__name__)
_ROUNDING = 1e-9  # of sums of shares of batches


class Dispatcher:
    """Owns the queue, and hands batches to whichever device is free.

    Attributes:
        workers: All devices that were opened; those that are lost serve no more.
        lost: Why the last of them was lost, and with it the process; None while one serves.
    """

    def __init__(self, limits: EngineLimits, metrics: Metrics, clock: Callable[[], float]) -> None:
        self._limits = limits
        self._metrics = metrics
        self._clock = clock
        self._queue: BatchQueue[Entry] = BatchQueue(limits.ageing_s)
        self._most: dict[str, int] = {}
        self._pending: Counter[str] = Counter()  # items without an answer, by artifact id
        self._settled: list[asyncio.Future[None]] = []  # who waits for that to change
        self.workers: list[Worker] = []
        self.lost: str | None = None
        metrics.watch_queue(self._queue.__len__)

    def allow(self, artifact_id: str, max_batch: int) -> None:
        """From now on batches of an artifact may have this many items, or what a device has warmed up."""
        self._most[artifact_id] = max_batch
        for worker in self.workers:
            worker.forget_limits(artifact_id)

    def forget(self, artifact_id: str) -> None:
        """No more items of an artifact will come."""
        self._most.pop(artifact_id, None)
        for worker in self.workers:
            worker.forget_limits(artifact_id)

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
        member.value.fail(too_late())
        self._withdraw(member)

    def wait_s(self, ahead: int) -> float:
        """Seconds until a device takes an item that has so many requests before it, if they fill their batches.

        What is here already is counted by items, each in batches of its own artifact: a request that is refined has
        many. Of the requests that are still to come nothing is known: they are taken to be a mix of the same kind, or,
        where nothing waits, to be for the artifact with the smallest batches.
        """
        most = {artifact_id: self._round(artifact_id) for artifact_id in {*self._most, *self._pending}}
        items = self._pending.total()
        rounds = sum(count / most[artifact_id] for artifact_id, count in self._pending.items())
        per_round = items / rounds if items else min(most.values(), default=1)
        rounds += max(0, ahead - items) / per_round
        return math.floor(rounds + _ROUNDING) * (self._metrics.device.task_s or 0.0)

    def dispatch(self) -> None:
        """Give every device that has room the most urgent batch there is.

        Devices that are equally idle share what waits: two small batches side by side are done before one large one.
        """
        for worker in living(self.workers):
            self._recall(worker)
        while len(self._queue) and (idle := idlest(self.workers)) is not None:
            worker, as_idle = idle
            self._launch(worker, math.ceil(len(self._queue) / as_idle))

    async def settled(self, artifact_id: str | None = None) -> None:
        """Wait until every item, or every item of an artifact, has been answered."""
        while self._pending[artifact_id] if artifact_id is not None else self._pending.total():
            changed = asyncio.get_running_loop().create_future()
            self._settled.append(changed)
            await changed

    def lose(self, worker: Worker, reason: str, landed: Sequence[Member[Entry]] = ()) -> None:
        """Take a device out for good.

        What ran on it and has just landed is answered with `DeviceLostError`: it may be what the device died of, and
        must not be tried on the next one. What it had not begun goes to the others. When it was the last one,
        everything is answered, and the process is lost.
        """
        lost_now = worker.lost is None
        for each in sharing(self.workers, worker):
            each.lose(reason)
        alive = living(self.workers)
        if lost_now:
            self._metrics.faults.labels("fatal", worker.name).inc()
            self._metrics.device.capacity = max(1, len(alive))
            for each in sharing(self.workers, worker):
                self._metrics.device_lost(each.name)
            _log.critical("device lost: %s", reason, extra={"device": worker.name, "devices_left": len(alive)})
        error = DeviceLostError(f"the device is lost: {reason}")
        for member in landed:
            member.value.fail(error)
        if not alive:
            self.lost = self.lost or reason
            self.fail_all(error)
        for each in self.workers if self.lost is not None else sharing(self.workers, worker):
            self._take_back(each)
            self._watch(each)
        self.dispatch()

    def fail_all(self, error: ServerError) -> None:
        """Answer everything that waits or runs with an error."""
        for worker in self.workers:
            self._take_back(worker)
        waiting = self._queue.clear()
        self._metrics.device.leave(len(waiting))
        flying = [member for worker in self.workers for flight in worker.flights for member in flight.members]
        for member in (*flying, *waiting):
            member.value.fail(error)

    def _launch(self, worker: Worker, share: int) -> None:
        now = self._clock()
        batch = self._queue.take(now, lambda group: min(share, self._limit(worker, group).current(now)))
        for member in batch.expired:
            self._metrics.device.leave()
            self._dropped(member)
        if batch.members:
            self._post(worker, Flight(batch.members[0].value.item.artifact_id, batch.members))

    def _post(self, worker: Worker, flight: Flight) -> None:
        loop = asyncio.get_running_loop()
        desk, clock = Desk(self._metrics.device, worker.name), self._clock

        def landed(job: "Future[Answers | None]") -> None:
            if not job.cancelled():
                with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                    loop.call_soon_threadsafe(self._landed, worker, flight)

        warm = worker.warm.get(flight.artifact_id)
        flight.job = worker.thread.post(
            lambda backend: flight.run(backend, desk, clock),
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
        self._take_back(worker, alone=False)
        if not worker.flights:  # it may get nothing in their place: what was taken back can have expired
            self._watch(worker)

    def _take_back(self, worker: Worker, *, alone: bool = True) -> None:
        """Queue again what the device has not begun; `alone` is whether also what is to be retried one by one."""
        for flight in worker.flights[:]:
            if (alone or not flight.alone) and flight.job.cancel():
                flight.release()
                worker.flights.remove(flight)
                self._requeue(flight.members)

    def _requeue(self, members: Sequence[Member[Entry]]) -> None:
        gone = [member for member in members if member.value.answer.done()]
        self._metrics.device.leave(len(gone))
        for member in gone:
            self._dropped(member)
        self._queue.put_back(member for member in members if not member.value.answer.done())

    def _landed(self, worker: Worker, flight: Flight) -> None:
        job = flight.release()
        error = job.exception()
        if error is not None and not flight.sent:  # the thread refused to touch a lost device
            self._requeue(flight.members)
        if flight not in worker.flights:
            return  # the device hung, and everything of it was settled then
        worker.flights.remove(flight)
        if not flight.sent and worker.lost is None and isinstance(error, BackendFault) and error.fatal:
            self.lose(worker, str(error))  # while it loaded a model: who loads one waits for all devices
        self._watch(worker)
        if error is None or flight.sent:
            sent = set(map(id, flight.sent))
            for member in flight.members:
                if id(member) not in sent:
                    self._dropped(member)
        if flight.sent and error is not None:
            self._failed(worker, flight, error)
        elif error is None and (answers := job.result()) is not None:
            self._answer(worker, flight, answers)
        self.dispatch()

    def _answer(self, worker: Worker, flight: Flight, answers: Answers) -> None:
        size = len(flight.sent)
        self._metrics.device_batches.labels(worker.name).inc()
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
                "device": worker.name,
                "batch_size": len(flight.sent),
                "requests": [member.value.item.request_id for member in flight.sent],
            },
        )
        if isinstance(error, BackendFault) and error.fatal:
            self.lose(worker, str(error), flight.sent)
        elif worker.lost is not None:  # by another thread of its device
            for member in flight.sent:
                member.value.fail(DeviceLostError(f"the device is lost: {worker.lost}"))
        elif isinstance(error, OutOfMemoryFault):
            self._out_of_memory(worker, flight, error)
        else:
            self._isolate(worker, flight, error)

    def _out_of_memory(self, worker: Worker, flight: Flight, error: BaseException) -> None:
        self._metrics.faults.labels("out_of_memory", worker.name).inc()
        size = len(flight.sent)
        self._limit(worker, flight.sent[0].claim.group).shrink(size, self._clock())
        if size == 1:
            flight.sent[0].value.fail(InferenceError(f"the device has no memory for this image: {error}"))
        else:
            self._metrics.device.arrive(size)
            self._requeue(flight.sent)

    def _isolate(self, worker: Worker, flight: Flight, error: BaseException) -> None:
        """The device has proved that it still works: run the members one by one, so that only the poison one fails."""
        if len(flight.sent) == 1:
            self._metrics.faults.labels("item", worker.name).inc()
            flight.sent[0].value.fail(InferenceError(f"the device failed on this image: {error}"))
        else:
            self._metrics.faults.labels("batch", worker.name).inc()
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
            return
        self._take_back(worker)
        stuck = [flight for flight in worker.flights if not flight.job.done()]
        worker.flights = [flight for flight in worker.flights if flight.job.done()]  # about to land
        self._metrics.device.dismiss(worker.name)
        members = [member for flight in stuck for member in flight.members]
        self.lose(worker, f"{worker.name} did not answer for {self._limits.hang_s:g} s", members)

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
        member.value.fail(too_late())
        if member.value.item.part:
            return
        if member.value.answer.cancelled():
            self._metrics.dropped.labels(member.value.gone).inc()
        elif isinstance(member.value.answer.exception(), DeadlineExceededError):
            self._metrics.dropped.labels("expired").inc()

    def _limit(self, worker: Worker, group: Hashable) -> BatchLimit:
        return worker.limit(group, self._most.get(artifact_of(group), 1), self._limits.oom_recovery_s)

    def _round(self, artifact_id: str) -> int:
        """Items of an artifact that all devices together run at once, as memory allows it now."""
        now, most = self._clock(), self._most.get(artifact_id, 1)
        return sum(worker.size(artifact_id, most, now) for worker in living(self.workers)) or most

"""A random walk of all that can happen to three device threads on two devices, and what must hold after each step.

The devices are moved by hand: a job begins and ends when a step says so, and the event loop turns in between, so that
every walk can be repeated. Beginning runs the real job in a thread of its own up to the backend, and ending lets it go
on.
"""

import asyncio
import random
import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

from server.backends.base import Arrays, BackendFault, Device, OutOfMemoryFault
from server.backends.fake import FakeBackend, fake_artifact
from server.engine.batching import Member
from server.engine.devices import Worker, living, names_of
from server.engine.dispatch import Dispatcher
from server.engine.flights import Entry
from server.engine.items import EngineLimits
from server.engine.worker import DeviceThread
from server.errors import DeadlineExceededError, DeviceLostError, InferenceError
from server.observability.metrics import Metrics
from tests.support.backends import PATIENCE_S, SIZE, counted, mark_of, marked_item, turn_loop
from tests.support.clock import FakeClock

ARTIFACT = fake_artifact(SIZE)
DEVICES = tuple(Device(name, max_batch=4, look_ahead=1) for name in ("gpu:0", "gpu:1", "gpu:0"))
FAULTS = {
    "poison": lambda: BackendFault("a poisoned batch"),
    "memory": lambda: OutOfMemoryFault("no room"),
    "fatal": lambda: BackendFault("the card has fallen off", fatal=True),
}


class HandThread(DeviceThread):
    """A device thread whose jobs begin and end when it is told so."""

    def __init__(self) -> None:
        super().__init__(FakeBackend, "by hand")
        self.backend = FakeBackend(before_run=self._enter)
        self.backend.load("a", ARTIFACT)
        self.backend.load("b", ARTIFACT)
        self.inside: list[int] = []
        self.lost: BackendFault | None = None
        self._line: deque[Any] = deque()
        self._steps: SimpleQueue[str] = SimpleQueue()
        self._verdicts: SimpleQueue[BackendFault | None] = SimpleQueue()

    def _enter(self, artifact_id: str, arrays: Arrays) -> None:
        self.inside = [int(image.flat[0]) for image in arrays["image"]]
        self._steps.put("inside")
        verdict = self._verdicts.get(timeout=PATIENCE_S)
        self.inside = []
        if verdict is not None:
            raise verdict

    def begin(self) -> None:
        """Take the next job; it is inside the backend afterwards, or done, if there was nothing to run."""
        job = self._line.popleft()

        def run() -> None:
            failure = job.run(self.backend, self.lost)
            if isinstance(failure, BackendFault) and failure.fatal:
                self.lost = failure
            self._steps.put("ended")

        threading.Thread(target=run, daemon=True).start()
        self._steps.get(timeout=PATIENCE_S)

    def end(self, verdict: BackendFault | None) -> None:
        """The job that is inside comes to its end."""
        self._verdicts.put(verdict)
        assert self._steps.get(timeout=PATIENCE_S) == "ended"

    @property
    def waiting(self) -> bool:
        """Whether it could begin a job; what was taken back is an empty shell."""
        while not self._jobs.empty():
            self._line.append(self._jobs.get_nowait())
        while self._line and self._line[0].future.cancelled():
            self._line.popleft()
        return bool(self._line) and not self.inside


class Walk:
    """Every item gets exactly one answer, the right one, whatever happens to which device."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)  # noqa: S311 - a walk, not a secret
        self.loop = asyncio.new_event_loop()
        self.clock, self.metrics = FakeClock(), Metrics()
        self.dispatcher = Dispatcher(EngineLimits(hang_s=1e6), self.metrics, self.clock)
        self.threads = [HandThread() for _ in DEVICES]
        for thread, device, name in zip(self.threads, DEVICES, names_of(DEVICES), strict=True):
            self.dispatcher.workers.append(Worker(thread, device, name))
            self.metrics.device_opened(name)
        self.metrics.device.capacity = len(DEVICES)
        self.dispatcher.allow("a", 4)
        self.dispatcher.allow("b", 2)
        self.entries: list[tuple[Entry, Member[Entry]]] = []
        self.cancelled: set[int] = set()
        self.doomed: set[int] = set()  # were inside when their device was lost: they must never run again
        self.seen: set[str] = set()

    def go(self, steps: int) -> None:
        """So many steps, and then whatever is left comes to its end."""
        rules = {
            self.arrive: 3,
            self.leave: 1,
            self.pass_time: 1,
            self.begin: 4,
            self.end: 4,
            self.hang: 0.2,
        }
        for step in self.random.choices(list(rules), list(rules.values()), k=steps):
            step()
            self.check()
        self.finish()

    def arrive(self) -> None:
        artifact, timeout_s = self.random.choice("aab"), self.random.choice([None, 50.0])
        deadline = None if timeout_s is None else self.clock() + timeout_s

        def add() -> None:
            for _ in range(self.random.randint(1, 4)):
                item = marked_item(len(self.entries), artifact, deadline=deadline)
                self.entries.append(self.dispatcher.add(item))

        if len(self.entries) < 250 and self.dispatcher.lost is None:  # as `Engine.submit`, which refuses then
            self._turn(add)

    def leave(self) -> None:
        waiting = [at for at, (entry, _) in enumerate(self.entries) if not entry.answer.done()]
        if waiting:
            at = self.random.choice(waiting)
            entry, member = self.entries[at]
            self.cancelled.add(at)
            entry.answer.cancel()
            self._turn(lambda: self.dispatcher.cancel(member))

    def pass_time(self) -> None:
        self.clock.advance(self.random.choice([1.0, 60.0]))

        def expire() -> None:
            for entry, member in self.entries:
                if not entry.answer.done() and member.claim.deadline <= self.clock():
                    self.dispatcher.expire(member)

        self._turn(expire)

    def begin(self) -> None:
        ready = [at for at, thread in enumerate(self.threads) if thread.waiting]
        if ready:
            self._begin(self.random.choice(ready))
            self._turn()

    def end(self) -> None:
        busy = [at for at, thread in enumerate(self.threads) if thread.inside]
        if busy:
            verdict = self.random.choices(["fine", *FAULTS], [6, 1, 1, 0.5])[0]
            self._end(self.random.choice(busy), verdict)

    def hang(self) -> None:
        busy = [at for at, worker in enumerate(self.dispatcher.workers) if worker.flights]
        if busy:
            at = self.random.choice(busy)
            self.doomed.update(self.threads[at].inside)
            self._turn(lambda: self.dispatcher._hangs(self.dispatcher.workers[at]))
            self.seen.add("hang")

    def check(self) -> None:
        """What holds after every step."""
        first, other, second = workers = self.dispatcher.workers
        alive = living(workers)
        if len(self.dispatcher._queue):
            assert all(len(worker.flights) > worker.device.look_ahead for worker in alive), (
                "it waits beside an idle one"
            )
        assert (first.lost is None) == (second.lost is None), "they share a device"
        assert (self.dispatcher.lost is None) == bool(alive), "the process is lost with the last device, not before"
        assert self.metrics.device.capacity == max(1, len(alive))
        for worker in (first, other, second):
            assert counted(self.metrics, "birefnet_device_up", device=worker.name) == (worker.lost is None)
        for mark, (entry, _) in enumerate(self.entries):
            self._check_answer(mark, entry)

    def finish(self) -> None:
        """Whatever is left comes to its end, and then nothing is."""
        while True:
            ready = [at for at, thread in enumerate(self.threads) if thread.waiting]
            busy = [at for at, thread in enumerate(self.threads) if thread.inside]
            if not busy and not ready:
                break
            for at in ready:
                self._begin(at)
            self._turn()
            for at in busy:
                self._end(at, "fine")
        self.check()
        assert all(entry.answer.done() for entry, _ in self.entries), "somebody was forgotten"
        assert (self.metrics.device._held, self.metrics.device._running) == ({}, set()), "the books do not balance"
        assert not self.dispatcher._pending
        assert all(not worker.flights and worker.watchdog is None for worker in self.dispatcher.workers)
        self.loop.close()

    def _begin(self, at: int) -> None:
        thread = self.threads[at]
        was_lost = thread.lost is not None
        thread.begin()
        assert not (was_lost and thread.inside), "a lost device was used again"
        assert not self.doomed.intersection(thread.inside), "what a device died of was tried on another"
        others = [mark for other in self.threads if other is not thread for mark in other.inside]
        assert not set(thread.inside).intersection(others), "one item on two devices at once"
        assert len(thread.inside) <= 4

    def _end(self, at: int, verdict: str) -> None:
        thread = self.threads[at]
        if verdict == "fatal":
            self.doomed.update(thread.inside)
        thread.end(FAULTS[verdict]() if verdict in FAULTS else None)
        if thread.waiting and self.random.random() < 0.5:
            self._begin(at)  # before the event loop hears of the end
        self._turn()
        self.seen.add(verdict)

    def _turn(self, step: Callable[[], None] = lambda: None) -> None:
        """Do something in the event loop, and let it come to rest."""

        async def turn() -> None:
            step()
            await turn_loop()

        self.loop.run_until_complete(turn())

    def _check_answer(self, mark: int, entry: Entry) -> None:
        if not entry.answer.done():
            assert self.dispatcher.lost is None, "it waits for a process that has lost its last device"
        elif entry.answer.cancelled():
            assert mark in self.cancelled
        elif (error := entry.answer.exception()) is None:
            assert mark_of(entry.answer.result()) == mark
        elif isinstance(error, DeviceLostError):
            # Two threads share a device: what one runs is lost with the other if it fails, or if it was the last.
            shared = self.dispatcher.workers[0].lost is not None
            assert mark in self.doomed or shared or self.dispatcher.lost is not None
        else:
            assert isinstance(error, InferenceError | DeadlineExceededError)


def test_whatever_happens_every_item_gets_one_answer():
    seen: set[str] = set()
    for seed in range(40):
        walk = Walk(seed)
        walk.go(steps=60)
        seen |= walk.seen
    assert seen == {"fine", "hang", *FAULTS}, "or else the walks prove less than they say"

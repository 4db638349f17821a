"""An item that waits for its answer, and a batch of them on its way to a device and back."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from server.backends.base import Backend, BackendFault, OutOfMemoryFault
from server.engine.batching import Member
from server.engine.items import Item, Outcome
from server.engine.warmup import SelfTestFailedError, Warm, prove
from server.engine.worker import Answers, Desk, run_items
from server.errors import DeadlineExceededError, ServerError


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

    def fail(self, error: ServerError) -> None:
        """Answer it with an error, if it has no answer yet."""
        if not self.answer.done():
            self.answer.set_exception(error)


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

    def run(self, backend: Backend, desk: Desk, clock: Callable[[], float]) -> Answers | None:
        """In the device thread: leave out who has left or is too late, and run the others."""
        now = clock()
        sent = [member for member in self.members if not member.value.answer.done() and member.claim.deadline > now]
        desk.station.leave(len(self.members) - len(sent))
        self.sent = sent
        if not sent:
            return None
        return run_items(backend, self.artifact_id, [member.value.item.arrays for member in sent], desk, clock)

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


def too_late() -> DeadlineExceededError:
    """The answer to whoever's deadline has passed."""
    return DeadlineExceededError("the deadline passed before the network's answer was there")

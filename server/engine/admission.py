"""The door: who may come in, and when to come back.

A request is inside from the moment its header has been read until its answer is encoded, so work on the host counts as
much as work on the device. What is inside is bounded by number, by megapixels, by the memory that it takes and, where
that is asked for, by the wait that is predicted for the next one.

Who is refused is told when to come back, and a quarter of the room, at most, is held for those who are due: a newcomer
cannot take it, so that a client that obeys is let in. Where nobody is due, nothing is held. One that needs more than
that, came back and found no room again is waited for: nobody takes what it needs until its next time, one at a time.

Rules of this module: one event loop, no locks. Every refusal is counted once, under the reason it is raised for.
"""

import asyncio
import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any, NoReturn

from server.access import Account
from server.engine.batching import Priority
from server.engine.bookings import Bookings, Wish
from server.engine.items import EVICTED
from server.engine.outlook import Outlook
from server.engine.service_rate import ServiceRate
from server.errors import DrainingError, NotReadyError, OverloadedError, RateLimitedError, ServerError
from server.observability.metrics import Metrics

_EVIDENCE = 8  # answers before anyone is refused on a prediction
_NOT_READY_RETRY_S = 5  # warming up takes seconds, but is not measured
_UNKNOWN_S = 10  # longest wait that is advised to a request of which nothing is known
_DRAINING_RETRY_S = 1  # another process takes it
HELD_SHARE = 4
"""The part of the room, one in so many, that is held for those who are due."""
_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class AdmissionLimits:
    """How much may be inside.

    Attributes:
        max_requests: Requests from header to answer.
        max_megapixels: Their pixels together. A single larger image still comes in when nobody is inside.
        max_memory_bytes: What they take together at their peaks. Nobody who takes more alone may come to this door.
        max_wait_s: Seconds that a request may be expected to wait before a device takes it.
        max_retry_after_s: Longest wait that a refusal may advise.
    """

    max_requests: int = 64
    max_megapixels: float = 400.0
    max_memory_bytes: float = math.inf
    max_wait_s: float = math.inf
    max_retry_after_s: int = 600

    def __post_init__(self) -> None:
        amounts = (self.max_megapixels, self.max_memory_bytes, self.max_wait_s)
        if self.max_requests < 1 or min(amounts) <= 0 or self.max_retry_after_s < 1:
            raise ValueError(f"admission limits: expected positive numbers, found {self}")


@dataclass(frozen=True, slots=True)
class Entrant:
    """A request at the door.

    Attributes:
        megapixels: Size of the image, from its header.
        memory_bytes: What answering it takes at its peak.
        priority: As of the item that will come of it.
        deadline: Monotonic seconds, absolute; infinite where there is none.
        account: Whose rate limit pays for it, once it is inside; None where there is none.
        fingerprint: Equal for the same request sent again, by which one that was told to come back is known; None
            where that is not to be.
        extra_s: Seconds that answering it is expected to take beyond what others do.
    """

    megapixels: float
    memory_bytes: int = 0
    priority: Priority = Priority.NORMAL
    deadline: float = math.inf
    account: Account | None = None
    fingerprint: int | None = None
    extra_s: float = 0.0


@dataclass(slots=True, eq=False)
class Stay:
    """A request that is inside.

    Attributes:
        entrant: As it came.
        waits: Until the device has answered it: as long, others have it before them.
    """

    entrant: Entrant
    task: "asyncio.Task[object] | None"
    waits: bool = True


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the door sees of the engine.

    Attributes:
        unready_reason: Why nothing is taken now; None when it is.
        wait_s: Seconds that whoever has so many before it waits for a device, or for the host where that takes longer.
        own_s: Seconds that one request takes at least, once it is its turn.
    """

    unready_reason: Callable[[], str | None] = lambda: None
    wait_s: Callable[[int], float] = lambda ahead: 0.0
    own_s: Callable[[], float] = lambda: 0.0


_OPEN = Surroundings()


class Admission:
    """Lets requests in, or refuses them at once with an honest `Retry-After`; `Bookings` says how that is made.

    Attributes:
        limits: How much may be inside.
        metrics: Where refusals are counted.
        behind: What it sees of the engine.
        rate: At which those who were inside were answered.
    """

    def __init__(
        self,
        limits: AdmissionLimits,
        metrics: Metrics,
        surroundings: Surroundings = _OPEN,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Open the door.

        Args:
            limits: How much may be inside.
            metrics: Where refusals are counted.
            surroundings: What is behind the door.
            clock: Monotonic seconds, the scale of deadlines.
        """
        self.limits = limits
        self.rate = ServiceRate()
        self.metrics = metrics
        self.behind = surroundings
        self._clock = clock
        self._inside: set[Stay] = set()
        self._held = 0  # bytes
        self._bookings = Bookings(limits.max_retry_after_s)
        self._unknown = Bookings(min(_UNKNOWN_S, limits.max_retry_after_s))
        self._draining = False
        self._evicted: ServerError | None = None
        self._empty: list[asyncio.Future[None]] = []
        metrics.watch_inside(self._inside.__len__)

    @property
    def inside(self) -> int:
        """Requests inside now."""
        return len(self._inside)

    @property
    def megapixels_inside(self) -> float:
        """Their megapixels."""
        return math.fsum(stay.entrant.megapixels for stay in self._inside)

    @property
    def memory_inside(self) -> int:
        """Bytes that they take at their peaks, and what is held of those who have left."""
        return self._held + sum(stay.entrant.memory_bytes for stay in self._inside)

    @property
    def draining(self) -> bool:
        """True when everyone is refused because the process is about to exit."""
        return self._draining

    @contextmanager
    def enter(self, entrant: Entrant) -> Iterator[Stay]:
        """Be inside while the context is open.

        Raises:
            DrainingError: The process is about to exit.
            NotReadyError: The engine takes nothing.
            UnauthenticatedError: The account was withdrawn.
            RateLimitedError: The account has used up its minute.
            OverloadedError: Too much is inside; `retry_after_s` says when to come back.
            DeadlineExceededError: What is ahead in the queue takes longer than the deadline allows.
            ServerError: `evict` was called with it.
        """
        self.check(entrant)
        self._bookings.keep(entrant.fingerprint)
        account = entrant.account
        paid = account.spend(entrant.megapixels) if account is not None else nullcontext()
        with paid, self._inside_as(Stay(entrant, _current_task())) as stay:
            yield stay

    @contextmanager
    def _inside_as(self, stay: Stay) -> Iterator[Stay]:
        if not self._inside:
            self.rate.begin(self._clock())
        self._inside.add(stay)
        try:
            yield stay
            self.rate.finish(stay.entrant.megapixels, self._clock())  # only answers show what the server can do
        except asyncio.CancelledError:
            # As in `asyncio.timeout`: a cancellation by someone else as well goes first.
            if self._evicted is None or stay.task is None or stay.task.uncancel() > 0:
                raise
            raise self._evicted from None
        finally:
            self._leave(stay)

    @contextmanager
    def hold(self, memory_bytes: int) -> Iterator[None]:
        """Count what a request has left behind, such as an answer that nobody has read, while the context is open."""
        self._held += memory_bytes
        try:
            yield
        finally:
            self._held -= memory_bytes

    def hold_until(self, memory_bytes: int, done: Future[Any]) -> None:
        """Count what a request has left behind until work that has begun is done. In the event loop."""
        loop, held = asyncio.get_running_loop(), ExitStack()
        held.enter_context(self.hold(memory_bytes))

        def let_go(_: object) -> None:
            with suppress(RuntimeError):  # the loop is closed: nobody counts any more
                loop.call_soon_threadsafe(held.close)

        done.add_done_callback(let_go)

    def check_open(self) -> None:
        """Refuse whoever comes while nobody is taken, before anything is read of the request.

        Raises:
            DrainingError: The process is about to exit.
            NotReadyError: The engine takes nothing.
        """
        if self._draining:
            self._refuse("draining", DrainingError("the server is shutting down", retry_after_s=_DRAINING_RETRY_S))
        reason = self.behind.unready_reason()
        if reason is not None:
            self._refuse("not_ready", NotReadyError(reason, retry_after_s=_NOT_READY_RETRY_S))

    def refuse_overload(self, reason: str, detail: str) -> NoReturn:
        """Refuse a request, of which nothing is known yet, because there is no room for it.

        It would not be known again. So it stands in a short line of its own, and takes no time from those who are.

        Raises:
            OverloadedError: Counted; it says when there will be room.
        """
        request_s = self._seconds_per_request()
        room_s = max(1, self.limits.max_requests // HELD_SHARE) * request_s
        after_s = self._unknown.book(Wish(0.0, 0, request_s), room_s, self._clock())
        self._refuse(reason, OverloadedError(detail, retry_after_s=after_s))

    def check(self, entrant: Entrant) -> None:
        """Refuse who could not come in now. Of an image that is not known yet the size is 0; it may be refused later.

        Raises:
            ServerError: As `enter`.
        """
        now = self._clock()
        self.check_open()
        self._check_allowance(entrant)
        self._check_room(entrant, now)
        self._check_deadline(entrant, now)

    async def drain(self) -> None:
        """Refuse everyone from now on, and wait until all that are inside have left."""
        self._draining = True
        if self._inside:
            waiter = asyncio.get_running_loop().create_future()
            self._empty.append(waiter)
            await waiter

    def evict(self, error: ServerError) -> int:
        """End the wait of all who are inside, wherever they are, with an error; how many they were. After `drain`."""
        self._evicted = error
        for stay in self._inside:
            if stay.task is not None:
                stay.task.cancel(EVICTED)
        return len(self._inside)

    def _leave(self, stay: Stay) -> None:
        self._inside.remove(stay)
        if not self._inside:
            self.rate.end(self._clock())
            for waiter in self._empty:
                if not waiter.done():
                    waiter.set_result(None)
            self._empty.clear()

    def _check_allowance(self, entrant: Entrant) -> None:
        # Before the room: who is over its limit takes no place in the line of those who wait for room.
        if entrant.account is not None:
            try:
                entrant.account.check(entrant.megapixels)
            except RateLimitedError as error:
                self._refuse("rate_limit", error)

    def _check_room(self, entrant: Entrant, now: float) -> None:
        limits, number = self.limits, len(self._inside)
        due = self._bookings.is_due(entrant.fingerprint, now)
        held = [] if due else self._bookings.expected(now)  # room that is not for newcomers
        if number >= limits.max_requests - min(len(held), limits.max_requests // HELD_SHARE):
            detail = f"at most {limits.max_requests} requests are taken at a time, {number} are inside"
            self._refuse_room("requests", detail + and_held(held), entrant, limits.max_requests)
        self._check_wait(entrant, held)
        self._check_size(entrant, held, now)

    def _check_size(self, entrant: Entrant, held: Sequence[Wish], now: float) -> None:
        limits, number = self.limits, len(self._inside)
        first = self._bookings.first(now)
        if first is not None and first.fingerprint == entrant.fingerprint:
            first = None
        megapixels, inside = entrant.megapixels, self.megapixels_inside
        kept = min(math.fsum(wish.megapixels for wish in held), limits.max_megapixels / HELD_SHARE) if held else 0.0
        kept = max(kept, first.megapixels) if first is not None else kept
        if (number or first is not None) and inside + megapixels + kept > limits.max_megapixels:
            detail = (
                f"at most {limits.max_megapixels:g} megapixels are taken at a time, {inside:.3g} are inside, "
                f"and this image has {megapixels:.3g}"
            )
            self._refuse_room("megapixels", detail + and_held(held), entrant, number)
        taken, need = self.memory_inside, entrant.memory_bytes
        kept = min(sum(wish.memory_bytes for wish in held), limits.max_memory_bytes / HELD_SHARE) if held else 0.0
        kept = max(kept, first.memory_bytes) if first is not None else kept
        if taken + need + (kept if number or first is not None else 0) > limits.max_memory_bytes:
            detail = (
                f"at most {limits.max_memory_bytes / _MIB:.0f} MiB of memory are taken at a time, "
                f"{taken / _MIB:.0f} are, and this request needs {need / _MIB:.0f}"
            )
            self._refuse_room("memory", detail + and_held(held), entrant, number)

    def _check_wait(self, entrant: Entrant, held: Sequence[Wish]) -> None:
        most = self.limits.max_wait_s
        if most == math.inf:
            return
        ahead = sum(stay.waits for stay in self._inside)
        wait_s = self.behind.wait_s(ahead + min(len(held), (ahead + 1) // (HELD_SHARE - 1)))
        if wait_s > most:
            detail = f"at most {most:g} s of waiting are allowed, {ahead} requests are ahead and take {wait_s:.3g} s"
            self._refuse_room("wait", detail + and_held(held), entrant, ahead)

    def _check_deadline(self, entrant: Entrant, now: float) -> None:
        mine = (entrant.priority, entrant.deadline)
        ahead = sum((stay.entrant.priority, stay.entrant.deadline) <= mine for stay in self._inside)
        wait_s = own_s = 0.0
        if self._inside and self.rate.finished >= _EVIDENCE:  # whoever finds nobody inside shows how long it takes now
            # After calm the rate is that of batches of one.
            wait_s = min(ahead * self._seconds_per_request(), self.behind.wait_s(ahead))
            own_s = self.behind.own_s()
        if (error := Outlook(entrant.deadline - now, ahead, wait_s, own_s, entrant.extra_s).judge()) is not None:
            self._refuse("deadline", error)

    def _refuse_room(self, reason: str, detail: str, entrant: Entrant, crowd: int) -> NoReturn:
        """Refuse for want of room, where `crowd` requests are what there is room for."""
        request_s = self._seconds_per_request()
        per_s = self.rate.megapixels_per_s
        # An image that is refused for its size waits until as much as it has may have left.
        need_s = entrant.megapixels / per_s if reason in ("megapixels", "memory") and per_s else request_s
        large = (
            entrant.megapixels > self.limits.max_megapixels / HELD_SHARE
            or entrant.memory_bytes > self.limits.max_memory_bytes / HELD_SHARE
        )
        wish = Wish(entrant.megapixels, entrant.memory_bytes, need_s, entrant.fingerprint, large)
        after_s = self._bookings.book(wish, max(1, crowd // HELD_SHARE) * request_s, self._clock())
        self._refuse(reason, OverloadedError(detail, retry_after_s=after_s))

    def _refuse(self, reason: str, error: ServerError) -> NoReturn:
        self.metrics.refusals.labels(reason).inc()
        error.reason = reason
        raise error

    def _seconds_per_request(self) -> float:
        """Measured; before the first answer what the warm-up took; before that a second."""
        per_s = self.rate.requests_per_s
        if per_s is not None:
            return 1 / per_s
        device = self.metrics.device
        return (device.item_s or 1.0) / device.capacity


def _current_task() -> "asyncio.Task[object] | None":
    """Who comes in; None outside of an event loop."""
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None


def and_held(held: Sequence[Wish]) -> str:
    """What a refusal adds where room is held."""
    return f"; {len(held)} who were told to come back now go first" if held else ""

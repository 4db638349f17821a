"""The door: who may come in, and when to come back.

A request is inside from the moment its header has been read until its answer is encoded, so work on the host counts as
much as work on the device. What is inside is bounded by number, by megapixels and by the memory that it takes.

Rules of this module: one event loop, no locks. Every refusal is counted once, under the reason it is raised for.
"""

import asyncio
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

from server.access import Account
from server.engine.batching import Priority
from server.errors import (
    DeadlineExceededError,
    DrainingError,
    NotReadyError,
    OverloadedError,
    RateLimitedError,
    ServerError,
)
from server.observability.metrics import Metrics

_MEMORY_S = 30.0  # of busy time after which an observation counts for a third
_EVIDENCE = 8  # answers before anyone is refused on a prediction
_NOT_READY_RETRY_S = 5  # warming up takes seconds, but is not measured
_DRAINING_RETRY_S = 1  # another process takes it
_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class AdmissionLimits:
    """How much may be inside.

    Attributes:
        max_requests: Requests from header to answer.
        max_megapixels: Their pixels together. A single larger image still comes in when nobody is inside.
        max_memory_bytes: What they take together at their peaks. Nobody who takes more alone may come to this door.
        max_retry_after_s: Longest wait that a refusal may advise.
    """

    max_requests: int = 64
    max_megapixels: float = 400.0
    max_memory_bytes: float = math.inf
    max_retry_after_s: int = 120

    def __post_init__(self) -> None:
        if self.max_requests < 1 or min(self.max_megapixels, self.max_memory_bytes) <= 0 or self.max_retry_after_s < 1:
            raise ValueError(f"admission limits: expected positive numbers, found {self}")


class ServiceRate:
    """Requests and megapixels finished per second of having work, the last half minute of it weighted most.

    Idle time does not count: the rate says what the server can do, not what it was asked for. `now` is an argument.
    """

    def __init__(self, memory_s: float = _MEMORY_S) -> None:
        self._memory_s = memory_s
        self._busy_s = self._requests = self._megapixels = 0.0
        self._since: float | None = None
        self.finished = 0

    def begin(self, now: float) -> None:
        """The first request has come into an empty server."""
        self._since = now

    def finish(self, megapixels: float, now: float) -> None:
        """A request was answered."""
        self._advance(now)
        self._requests += 1
        self._megapixels += megapixels
        self.finished += 1

    def end(self, now: float) -> None:
        """The last request has left."""
        self._advance(now)
        self._since = None

    @property
    def requests_per_s(self) -> float | None:
        """None until something was measured."""
        return self._requests / self._busy_s if self._requests and self._busy_s > 0 else None

    @property
    def megapixels_per_s(self) -> float | None:
        """None until something was measured."""
        return self._megapixels / self._busy_s if self._megapixels and self._busy_s > 0 else None

    def _advance(self, now: float) -> None:
        if self._since is None:
            return
        kept = math.exp(-(now - self._since) / self._memory_s)
        self._busy_s = self._busy_s * kept + self._memory_s * (1 - kept)
        self._requests *= kept
        self._megapixels *= kept
        self._since = now


@dataclass(frozen=True, slots=True, eq=False)
class _Place:
    megapixels: float
    memory_bytes: int
    priority: Priority
    deadline: float
    task: "asyncio.Task[object] | None"


class Admission:
    """Lets requests in, or refuses them at once with an honest `Retry-After`.

    `Retry-After`: every refused client gets its own place in a line that moves at the measured service rate, so that
    they do not all come back at the same moment, to be refused again. The door cannot tell a new client from one that
    did not wait, so the line has no more places than the door: by then all who are inside now have left.
    """

    def __init__(
        self,
        limits: AdmissionLimits,
        metrics: Metrics,
        unready_reason: Callable[[], str | None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Open the door.

        Args:
            limits: How much may be inside.
            metrics: Where refusals are counted.
            unready_reason: Why the engine takes nothing now; None when it does.
            clock: Monotonic seconds, the scale of deadlines.
        """
        self.limits = limits
        self.rate = ServiceRate()
        self._metrics = metrics
        self._unready_reason = unready_reason
        self._clock = clock
        self._inside: set[_Place] = set()
        self._line_end = -math.inf
        self._draining = False
        self._evicted: ServerError | None = None
        self._empty: list[asyncio.Future[None]] = []

    @property
    def inside(self) -> int:
        """Requests inside now."""
        return len(self._inside)

    @property
    def megapixels_inside(self) -> float:
        """Their megapixels."""
        return math.fsum(place.megapixels for place in self._inside)

    @property
    def memory_inside(self) -> int:
        """Bytes that they take at their peaks."""
        return sum(place.memory_bytes for place in self._inside)

    @property
    def draining(self) -> bool:
        """True when everyone is refused because the process is about to exit."""
        return self._draining

    @contextmanager
    def enter(
        self,
        megapixels: float,
        priority: Priority = Priority.NORMAL,
        deadline: float | None = None,
        account: Account | None = None,
        memory_bytes: int = 0,
    ) -> Iterator[None]:
        """Be inside while the context is open.

        Args:
            megapixels: Size of the image, from its header.
            priority: As of the item that will come of it.
            deadline: Monotonic seconds, absolute; None where there is none.
            account: Whose rate limit pays for it, once it is inside; None where there is none.
            memory_bytes: What answering it takes at its peak.

        Raises:
            DrainingError: The process is about to exit.
            NotReadyError: The engine takes nothing.
            UnauthenticatedError: The account was withdrawn.
            RateLimitedError: The account has used up its minute.
            OverloadedError: Too much is inside; `retry_after_s` says when to come back.
            DeadlineExceededError: What is ahead in the queue takes longer than the deadline allows.
            ServerError: `evict` was called with it.
        """
        now = self._clock()
        until = math.inf if deadline is None else deadline
        place = _Place(megapixels, memory_bytes, priority, until, _current_task())
        self.check_open()
        self._check_allowance(account, megapixels)
        self._check_room(place, now)
        self._check_deadline(place, now)
        with account.spend(megapixels) if account is not None else nullcontext(), self._inside_as(place, now):
            yield

    @contextmanager
    def _inside_as(self, place: _Place, now: float) -> Iterator[None]:
        if not self._inside:
            self.rate.begin(now)
        self._inside.add(place)
        try:
            yield
            self.rate.finish(place.megapixels, self._clock())  # only answers show what the server can do
        except asyncio.CancelledError:
            # As in `asyncio.timeout`: a cancellation by someone else as well goes first.
            if self._evicted is None or place.task is None or place.task.uncancel() > 0:
                raise
            raise self._evicted from None
        finally:
            self._leave(place)

    def check_open(self) -> None:
        """Refuse whoever comes while nobody is taken, before anything is read of the request.

        Raises:
            DrainingError: The process is about to exit.
            NotReadyError: The engine takes nothing.
        """
        if self._draining:
            self._refuse("draining", DrainingError("the server is shutting down", retry_after_s=_DRAINING_RETRY_S))
        reason = self._unready_reason()
        if reason is not None:
            self._refuse("not_ready", NotReadyError(reason, retry_after_s=_NOT_READY_RETRY_S))

    def overloaded(self, reason: str, detail: str) -> OverloadedError:
        """The refusal, counted, of a request that there is no room for; it says when there will be."""
        self._metrics.refusals.labels(reason).inc()
        return OverloadedError(detail, retry_after_s=self._advise(self._seconds_per_request(), self._clock()))

    def check(self, priority: Priority, deadline: float, account: Account | None) -> None:
        """Refuse now who would be refused whatever the size of the image; who is not may be refused later.

        Args:
            priority: As of the item that will come of it.
            deadline: Monotonic seconds, absolute.
            account: Whose rate limit will pay for it; None where there is none.

        Raises:
            ServerError: As `enter`.
        """
        now = self._clock()
        place = _Place(0.0, 0, priority, deadline, None)
        self.check_open()
        self._check_allowance(account, 0.0)
        self._check_room(place, now)
        self._check_deadline(place, now)

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
        for place in self._inside:
            if place.task is not None:
                place.task.cancel()
        return len(self._inside)

    def _leave(self, place: _Place) -> None:
        self._inside.remove(place)
        if not self._inside:
            self.rate.end(self._clock())
            for waiter in self._empty:
                if not waiter.done():
                    waiter.set_result(None)
            self._empty.clear()

    def _check_allowance(self, account: Account | None, megapixels: float) -> None:
        # Before the room: who is over its limit takes no place in the line of those who wait for room.
        if account is not None:
            try:
                account.check(megapixels)
            except RateLimitedError as error:
                self._refuse("rate_limit", error)

    def _check_room(self, place: _Place, now: float) -> None:
        limits = self.limits
        if len(self._inside) >= limits.max_requests:
            detail = f"at most {limits.max_requests} requests are taken at a time, and so many are inside"
            raise self.overloaded("requests", detail)
        megapixels, inside = place.megapixels, self.megapixels_inside
        if self._inside and inside + megapixels > limits.max_megapixels:
            detail = (
                f"at most {limits.max_megapixels:g} megapixels are taken at a time, {inside:.3g} are inside, "
                f"and this image has {megapixels:.3g}"
            )
            self._refuse_size("megapixels", detail, megapixels, now)
        taken, need = self.memory_inside, place.memory_bytes
        if taken + need > limits.max_memory_bytes:
            detail = (
                f"at most {limits.max_memory_bytes / _MIB:.0f} MiB of memory are taken at a time, "
                f"{taken / _MIB:.0f} are, and this request needs {need / _MIB:.0f}"
            )
            self._refuse_size("memory", detail, megapixels, now)

    def _refuse_size(self, reason: str, detail: str, megapixels: float, now: float) -> None:
        """Refuse an image for its size: as much as it has must leave before it can come in."""
        per_s = self.rate.megapixels_per_s
        need_s = megapixels / per_s if per_s else self._seconds_per_request()
        self._refuse(reason, OverloadedError(detail, retry_after_s=self._advise(need_s, now)))

    def _check_deadline(self, place: _Place, now: float) -> None:
        remaining = place.deadline - now
        ahead = sum((other.priority, other.deadline) <= (place.priority, place.deadline) for other in self._inside)
        wait = ahead * self._seconds_per_request() if self.rate.finished >= _EVIDENCE else 0.0
        if remaining <= 0 or wait > remaining:
            detail = (
                f"{ahead} requests are ahead and take about {wait:.1f} s, but only {max(remaining, 0):.1f} s are left"
            )
            self._refuse("deadline", DeadlineExceededError(detail))

    def _refuse(self, reason: str, error: ServerError) -> None:
        self._metrics.refusals.labels(reason).inc()
        raise error

    def _advise(self, need_s: float, now: float) -> int:
        """Put one more client at the end of the line; whole seconds until its turn."""
        longest = max(need_s, self.limits.max_requests * self._seconds_per_request())
        latest = now + min(longest, self.limits.max_retry_after_s)
        self._line_end = min(max(self._line_end, now) + need_s, latest)
        return max(1, math.ceil(self._line_end - now))

    def _seconds_per_request(self) -> float:
        """Measured; before the first answer what the warm-up took; before that a second."""
        per_s = self.rate.requests_per_s
        if per_s is not None:
            return 1 / per_s
        device = self._metrics.device
        return (device.item_s or 1.0) / device.capacity


def _current_task() -> "asyncio.Task[object] | None":
    """Who comes in; None outside of an event loop."""
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None

"""Who leaves the queue together, when, and who leaves it for nothing.

Rules of this module:

- Standard library only. No clock (`now` is an argument), no sleep, no lock, no await: every decision can be replayed.
- It knows no artifact, array or device; a member's `value` is opaque, its `group` says with whom it may share a batch.
- Late binding: a batch is formed when a device asks for it, from what waits then. Nothing is ever held back to wait for
  company, so there is no timer to tune: an idle device serves at once, a busy one finds a bigger batch by itself.
- A member leaves exactly once: in a batch, as expired, or discarded by its owner.

The order. The most urgent member chooses the group, and the batch is filled with the most urgent of that group. Within
a priority the earliest deadline goes first. Ageing lifts a member by one priority for every `ageing_s` it has waited,
without an end, so whoever comes more than three such spans later stays behind it: low priority and far deadlines wait,
but do not starve.
"""

import heapq
import itertools
import math
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Generic, TypeVar

T = TypeVar("T")


class Priority(IntEnum):
    """Lower goes first."""

    HIGH = 0
    NORMAL = 1
    LOW = 2


@dataclass(frozen=True, slots=True)
class Claim:
    """How a member wants to be treated.

    Attributes:
        group: Members of one batch have equal groups (same artifact, same shapes).
        priority: Which of the waiting go first.
        deadline: Instant (monotonic seconds) from which on it must not be sent any more; infinite where there is none.
    """

    group: Hashable
    priority: Priority = Priority.NORMAL
    deadline: float = math.inf


@dataclass(frozen=True, slots=True, eq=False)
class Member(Generic[T]):
    """One waiting value. Compared by identity: two equal values are still two members."""

    value: T
    claim: Claim
    arrived: float
    order: int


@dataclass(frozen=True, slots=True)
class Batch(Generic[T]):
    """What left the queue in one step.

    Attributes:
        members: To be run together, most urgent first; all of one group. Empty when nothing could be sent.
        expired: Their deadline had passed. They must be answered, and must not be run.
    """

    members: tuple[Member[T], ...]
    expired: tuple[Member[T], ...]


class BatchQueue(Generic[T]):
    """Everything that waits for a device."""

    def __init__(self, ageing_s: float) -> None:
        if not ageing_s > 0:
            raise ValueError(f"ageing_s: expected a positive number of seconds, found {ageing_s}")
        self._ageing_s = ageing_s
        self._order = itertools.count()
        self._waiting: dict[int, Member[T]] = {}  # by order of arrival

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, value: T, claim: Claim, now: float) -> Member[T]:
        """Let a value wait; what comes back names it."""
        member = Member(value, claim, now, next(self._order))
        self._waiting[member.order] = member
        return member

    def discard(self, member: Member[T]) -> bool:
        """Take a member out without running it. False when it had left already."""
        return self._waiting.pop(member.order, None) is not None

    def put_back(self, members: Iterable[Member[T]]) -> None:
        """Return members of a batch that has not begun; they keep their place and their age."""
        for member in members:
            if member.order in self._waiting:
                raise ValueError(f"This is a bug: member {member.order} waits already")
            self._waiting[member.order] = member

    def take(self, now: float, limit_of: Callable[[Hashable], int]) -> Batch[T]:
        """Form the next batch.

        Args:
            now: Monotonic seconds.
            limit_of: Largest batch of a group, at least 1.
        """
        expired = tuple(member for member in self._waiting.values() if member.claim.deadline <= now)
        for member in expired:
            del self._waiting[member.order]
        if not self._waiting:
            return Batch((), expired)

        def urgency(member: Member[T]) -> tuple[int, float, int]:
            return self._urgency(member, now)

        group = min(self._waiting.values(), key=urgency).claim.group
        alike = (member for member in self._waiting.values() if member.claim.group == group)
        members = tuple(heapq.nsmallest(limit_of(group), alike, key=urgency))
        for member in members:
            del self._waiting[member.order]
        return Batch(members, expired)

    def clear(self) -> tuple[Member[T], ...]:
        """Take everything out, in order of arrival."""
        members = tuple(self._waiting[order] for order in sorted(self._waiting))
        self._waiting.clear()
        return members

    def _urgency(self, member: Member[T], now: float) -> tuple[int, float, int]:
        lifted = math.floor(max(0.0, now - member.arrived) / self._ageing_s)
        return member.claim.priority - lifted, member.claim.deadline, member.order


class BatchLimit:
    """The largest batch of one group: halved by running out of memory, doubled again with time.

    Memory that was short may be free again (another process, fragmentation), so the limit is not lowered for good; and
    a try that fails costs one retry, so it is not raised at once.
    """

    def __init__(self, most: int, recovery_s: float) -> None:
        if most < 1:
            raise ValueError(f"batch limit: expected 1 or more, found {most}")
        self.most = most
        self._recovery_s = recovery_s
        self._reduced = most
        self._since = -math.inf

    def current(self, now: float) -> int:
        """The limit at an instant: doubled once for every recovery span since the last shortage."""
        if self._reduced >= self.most:
            return self.most
        spans = math.floor((now - self._since) / self._recovery_s)
        # More doublings than the width of the limit change nothing, and must not overflow.
        return int(min(self.most, self._reduced << min(max(spans, 0), self.most.bit_length())))

    def shrink(self, failed_size: int, now: float) -> None:
        """A batch of `failed_size` did not fit."""
        self._reduced = max(1, min(failed_size, self.current(now)) // 2)
        self._since = now

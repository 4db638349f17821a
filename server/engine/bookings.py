"""When refused clients may come back, so that they do not all come at once, and are let in when they do.

Each is told whole seconds, as `Retry-After` wants them, that end at an instant for which the server has not promised
all its time yet. Whoever then comes with the same request is known by its fingerprint: nothing is asked of a client
but to obey. Those who never come are allowed for: what is promised is multiplied by the share that lately came.

Rules of this module: standard library only, one event loop, no locks, no clock (`now` is an argument).
"""

import bisect
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

SHARE = 0.8
"""Of the server's speed that is promised: at its full speed, two that come together would be one too many."""

_EARLY_S = 0.1  # clocks of clients differ, and some round
_HELD_S = 0.5  # that room is held for whoever is late; networks take less
_HONOURED_S = 30.0  # that a late one still goes before newcomers
_RECALL_S = 0.25  # between two searches that find no instant at all
_CLOSE = 16  # seconds ahead, each of which is looked at for every client
_MOST = 20_000  # promises at a time
_ALIKE_SHARE = 8  # the part of the longest wait, one in so many, that requests which are alike can fill
_LEAST_SHARE = 0.2  # that is taken to come, however few did: the next crowd may obey
_WEIGHT = 0.02  # of one booking in that share: about the last fifty count


@dataclass(frozen=True, slots=True)
class Wish:
    """A request that is to come back.

    Attributes:
        megapixels: Of its image.
        memory_bytes: That answering it takes at its peak.
        need_s: Seconds of the server's time that it takes.
        fingerprint: By which it is known again; None where nothing is known of it yet. Then its time is counted, but
            no room is held.
        large: It needs more room than is held for all who are due together.
    """

    megapixels: float
    memory_bytes: int
    need_s: float
    fingerprint: int | None = None
    large: bool = False


@dataclass(slots=True, eq=False)
class _Booking:
    instant: float
    order: int
    wish: Wish
    kept: bool = False


class Bookings:
    """The promises that were made."""

    def __init__(self, max_ahead_s: int) -> None:
        """No promise yet.

        Args:
            max_ahead_s: Longest wait that is advised. Beyond it nothing is promised.
        """
        self._max_ahead_s = max_ahead_s
        self._order = itertools.count()
        self._by_instant: list[tuple[float, int, _Booking]] = []
        self._by_fingerprint: dict[int, list[_Booking]] = {}  # of clients that send the same, the earliest first
        self._window_s = self._total_s = 0.0
        self._full_at = self._hint = -math.inf
        self._came = 1.0  # of those who were to come lately, the share that did
        self._settled_at = -math.inf
        self._first: _Booking | None = None

    def __len__(self) -> int:
        return sum(map(len, self._by_fingerprint.values()))

    def is_due(self, fingerprint: int | None, now: float) -> bool:
        """Whether this client was told to come now."""
        return self._find(fingerprint, now) is not None

    def keep(self, fingerprint: int | None) -> None:
        """This client has been let in; of several that send the same it was the one that was to come first."""
        if fingerprint is not None and (alike := self._by_fingerprint.get(fingerprint)):
            alike[0].kept = True
            self._drop(alike[0], fingerprint)

    def expected(self, now: float) -> list[Wish]:
        """What those want who should be here by now, or will be soon."""
        near = self._between(now - _HELD_S, now + self._window_s)
        return [booking.wish for booking in near if not booking.kept and booking.wish.fingerprint is not None]

    def first(self, now: float) -> Wish | None:
        """What a large one wants that came as told and found no room: until its time it goes before all others.

        Small ones take whatever becomes free. Without this, it would wait as long as they come.
        """
        booking = self._first
        return booking.wish if booking is not None and not booking.kept and now <= booking.instant + _HELD_S else None

    def book(self, wish: Wish, room_s: float, now: float) -> int:
        """Promise somebody a time.

        Who asks again too early cannot be told from another that sends the same, so it is promised one more; but of the
        time that can be promised, a part is the most that goes to requests that are alike. Then they share the last
        instant. Who came as told keeps nothing: it has come, and gets another time.

        Args:
            wish: Of the client that is refused.
            room_s: Seconds of the server's time that the room held back for those who come back amounts to.
            now: Monotonic seconds.

        Returns:
            Whole seconds to wait, at least 1.
        """
        self._settle(now)
        self._forget(now)
        fingerprint = wish.fingerprint
        if fingerprint is not None and (due := self._find(fingerprint, now)) is not None:
            self._resign(due, fingerprint)
            if wish.large and self.first(now) is None:
                soon_s = min(max(1, math.ceil(wish.need_s)), self._max_ahead_s)
                self._first = self._make(soon_s, wish, now)
                return soon_s
        alike = self._by_fingerprint.get(fingerprint, []) if fingerprint is not None else []
        if alike and alike[-1].instant > now and len(alike) * wish.need_s >= self._max_ahead_s / _ALIKE_SHARE:
            return max(1, math.ceil(alike[-1].instant - now))
        self._window_s = max(room_s, wish.need_s) / SHARE
        ahead_s = self._search(wish.need_s, max(room_s, wish.need_s), now)
        if ahead_s is None:
            self._full_at = now
            return self._max_ahead_s
        self._make(ahead_s, wish, now)
        return ahead_s

    def _make(self, ahead_s: int, wish: Wish, now: float) -> _Booking:
        made = _Booking(now + ahead_s, next(self._order), wish)
        bisect.insort(self._by_instant, (made.instant, made.order, made))
        self._total_s += wish.need_s
        if wish.fingerprint is not None:
            bisect.insort(self._by_fingerprint.setdefault(wish.fingerprint, []), made, key=_instant)
        return made

    def _search(self, need_s: float, room_s: float, now: float) -> int | None:
        """The first instant that leaves time for all who come before, and around which there is room for who comes."""
        if now - self._full_at < _RECALL_S or len(self._by_instant) >= _MOST:
            return None
        coming = max(self._came, _LEAST_SHARE)
        mean_s = self._total_s / max(1, len(self._by_instant))
        earliest = bisect.bisect_left(self._by_instant, (now,))
        for ahead_s in self._candidates(now):
            instant = now + ahead_s
            before = bisect.bisect_right(self._by_instant, (instant, math.inf)) - earliest
            if coming * before * mean_s + need_s > ahead_s:
                continue
            near = self._between(instant - self._window_s, instant + self._window_s)
            # A thousandth: equal needs add up to their room, whatever the rounding.
            if coming * math.fsum(booking.wish.need_s for booking in near) + need_s <= room_s * 1.001:
                self._hint = instant
                return ahead_s
        return None

    def _candidates(self, now: float) -> Iterator[int]:
        """Seconds ahead to look at: all that are close, and those from where the last one was found.

        To look at every second of a long line for every client would cost more than to refuse it. A gap that is passed
        over is seen again when it has come close.
        """
        hint_s = min(max(0.0, self._hint - now), self._max_ahead_s)
        far = max(_CLOSE + 1, math.ceil(hint_s) - _CLOSE)
        return itertools.chain(range(1, min(_CLOSE, self._max_ahead_s) + 1), range(far, self._max_ahead_s + 1))

    def _between(self, first: float, last: float) -> list[_Booking]:
        low = bisect.bisect_left(self._by_instant, (first,))
        high = bisect.bisect_right(self._by_instant, (last, math.inf))
        return [booking for _, _, booking in self._by_instant[low:high]]

    def _find(self, fingerprint: int | None, now: float) -> _Booking | None:
        """Of one who was told to come now."""
        for booking in self._by_fingerprint.get(fingerprint, ()) if fingerprint is not None else ():
            if booking.instant - _EARLY_S > now:
                break
            if now <= booking.instant + _HONOURED_S:
                return booking
        return None

    def _resign(self, booking: _Booking, fingerprint: int) -> None:
        """Take back a promise that was not kept to a client that came."""
        self._drop(booking, fingerprint)
        if booking is self._first:
            self._first = None
        if booking.instant > self._settled_at:  # the others have been counted
            self._count(came=True)
        self._total_s -= booking.wish.need_s
        del self._by_instant[bisect.bisect_left(self._by_instant, (booking.instant, booking.order))]

    def _drop(self, booking: _Booking, fingerprint: int) -> None:
        alike = self._by_fingerprint[fingerprint]
        alike.remove(booking)
        if not alike:
            del self._by_fingerprint[fingerprint]

    def _count(self, *, came: bool) -> None:
        self._came += _WEIGHT * (came - self._came)

    def _settle(self, now: float) -> None:
        """Learn from the bookings whose time has come since the last one was made."""
        for booking in self._between(math.nextafter(self._settled_at, math.inf), now - _HELD_S):
            if booking.wish.fingerprint is not None:
                self._count(came=booking.kept)
        self._settled_at = now - _HELD_S

    def _forget(self, now: float) -> None:
        """Whoever is so late has gone elsewhere."""
        past = bisect.bisect_left(self._by_instant, (now - max(_HONOURED_S, self._window_s),))
        for _, _, booking in self._by_instant[:past]:
            self._total_s -= booking.wish.need_s
            fingerprint = booking.wish.fingerprint
            if fingerprint is not None and booking in self._by_fingerprint.get(fingerprint, ())[:1]:
                self._drop(booking, fingerprint)
        del self._by_instant[:past]


def _instant(booking: _Booking) -> float:
    return booking.instant

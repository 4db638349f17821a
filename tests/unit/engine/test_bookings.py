"""When the refused may come back: told once, known again, and never more promises than there is memory for."""

import random

import pytest

from server.engine import bookings
from server.engine.bookings import Bookings, Wish

NOW = 1000.0
SECOND = Wish(1.0, 0, need_s=1.0)


def wish(client: int, need_s: float = 1.0) -> Wish:
    return Wish(1.0, 10, need_s, client)


def test_who_is_told_is_due_then_and_for_a_while_after():
    found = Bookings(300)
    told = found.book(wish(7), room_s=4.0, now=NOW)
    assert told == 1
    dues = [found.is_due(7, NOW + at) for at in (0.0, 0.8, 0.95, 1.0, 20.0, 31.0, 31.1)]
    assert dues == [False, False, True, True, True, True, False]
    assert not found.is_due(8, NOW + 1)
    assert not found.is_due(None, NOW + 1)


def test_who_has_come_is_expected_no_more():
    found = Bookings(300)
    for client in (7, 8):
        found.book(wish(client), room_s=4.0, now=NOW)
    assert [each.fingerprint for each in found.expected(NOW + 1)] == [7, 8]
    found.keep(7)
    assert [each.fingerprint for each in found.expected(NOW + 1)] == [8]
    assert not found.is_due(7, NOW + 1)
    assert found.expected(NOW + 20) == [], "nothing is held for who is late"
    assert len(found) == 1


def test_each_of_those_who_send_the_same_has_a_time_of_its_own():
    found = Bookings(300)
    told = [found.book(wish(7), room_s=1.0, now=NOW) for _ in range(5)]
    assert told == sorted(set(told)), "one at a time"
    for seconds in told:
        assert found.is_due(7, NOW + seconds)
        found.keep(7)
        assert not found.is_due(7, NOW + seconds), "the next one is for another"
    assert len(found) == 0


def test_who_asks_again_too_early_keeps_its_place():
    found = Bookings(300)
    first = found.book(wish(7), room_s=1.0, now=NOW)
    assert first == 1
    assert found.book(wish(7), room_s=1.0, now=NOW + 0.5) > first
    assert found.is_due(7, NOW + first)


def test_requests_that_are_alike_fill_a_part_of_the_line_and_then_share_its_end():
    found = Bookings(80)
    told = [found.book(wish(7), room_s=1.0, now=NOW) for _ in range(50)]
    assert len(found) == 80 // bookings._ALIKE_SHARE
    assert set(told[len(found) :]) == {max(told)}
    assert max(told) < 40
    assert found.book(wish(8), room_s=1.0, now=NOW) < 40


def test_who_came_as_told_and_found_no_room_has_come():
    """Refused at the first return, let in at the second."""
    found, now = Bookings(300), NOW
    for client in range(300):
        now += found.book(wish(client, 0.5), room_s=1.0, now=now)
        now += found.book(wish(client, 0.5), room_s=1.0, now=now)
        assert [each.fingerprint for each in found.expected(now)] == [client], "once"
        found.keep(client)
        now += 40
    assert found._came == pytest.approx(1.0)


def test_whoever_cannot_be_known_again_takes_time_and_no_room():
    found = Bookings(300)
    told = [found.book(SECOND, room_s=1.0, now=NOW) for _ in range(3)]
    assert told == sorted(set(told))
    assert len(found) == 0
    assert found.expected(NOW + 1) == []


def test_beyond_the_longest_wait_nothing_is_promised():
    found = Bookings(10)
    told = [found.book(wish(client), room_s=1.0, now=NOW) for client in range(20)]
    assert max(told) == 10
    assert len(found) < 10


def test_a_gap_that_was_passed_over_is_filled_when_it_is_close():
    found = Bookings(300)
    line = [found.book(wish(client), room_s=1.0, now=NOW + client / 100) for client in range(60)]
    assert max(line) > 2 * bookings._CLOSE
    for client in range(60):
        found.keep(client)  # all have been let in early: their time is counted, but it passes
    later = NOW + max(line) + 2
    assert found.book(wish(100), room_s=1.0, now=later) <= 2


def test_promises_are_bounded_in_number(monkeypatch):
    monkeypatch.setattr(bookings, "_MOST", 50)
    found, rng = Bookings(300), random.Random(2)  # noqa: S311 - a walk, not a secret
    told = [found.book(wish(client, 0.001), room_s=0.01, now=NOW + rng.random()) for client in range(200)]
    assert len(found) == 50
    assert told[-1] == 300


def test_the_forgotten_are_forgotten_whole():
    found = Bookings(300)
    for client in range(100):
        found.book(wish(client, 0.01), room_s=0.1, now=NOW)
    found.book(wish(1000, 0.01), room_s=0.1, now=NOW + 1000)
    assert len(found) == 1
    assert len(found._by_instant) == 1
    assert found._total_s == pytest.approx(0.01)


def test_one_large_request_at_a_time_is_waited_for_until_its_time():
    found = Bookings(300)
    told = {}
    for client in (7, 8):
        large = Wish(50.0, 10, 3.0, client, large=True)
        told[client] = found.book(large, room_s=4.0, now=NOW)
        assert found.first(NOW + told[client]) is None, "it has not been refused twice"
    now = NOW + max(told.values())
    assert found.book(Wish(50.0, 10, 3.0, 7, large=True), room_s=4.0, now=now) == 3
    found.book(Wish(50.0, 10, 3.0, 8, large=True), room_s=4.0, now=now)
    firsts = [found.first(now + seconds) for seconds in (0.0, 3.0, 3.5)]
    assert [first.fingerprint for first in firsts if first is not None] == [7, 7, 7]
    assert found.first(now + 3.6) is None, "who does not come is not waited for"
    found.keep(7)
    assert found.first(now) is None

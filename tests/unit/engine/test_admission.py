"""The door: limits by number and megapixels, honest advice, predicted deadlines, drain, and exact counts."""

import asyncio
import contextlib
import itertools
import math
from collections import Counter

import pytest

from server.engine.admission import Admission, AdmissionLimits, Entrant, Surroundings
from server.engine.batching import Priority
from server.engine.bookings import SHARE
from server.engine.service_rate import ServiceRate
from server.errors import DeadlineExceededError, DrainingError, NotReadyError, OverloadedError, ServerError
from server.observability.metrics import REFUSALS, Metrics
from tests.support.backends import counted, turn_loop
from tests.support.clock import FakeClock


class Door:
    """An admission with a fake clock."""

    def __init__(self, **limits) -> None:
        self.clock, self.metrics = FakeClock(), Metrics()
        self.unready: str | None = None
        self.wait_s = 0.0  # that one request ahead takes
        self.own_s = 0.0
        self.batch = 1
        behind = Surroundings(lambda: self.unready, lambda ahead: ahead // self.batch * self.wait_s, lambda: self.own_s)
        self.admission = Admission(AdmissionLimits(**limits), self.metrics, behind, self.clock)

    def enter(self, megapixels: float, priority: Priority = Priority.NORMAL, **more):
        return self.admission.enter(Entrant(megapixels, priority=priority, **more))

    def serve(self, requests: int, seconds_each: float, megapixels: float = 1.0) -> None:
        """Let requests through, one after the other."""
        for _ in range(requests):
            with self.enter(megapixels):
                self.clock.advance(seconds_each)

    def refusal(self, megapixels: float = 1.0, **claim) -> ServerError:
        with pytest.raises(ServerError) as caught, self.enter(megapixels, **claim):
            pass
        return caught.value

    def refusals(self) -> dict[str, int]:
        found = {reason: int(counted(self.metrics, "birefnet_refusals_total", reason=reason)) for reason in REFUSALS}
        return {reason: count for reason, count in found.items() if count}


@contextlib.contextmanager
def inside(door: Door, requests: int, megapixels: float = 1.0, **claim):
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(door.enter(megapixels, **claim)) for _ in range(requests)]


def test_the_door_counts_requests():
    door = Door(max_requests=3)
    with inside(door, 3):
        assert door.admission.inside == 3
        error = door.refusal()
        assert isinstance(error, OverloadedError)
        assert "at most 3 requests" in error.detail
    assert door.admission.inside == 0
    door.serve(1, 0.1)
    assert door.refusals() == {"requests": 1}


def test_the_door_counts_megapixels():
    door = Door(max_megapixels=100)
    with inside(door, 2, 40.0):
        assert door.admission.megapixels_inside == 80
        with door.enter(20.0):
            error = door.refusal(0.5)
        assert isinstance(error, OverloadedError)
        assert "at most 100 megapixels" in error.detail
        assert "100 are inside" in error.detail
    assert door.refusals() == {"megapixels": 1}


def test_the_door_counts_memory():
    door = Door(max_memory_bytes=100 << 20)
    with inside(door, 2, memory_bytes=40 << 20):
        assert door.admission.memory_inside == 80 << 20
        with door.enter(1.0, memory_bytes=20 << 20):
            error = door.refusal(memory_bytes=1 << 20)
        assert isinstance(error, OverloadedError)
        assert error.detail == ("at most 100 MiB of memory are taken at a time, 100 are, and this request needs 1")
        assert error.retry_after_s is not None
    assert door.admission.memory_inside == 0
    assert door.refusals() == {"memory": 1}


def test_a_single_large_image_comes_in_when_nobody_is_inside():
    door = Door(max_megapixels=10)
    with door.enter(50.0):
        assert isinstance(door.refusal(0.1), OverloadedError)
    with door.enter(50.0):
        pass


def test_whoever_fails_inside_leaves_too():
    door = Door(max_requests=1)
    for error in (RuntimeError, asyncio.CancelledError):
        with pytest.raises(error), door.enter(1.0):
            raise error
    assert door.admission.inside == 0
    assert door.admission.rate.finished == 0, "only answers show what the server can do"


def test_time_spent_on_whoever_fails_counts():
    door = Door()
    door.serve(1, 1.0)

    def fail() -> None:
        with door.enter(1.0):
            door.clock.advance(9)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert door.admission.rate.requests_per_s == pytest.approx(1 / 10, rel=0.2)


@pytest.mark.parametrize("seconds_each", [0.05, 0.8, 3.0])
def test_retry_after_promises_no_more_than_the_measured_rate(seconds_each):
    door = Door(max_requests=30, max_retry_after_s=1000)
    door.serve(40, seconds_each)
    rate = door.admission.rate.requests_per_s or 0.0
    assert rate == pytest.approx(1 / seconds_each, rel=0.1)
    with inside(door, 30):
        advised = [door.refusal(fingerprint=client).retry_after_s or 0 for client in range(200)]
    assert all(isinstance(seconds, int) and seconds >= 1 for seconds in advised)
    together = Counter(advised)
    # A quarter of the room is held for those who come back; whoever is told the same second comes at the same instant.
    assert max(together.values()) <= 30 // 4
    by_time = sorted(advised)
    for index, first in enumerate(by_time):
        for number, last in enumerate(by_time[index:], start=1):
            assert number <= SHARE * rate * (last - first) + 30 // 4
    assert max(advised) <= max(2.5 * 200 * seconds_each / SHARE, 200 / (30 // 4)), "nor much less"


def test_who_comes_back_as_told_is_let_in_before_newcomers():
    door = Door(max_requests=8)
    door.serve(40, 1.0)
    with contextlib.ExitStack() as crowd:
        stays = [crowd.enter_context(contextlib.ExitStack()) for _ in range(8)]
        for stay in stays:
            stay.enter_context(door.enter(1.0))
        told = door.refusal(fingerprint=7).retry_after_s or 0
        stays[0].close()
        door.clock.advance(told - 0.5)
        assert isinstance(door.refusal(fingerprint=8), OverloadedError), "the place is held"
        assert isinstance(door.refusal(), OverloadedError)
        door.clock.advance(0.5)
        with door.enter(1.0, fingerprint=7):
            assert door.admission.inside == 8
        with door.enter(1.0):
            assert door.admission.inside == 8, "nothing is held for who has come"


def test_a_place_is_held_for_a_moment_only():
    door = Door(max_requests=8)
    door.serve(40, 1.0)
    with inside(door, 7):
        with door.enter(1.0):
            told = door.refusal(fingerprint=7).retry_after_s or 0
        door.clock.advance(told)
        assert isinstance(door.refusal(), OverloadedError)
        door.clock.advance(1.0)
        with door.enter(1.0):
            pass


def test_at_most_a_quarter_of_the_room_is_held():
    door = Door(max_requests=8, max_megapixels=80, max_memory_bytes=8 << 20)
    door.serve(400, 0.001)
    with inside(door, 6):
        with inside(door, 2):
            told = {door.refusal(memory_bytes=1 << 20, fingerprint=client).retry_after_s for client in range(100)}
        assert 1 in told
        door.clock.advance(1.0)
        assert isinstance(door.refusal(), OverloadedError)
    with inside(door, 4, 10.0, memory_bytes=1 << 20):
        with inside(door, 1, 20.0, memory_bytes=2 << 20):
            assert door.admission.megapixels_inside == 60
        assert isinstance(door.refusal(41.0), OverloadedError)
        assert isinstance(door.refusal(1.0, memory_bytes=5 << 20), OverloadedError)


def test_a_small_door_holds_nothing():
    door = Door(max_requests=3)
    door.serve(40, 1.0)
    with inside(door, 2):
        with door.enter(1.0):
            told = door.refusal(fingerprint=7).retry_after_s or 0
        door.clock.advance(told)
        with door.enter(1.0):
            pass


def test_one_impatient_client_keeps_its_place_and_fills_a_part_of_the_line():
    door = Door(max_requests=8)
    door.serve(40, 1.0)
    with contextlib.ExitStack() as crowd:
        stays = [crowd.enter_context(contextlib.ExitStack()) for _ in range(8)]
        for stay in stays:
            stay.enter_context(door.enter(1.0))
        first = door.refusal(fingerprint=7).retry_after_s or 0
        for _ in range(1000):
            door.clock.advance(first / 2000)
            door.refusal(fingerprint=7)
        assert (door.refusal(fingerprint=8).retry_after_s or 0) <= 150
        door.clock.advance(first / 2)
        stays[0].close()
        with door.enter(1.0, fingerprint=7):
            pass


def test_refusals_of_requests_that_are_not_known_take_no_time_from_those_that_are():
    door = Door(max_requests=8)
    door.serve(10, 0.05)
    told = []
    for _ in range(5000):
        door.clock.advance(0.001)
        with pytest.raises(OverloadedError) as caught:
            door.admission.refuse_overload("streams", "too many")
        told.append(caught.value.retry_after_s or 0)
    assert (min(told), max(told)) == (1, 10)
    with inside(door, 8):
        assert door.refusal(fingerprint=7).retry_after_s == 1


def test_retry_after_counts_the_pixels_that_must_go_first():
    door = Door(max_megapixels=100, max_retry_after_s=1000)
    door.serve(40, 1.0, megapixels=10.0)
    megapixels_per_s = door.admission.rate.megapixels_per_s or 0.0
    assert megapixels_per_s == pytest.approx(10, rel=0.1)
    with inside(door, 1, 100.0):
        told = [door.refusal(50.0, fingerprint=client).retry_after_s or 0 for client in range(10)]
    # Two of them in one span of 50 megapixels would be one too many.
    gaps = [later - earlier for earlier, later in itertools.pairwise(told)]
    assert min(gaps) >= math.floor(50 / megapixels_per_s)


def test_retry_after_has_a_ceiling():
    door = Door(max_requests=3, max_retry_after_s=7)
    door.serve(10, 5.0)
    with inside(door, 3):
        advised = [door.refusal(fingerprint=client).retry_after_s for client in range(5)]
    assert advised == [5, 7, 7, 7, 7]


def test_a_wait_that_is_too_long_is_refused():
    door = Door(max_wait_s=5.0)
    door.serve(40, 1.0)
    door.wait_s = 1.0
    with inside(door, 5), door.enter(1.0):
        error = door.refusal(fingerprint=7)
        assert isinstance(error, OverloadedError)
        assert error.detail == "at most 5 s of waiting are allowed, 6 requests are ahead and take 6 s"
        assert error.retry_after_s == 1
        assert error.reason == "wait"
    with inside(door, 4):
        door.clock.advance(1.0)
        with door.enter(1.0, fingerprint=7):
            pass
    with inside(door, 5) as stays, door.enter(1.0):
        assert isinstance(door.refusal(), OverloadedError)
        stays[0].waits = False  # the device has answered it: it is ahead of nobody
        with door.enter(1.0):
            pass
    assert door.refusals() == {"wait": 2}


def test_before_the_first_answer_the_warm_up_says_how_fast_it_goes():
    door = Door(max_requests=1)
    door.metrics.device.assume(3.5)
    with inside(door, 1):
        assert door.refusal().retry_after_s == 4


class TestServiceRate:
    def test_is_unknown_before_the_first_answer(self):
        rate = ServiceRate()
        assert rate.requests_per_s is None
        rate.begin(0)
        rate.end(10)
        assert rate.requests_per_s is None

    def test_idle_time_does_not_count(self):
        rate = ServiceRate()
        for start in (0.0, 100.0, 5000.0, 9000.0):
            rate.begin(start)
            rate.finish(2.0, start + 0.5)
            rate.end(start + 0.5)
        assert rate.requests_per_s == pytest.approx(2, rel=0.05)
        assert rate.megapixels_per_s == pytest.approx(4, rel=0.05)

    def test_work_side_by_side_counts_as_such(self):
        rate = ServiceRate()
        rate.begin(0)
        for second in range(1, 61):
            for _ in range(4):
                rate.finish(1.0, float(second))
        assert rate.requests_per_s == pytest.approx(4, rel=0.1)

    def test_follows_a_change_within_five_memories_of_work(self):
        rate, now = ServiceRate(), 0.0
        rate.begin(now)
        for interval, expected in ((0.1, 10), (2.0, 0.5)):
            for _ in range(int(150 / interval)):
                now += interval
                rate.finish(1.0, now)
            assert rate.requests_per_s == pytest.approx(expected, rel=0.2)


def test_a_deadline_that_cannot_be_met_is_refused_at_once():
    door = Door()
    door.serve(20, 1.0)
    door.wait_s = 1.0
    now = door.clock()
    assert isinstance(door.refusal(deadline=now - 1), DeadlineExceededError)
    assert isinstance(door.refusal(deadline=now), DeadlineExceededError)
    with inside(door, 5, priority=Priority.HIGH):
        error = door.refusal(deadline=now + 4)
        assert isinstance(error, DeadlineExceededError)
        assert "5 requests are ahead and take about 4.9 s, but only 4.0 s are left" in error.detail
        assert error.retry_after_s == 5
        with door.enter(1.0, deadline=now + 6):
            pass
    assert door.refusals() == {"deadline": 3}


def test_what_takes_longer_than_its_deadline_allows_is_refused_whoever_is_ahead_and_for_good():
    door = Door()
    now = door.clock()
    error = door.refusal(deadline=now + 4, extra_s=5.0)
    assert isinstance(error, DeadlineExceededError)
    assert "refinement takes 5.0 s, but only 4.0 s are left: expected a longer timeout" in error.detail
    assert error.retry_after_s is None, "a retry is no cure"
    with door.enter(1.0, deadline=now + 6, extra_s=5.0):
        pass


def test_the_time_that_a_request_takes_itself_counts():
    door = Door()
    door.serve(10, 3.0)
    door.wait_s, door.own_s = 3.0, 3.0
    now = door.clock()
    with inside(door, 1, priority=Priority.HIGH):
        hopeless, late = door.refusal(deadline=now + 2.5), door.refusal(deadline=now + 5.5)
        assert hopeless.detail == "answering takes about 3.0 s, whoever is ahead, but only 2.5 s are left: " + (
            "expected a longer timeout"
        )
        assert hopeless.retry_after_s is None
        assert "answering takes 3.0 s more, but only 5.5 s are left" in late.detail
        assert late.retry_after_s == 3
        with door.enter(1.0, deadline=now + 6.1):
            pass
    with door.enter(1.0, deadline=now + 2.5):
        pass  # a server that refused everyone would never see that it has become faster


def test_a_burst_after_calm_is_not_held_against_its_deadline():
    """One at a time a second each; so does a batch of sixteen."""
    door = Door()
    door.serve(20, 1.0)
    door.batch, door.wait_s, door.own_s = 16, 1.0, 1.0
    now = door.clock()
    with inside(door, 48, deadline=now + 5):
        error = door.refusal(priority=Priority.LOW, deadline=now + 3.5)
        assert "48 requests are ahead and take about 3.0 s, answering takes 1.0 s more" in error.detail
        with door.enter(1.0, priority=Priority.LOW, deadline=now + 4.5):
            pass


def test_only_who_goes_first_counts_against_a_deadline():
    door = Door()
    door.serve(20, 1.0)
    door.wait_s = 1.0
    now = door.clock()
    with inside(door, 30, priority=Priority.NORMAL, deadline=now + 300):
        with door.enter(1.0, deadline=now + 4):
            pass  # the earliest deadline goes first
        with door.enter(1.0, Priority.HIGH, deadline=now + 300):
            pass
        assert isinstance(door.refusal(priority=Priority.LOW, deadline=now + 20), DeadlineExceededError)


def test_nobody_is_refused_on_a_prediction_without_evidence():
    door = Door()
    door.serve(2, 10.0)
    with inside(door, 10, priority=Priority.HIGH), door.enter(1.0, deadline=door.clock() + 0.1):
        pass


def test_the_door_is_shut_while_the_engine_is_not_ready():
    door = Door()
    door.unready = "the models are warming up"
    error = door.refusal()
    assert isinstance(error, NotReadyError)
    assert error.detail == "the models are warming up"
    assert error.retry_after_s is not None
    assert error.retry_after_s >= 1
    door.unready = None
    door.serve(1, 0.1)
    assert door.refusals() == {"not_ready": 1}


async def test_drain_refuses_at_once_and_waits_for_all_inside():
    door = Door()
    with inside(door, 1):
        draining = asyncio.create_task(door.admission.drain())
        await turn_loop()
        assert door.admission.draining
        error = door.refusal()
        assert isinstance(error, DrainingError)
        assert error.retry_after_s == 1
        assert not draining.done()
    await draining
    assert door.refusals() == {"draining": 1}
    await door.admission.drain()


async def enter_and_wait(door: Door) -> None:
    with door.enter(1.0):
        await asyncio.get_running_loop().create_future()


async def test_whoever_is_evicted_is_told_why_and_has_left():
    door = Door()
    tasks = [asyncio.create_task(enter_and_wait(door)) for _ in range(2)]
    await turn_loop()
    assert door.admission.evict(DrainingError("too late")) == 2
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results] == [DrainingError] * 2
    assert door.admission.inside == 0
    assert [task.cancelling() for task in tasks] == [0, 0]


async def test_a_client_that_leaves_while_it_is_evicted_has_left():
    door = Door()
    task = asyncio.create_task(enter_and_wait(door))
    await turn_loop()
    door.admission.evict(DrainingError("too late"))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert door.admission.inside == 0


def test_what_is_counted_is_what_was_raised():
    """A long mixed run: for each reason the counter equals the number of clients that were told so."""
    door = Door(max_requests=4, max_megapixels=20)
    door.serve(10, 1.0)
    raised: Counter[str] = Counter()
    names = {OverloadedError: "overloaded", DeadlineExceededError: "deadline", NotReadyError: "not_ready"}
    accepted: list[contextlib.AbstractContextManager[None]] = []
    for step in range(400):
        door.unready = "warming" if step % 50 == 7 else None
        if len(accepted) > 2 and step % 3 == 0:
            accepted.pop(0).__exit__(None, None, None)
        request = door.enter((step * 7) % 23, deadline=door.clock() + step % 9)
        try:
            request.__enter__()
        except ServerError as error:
            raised[names[type(error)]] += 1
        else:
            accepted.append(request)
        door.clock.advance(0.1)
    found = door.refusals()
    assert set(found) == {"requests", "megapixels", "deadline", "not_ready"}, "the run meets every reason"
    assert found["requests"] + found["megapixels"] == raised["overloaded"]
    assert found["deadline"] == raised["deadline"]
    assert found["not_ready"] == raised["not_ready"]
    assert sum(raised.values()) + len(accepted) <= 400


@pytest.mark.parametrize("wrong", [{"max_requests": 0}, {"max_megapixels": 0}, {"max_retry_after_s": 0}])
def test_impossible_limits_are_refused(wrong):
    with pytest.raises(ValueError, match="expected positive numbers"):
        AdmissionLimits(**wrong)

"""How busy a place is, and how much work it still holds, to the second."""

import threading

import pytest

from server.observability.station import Station
from tests.support.clock import FakeClock


def test_busy_seconds_count_what_runs_side_by_side_and_what_is_not_done_yet():
    clock = FakeClock()
    station = Station(capacity=2, clock=clock)
    station.arrive(2)
    with station.work():
        clock.advance(3)
        with station.work():
            clock.advance(4)
            assert station.busy_s == pytest.approx(3 + 2 * 4)
        clock.advance(1)
    clock.advance(100)
    assert station.busy_s == pytest.approx(12)


def test_backlog_is_the_work_inside_at_the_measured_speed():
    clock = FakeClock()
    station = Station(capacity=2, clock=clock)
    station.arrive(3)
    assert station.backlog_s == 0, "nothing is known yet"
    station.assume(0.5)
    assert station.backlog_s == pytest.approx(3 * 0.5 / 2)
    with station.work(2):
        assert station.backlog_s == pytest.approx(3 * 0.5 / 2), "what runs is not done"
        clock.advance(1.0)
    assert station.backlog_s == pytest.approx(0.5 / 2)
    station.leave()
    assert station.backlog_s == 0


def test_a_batch_is_as_long_as_its_items_together():
    clock = FakeClock()
    station = Station(clock=clock)
    station.arrive(4)
    with station.work(4):
        clock.advance(2.0)
    assert station.item_s == pytest.approx(0.5)


def test_the_mean_follows_what_is_measured():
    clock = FakeClock()
    station = Station(clock=clock)
    assert station.item_s is None
    for seconds in (1.0, *(3.0 for _ in range(60))):
        station.arrive()
        with station.work():
            clock.advance(seconds)
    assert station.item_s == pytest.approx(3.0, rel=0.01)
    station.assume(99.0)
    assert station.item_s == pytest.approx(3.0, rel=0.01), "what was measured is not replaced by an assumption"


def test_each_kind_of_work_has_a_speed_of_its_own():
    """Ten hard pieces that wait are not ten average ones, however many easy ones were done meanwhile."""
    clock = FakeClock()
    station = Station(capacity=2, clock=clock)
    for kind, seconds in (("decode", 0.1), ("encode", 4.0), *(("decode", 0.1) for _ in range(50))):
        station.arrive(2.0, kind)
        with station.work(2.0, kind):
            clock.advance(seconds)
    station.arrive(20.0, "encode")
    assert station.backlog_s == pytest.approx(40.0 / 2)
    station.arrive(2.0, "decode")
    assert station.backlog_s == pytest.approx(40.1 / 2)
    station.arrive(1.0, "new")
    assert 40.1 / 2 < station.backlog_s < 50 / 2, "what was never done is taken for the mean"
    for items, kind in ((20.0, "encode"), (2.0, "decode"), (1.0, "new")):
        station.leave(items, kind)
    assert station.backlog_s == 0


def test_tasks_are_timed_whatever_their_items():
    clock = FakeClock()
    station = Station(clock=clock)
    assert station.task_s is None
    station.assume(0.5)
    assert station.task_s == 0.5
    station.arrive(4)
    with station.work(4):
        clock.advance(2.0)
    assert station.task_s == pytest.approx(2.0)


def test_the_busy_share_is_of_the_last_half_minute():
    clock = FakeClock()
    station = Station(capacity=4, clock=clock)
    assert station.busy_share == 0
    for _ in range(100):
        station.arrive()
        with station.work():
            clock.advance(1)
        station.busy_share  # noqa: B018 - a scrape
    assert station.busy_share == pytest.approx(0.25)
    for _ in range(40):
        clock.advance(1)
        station.busy_share  # noqa: B018 - a scrape
    assert station.busy_share == 0


def test_work_that_fails_is_still_work_done():
    clock = FakeClock()
    station = Station(clock=clock)
    station.arrive()

    def fail() -> None:
        with station.work():
            clock.advance(2)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert station.busy_s == 2
    assert station.backlog_s == 0


def test_counts_survive_many_threads():
    station = Station(capacity=8)

    def work() -> None:
        for _ in range(300):
            station.arrive()
            with station.work():
                pass

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert station.backlog_s == 0
    station.assume(1.0)
    station.arrive()
    assert station.backlog_s > 0


def test_capacity_must_be_positive():
    with pytest.raises(ValueError, match="expected 1 or more, found 0"):
        Station(0)


def test_what_a_dismissed_worker_does_counts_no_more_and_its_late_end_changes_nothing():
    clock = FakeClock()
    station = Station(capacity=2, clock=clock)
    station.assume(1.0)
    station.arrive(5)
    with station.work(3, worker="hung"), station.work(2, worker="sound"):
        clock.advance(10)
        assert station.backlog_s == pytest.approx(5 / 2)
        station.dismiss("hung")
        assert station.backlog_s == pytest.approx(2 / 2)
        clock.advance(1)
        assert station.busy_s == pytest.approx(21), "it is not busy any more"
    assert station.backlog_s == 0, "what left once does not leave again"
    assert station.item_s == pytest.approx(1.0 + 0.1 * (11 / 2 - 1.0)), "and its time is nobody's measure"
    assert station.busy_by() == {"hung": pytest.approx(10), "sound": pytest.approx(11)}

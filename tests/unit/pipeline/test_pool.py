"""The pool: bounded, cancellable, counted, and never the event loop's thread."""

import asyncio
import gc
import threading
import weakref
from concurrent.futures import Future
from contextvars import ContextVar
from functools import partial

import pytest

from server.engine.batching import Priority
from server.errors import DeadlineExceededError
from server.observability.station import Station
from server.pipeline.pool import HostPool, HostWork
from tests.support.backends import PATIENCE_S, turn_loop
from tests.support.clock import FakeClock

LATER = 1e6


class Gate:
    """Work that says when it began and waits to be let go."""

    def __init__(self) -> None:
        self.began = threading.Semaphore(0)
        self.go = threading.Semaphore(0)

    def __call__(self) -> str:
        self.began.release()
        assert self.go.acquire(timeout=PATIENCE_S)
        return threading.current_thread().name

    async def arrival(self) -> None:
        assert await asyncio.to_thread(self.began.acquire, timeout=PATIENCE_S)


@pytest.fixture
def station():
    return Station()


@pytest.fixture
def pool(station):
    pool = HostPool(2, station)
    yield pool
    pool.close()


async def test_work_runs_in_as_many_threads_as_there_are_workers(pool, station):
    gate = Gate()
    tasks = [asyncio.create_task(pool.run(gate, LATER)) for _ in range(3)]
    for _ in range(2):
        await gate.arrival()
    assert not gate.began.acquire(blocking=False)
    assert station.capacity == pool.workers == 2
    gate.go.release(3)
    names = {task.result for task in await asyncio.gather(*tasks)}
    assert all(name.startswith("host") for name in names)
    assert station.busy_s > 0


async def test_headers_do_not_wait_behind_pixels(pool):
    gate = Gate()
    tasks = [asyncio.create_task(pool.run(gate, LATER)) for _ in range(5)]
    await gate.arrival()
    assert (await pool.glance(lambda: threading.current_thread().name)).startswith("header")
    gate.go.release(5)
    await asyncio.gather(*tasks)


async def test_cancelled_work_that_has_not_begun_is_dropped(pool, station):
    gate, ran = Gate(), []
    held = [asyncio.create_task(pool.run(gate, LATER)) for _ in range(2)]
    for _ in range(2):
        await gate.arrival()
    waiting = asyncio.create_task(pool.run(lambda: ran.append(1), LATER))
    await turn_loop()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    gate.go.release(2)
    await asyncio.gather(*held)
    await pool.run(lambda: None, LATER)
    assert ran == []
    assert station.backlog_s == 0


async def test_a_deadline_ends_the_wait(station):
    clock = FakeClock(now=100.0)
    pool = HostPool(1, station, clock)
    gate = Gate()
    held = asyncio.create_task(pool.run(gate, 1e9))
    await gate.arrival()
    with pytest.raises(DeadlineExceededError, match="while the image was being prepared or encoded"):
        await pool.run(lambda: None, 100.0)
    gate.go.release()
    await held
    pool.close()


class Upload(bytearray):
    """That one can ask whether it is still there."""


async def test_cancelled_work_lets_go_of_what_it_holds_before_any_thread_is_free(pool):
    gate = Gate()
    held = [asyncio.create_task(pool.run(gate, LATER)) for _ in range(2)]
    for _ in range(2):
        await gate.arrival()
    upload = Upload(1)
    seen = weakref.ref(upload)
    waiting = asyncio.create_task(pool.run(partial(len, upload), LATER))
    del upload
    await turn_loop()
    waiting.cancel()
    await asyncio.wait((waiting,))
    del waiting
    gc.collect()
    assert seen() is None
    gate.go.release(2)
    await asyncio.gather(*held)


async def test_work_that_has_begun_is_told_of_when_its_caller_leaves(station):
    pool, gate = HostPool(1, station), Gate()
    outlived: list[Future[object]] = []
    what = HostWork(outlived=outlived.append)
    begun = asyncio.create_task(pool.run(gate, LATER, what))
    await gate.arrival()
    waiting = asyncio.create_task(pool.run(gate, LATER, what))
    await turn_loop()
    for task in (waiting, begun):
        task.cancel()
    await asyncio.gather(waiting, begun, return_exceptions=True)
    (left,) = outlived  # what had not begun never will
    assert not left.done()
    gate.go.release()
    assert await asyncio.to_thread(pool.join, PATIENCE_S)
    assert left.done()
    pool.close()


async def test_nothing_begins_after_its_deadline(station):
    clock = FakeClock(now=100.0)
    pool, gate, ran = HostPool(1, station, clock), Gate(), []
    with pytest.raises(DeadlineExceededError):
        await pool.run(lambda: ran.append("at once"), 100.0)
    held = asyncio.create_task(pool.run(gate, 1e9))
    await gate.arrival()
    waiting = asyncio.create_task(pool.run(lambda: ran.append("in line"), 1e6))
    await turn_loop()
    clock.advance(1e6)
    gate.go.release()
    await held
    with pytest.raises(DeadlineExceededError):
        await waiting
    await pool.run(lambda: None, 1e9)
    assert ran == []
    assert station.backlog_s == 0
    pool.close()


async def test_waiting_and_working_are_told_apart(station):
    clock = FakeClock()
    pool = HostPool(1, station, clock)
    gate = Gate()
    held = asyncio.create_task(pool.run(gate, 1e9))
    await gate.arrival()
    waiting = asyncio.create_task(pool.run(lambda: clock.advance(3), 1e9))
    await turn_loop()
    clock.advance(5)
    gate.go.release()
    assert (await held).worked_s == 5
    timed = await waiting
    assert (timed.waited_s, timed.worked_s) == (5, 3)
    pool.close()


async def test_closing_does_not_wait_and_joining_does_not_wait_for_ever(station):
    pool = HostPool(1, station)
    gate, ran = Gate(), []
    busy = asyncio.create_task(pool.run(gate, LATER))
    await gate.arrival()
    waiting = asyncio.create_task(pool.run(lambda: ran.append(1), LATER))
    await turn_loop()
    pool.close()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert not pool.join(0.01)
    gate.go.release()
    assert await asyncio.to_thread(pool.join, PATIENCE_S)
    assert (await busy).result.startswith("host")
    assert ran == []


async def test_urgent_work_goes_first_and_the_oldest_request_among_equals(station):
    clock = FakeClock(now=100.0)
    pool = HostPool(1, station, clock)
    gate = Gate()
    done: list[str] = []
    held = asyncio.create_task(pool.run(gate, LATER))
    await gate.arrival()
    waiting = [
        HostWork("low", priority=Priority.LOW),
        HostWork("normal"),
        HostWork("high", priority=Priority.HIGH),
        HostWork("begun before", since=90.0),
        HostWork("aged", priority=Priority.LOW, since=39.0),  # a minute is two steps of priority
    ]
    tasks = [asyncio.create_task(pool.run(partial(done.append, what.kind), LATER, what)) for what in waiting]
    await turn_loop()
    gate.go.release()
    await asyncio.gather(held, *tasks)
    assert done == ["aged", "high", "begun before", "normal", "low"]
    pool.close()


async def test_planned_work_counts_until_it_is_handed_in():
    clock = FakeClock()
    station = Station(clock=clock)
    pool, work = HostPool(2, station, clock), HostWork("encode", 9.9)
    await pool.run(lambda: clock.advance(8.0), LATER, work)
    with pool.plan(work):
        assert station.backlog_s == pytest.approx(8.0 / 2)
    assert station.backlog_s == 0
    pool.close()


async def test_errors_and_context_pass_through(pool):
    variable: ContextVar[str] = ContextVar("variable", default="")
    variable.set("seen")
    assert (await pool.run(variable.get, LATER)).result == "seen"
    assert await pool.glance(variable.get) == "seen"

    def fail() -> None:
        raise KeyError("inside")

    with pytest.raises(KeyError, match="inside"):
        await pool.run(fail, LATER)

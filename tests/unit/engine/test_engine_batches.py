"""The engine when all is well: late-bound batches, right answers, cancellation, deadlines, drain."""

import asyncio
import gc
import itertools
import random
import threading
import time
import weakref
from typing import Any

import numpy as np
import pytest

from server.backends.base import Arrays
from server.backends.fake import FakeBackend, FakeOptions, fake_artifact
from server.engine import Engine, EngineLimits, Item, Outcome
from server.engine.batching import Priority
from server.errors import DeadlineExceededError, DrainingError, NotReadyError, UnknownModelError
from server.observability.metrics import Metrics
from tests.support.backends import (
    SIZE,
    DeviceScript,
    counted,
    mark_of,
    marked_image,
    marked_item,
    running_engine,
    turn_loop,
)
from tests.support.clock import FakeClock


async def answer(engine: Engine, item: Item) -> int:
    return mark_of(await engine.submit(item))


def at_rest(metrics: Metrics) -> bool:
    """Nothing waits and nothing runs, as far as the metrics say: every arrival was followed by a departure."""
    return metrics.queue_depth == 0 and metrics.device.backlog_s == 0


async def test_an_idle_device_serves_at_once_and_a_busy_one_finds_a_bigger_batch():
    script = DeviceScript(gated=True)
    async with running_engine(script) as engine:
        first = asyncio.create_task(engine.submit(marked_item(1)))
        await script.arrival()
        rest = [asyncio.create_task(engine.submit(marked_item(mark))) for mark in (2, 3, 4, 5)]
        await turn_loop()
        script.let_pass(2)
        outcomes = [await task for task in (first, *rest)]
        assert script.batches == [[1], [2, 3, 4, 5]]
        assert [mark_of(outcome) for outcome in outcomes] == [1, 2, 3, 4, 5]
        assert [outcome.batch_size for outcome in outcomes] == [1, 4, 4, 4, 4]


@pytest.mark.parametrize("devices", [1, 3])
@pytest.mark.parametrize("look_ahead", [0, 1])
async def test_every_item_gets_its_own_answer_exactly_once(devices, look_ahead):
    script, metrics = DeviceScript(), Metrics()
    limits = EngineLimits(max_batch=5)
    marks = list(range(250))
    random.Random(3).shuffle(marks)  # noqa: S311 - a shuffle, not a secret
    async with running_engine(
        script,
        limits,
        metrics,
        artifacts=("even", "odd"),
        options=FakeOptions(look_ahead=look_ahead),
        devices=devices,
    ) as engine:
        items = [marked_item(mark, ("even", "odd")[mark % 2], priority=Priority(mark % 3)) for mark in marks]
        found = await asyncio.gather(*(answer(engine, item) for item in items))
        assert found == marks
        assert sorted(itertools.chain.from_iterable(script.batches)) == sorted(marks), "lost, or run twice"
        assert all(len(batch) <= 5 for batch in script.batches)
        for artifact_id, batch in zip(script.artifacts, script.batches, strict=True):
            assert {("even", "odd")[mark % 2] for mark in batch} == {artifact_id}
        assert at_rest(metrics)
        assert counted(metrics, "birefnet_batch_size_sum") == 250
        assert counted(metrics, "birefnet_batch_size_count") == len(script.batches)
        assert counted(metrics, "birefnet_queue_wait_seconds_count") == 250
        assert counted(metrics, "birefnet_inference_seconds_count") == len(script.batches)


async def test_buckets_do_not_mix():
    script = DeviceScript(gated=True)
    async with running_engine(script) as engine:
        tasks = [
            asyncio.create_task(engine.submit(Item("a", {"image": marked_image(mark)}, bucket=mark % 2)))
            for mark in range(1, 8)
        ]
        script.open()
        await asyncio.gather(*tasks)
        assert all(len({mark % 2 for mark in batch}) == 1 for batch in script.batches)


async def test_the_urgent_overtake_the_patient():
    script = DeviceScript(gated=True)
    async with running_engine(script, EngineLimits(max_batch=1)) as engine:
        now = time.monotonic()
        order = [(1, Priority.NORMAL, 500.0)]
        tasks = [asyncio.create_task(engine.submit(marked_item(1)))]
        await script.arrival()
        order = [
            (2, Priority.LOW, 50.0),
            (3, Priority.NORMAL, 500.0),
            (4, Priority.NORMAL, 400.0),
            (5, Priority.HIGH, 600),
        ]
        for mark, priority, timeout_s in order:
            item = marked_item(mark, priority=priority, deadline=now + timeout_s)
            tasks.append(asyncio.create_task(engine.submit(item)))
        await turn_loop()
        script.open()
        await asyncio.gather(*tasks)
        assert script.batches == [[1], [5], [4], [3], [2]]


async def test_a_batch_bound_ahead_is_open_until_the_device_takes_it():
    script = DeviceScript(gated=True)
    async with running_engine(script, EngineLimits(max_batch=2), options=FakeOptions(look_ahead=1)) as engine:
        tasks = [asyncio.create_task(engine.submit(marked_item(1)))]
        await script.arrival()
        for mark, priority in ((2, Priority.NORMAL), (3, Priority.NORMAL), (4, Priority.HIGH)):
            tasks.append(asyncio.create_task(engine.submit(marked_item(mark, priority=priority))))
            await turn_loop()
        script.open()
        await asyncio.gather(*tasks)
        # 2 was bound ahead alone, 3 joined it, 4 overtook 3.
        assert script.batches == [[1], [4, 2], [3]]


async def test_a_device_with_look_ahead_does_not_wait_for_the_event_loop():
    script = DeviceScript(gated=True)
    async with running_engine(script, EngineLimits(max_batch=1), options=FakeOptions(look_ahead=1)) as engine:
        tasks = [asyncio.create_task(engine.submit(marked_item(mark))) for mark in (1, 2, 3)]
        await script.arrival()
        script.let_pass()
        script.arrival_within_this_turn()
        assert script.batches == [[1], [2]]
        script.open()
        await asyncio.gather(*tasks)


@pytest.mark.parametrize("look_ahead", [0, 1])
async def test_an_item_cancelled_while_it_waits_never_reaches_the_device(look_ahead):
    script, metrics = DeviceScript(gated=True), Metrics()
    async with running_engine(script, metrics=metrics, options=FakeOptions(look_ahead=look_ahead)) as engine:
        first = asyncio.create_task(engine.submit(marked_item(1)))
        await script.arrival()
        leaving = [asyncio.create_task(engine.submit(marked_item(mark))) for mark in (2, 3)]
        staying = asyncio.create_task(engine.submit(marked_item(4)))
        await turn_loop()
        for task in leaving:
            task.cancel()
        await asyncio.gather(*leaving, return_exceptions=True)
        assert all(task.cancelled() for task in leaving)
        assert metrics.queue_depth == 1 - look_ahead, "they left the queue at once: only 4 waits, or is bound ahead"
        script.open()
        assert [mark_of(await first), mark_of(await staying)] == [1, 4]
        assert script.batches == [[1], [4]]
        assert counted(metrics, "birefnet_dropped_total", reason="cancelled") == 2
        assert at_rest(metrics)


async def test_a_cancelled_item_that_runs_already_harms_nobody():
    script, metrics = DeviceScript(gated=True), Metrics()
    async with running_engine(script, metrics=metrics) as engine:
        task = asyncio.create_task(engine.submit(marked_item(1)))
        await script.arrival()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        script.open()
        assert await answer(engine, marked_item(2)) == 2
        assert counted(metrics, "birefnet_dropped_total", reason="cancelled") == 0, "it did cost device time"
        assert at_rest(metrics)


@pytest.mark.parametrize("look_ahead", [0, 1])
async def test_an_item_whose_deadline_passes_in_the_queue_is_never_sent(look_ahead):
    script, metrics, clock = DeviceScript(gated=True), Metrics(), FakeClock()
    options = FakeOptions(look_ahead=look_ahead)
    async with running_engine(script, metrics=metrics, options=options, clock=clock) as engine:
        first = asyncio.create_task(engine.submit(marked_item(1)))
        await script.arrival()
        late = asyncio.create_task(engine.submit(marked_item(2, deadline=clock() + 50)))
        fine = asyncio.create_task(engine.submit(marked_item(3, deadline=clock() + 51)))
        await turn_loop()
        clock.advance(50)
        script.open()
        with pytest.raises(DeadlineExceededError):
            await late
        assert [mark_of(await first), mark_of(await fine)] == [1, 3]
        assert script.batches == [[1], [3]]
        assert counted(metrics, "birefnet_dropped_total", reason="expired") == 1
        assert at_rest(metrics)


async def test_the_expired_hear_of_it_at_their_deadline_however_long_the_device_is_busy():
    # The clock stands still, so that a slow machine cannot let a deadline pass too early; the timers run.
    script, metrics, clock = DeviceScript(gated=True), Metrics(), FakeClock()
    async with running_engine(script, metrics=metrics, clock=clock) as engine:
        running = asyncio.create_task(engine.submit(marked_item(1, deadline=clock() + 0.5)))
        await script.arrival()
        waiting = asyncio.create_task(engine.submit(marked_item(2, deadline=clock() + 0.01)))
        for task in (waiting, running):
            with pytest.raises(DeadlineExceededError):
                await task
        script.open()
        assert await answer(engine, marked_item(3)) == 3
        assert script.batches == [[1], [3]]
        assert counted(metrics, "birefnet_dropped_total", reason="expired") == 1, "the running one did cost device time"
        assert at_rest(metrics)


async def test_an_item_that_comes_after_its_deadline_is_refused_and_counted():
    script, metrics, clock = DeviceScript(), Metrics(), FakeClock()
    async with running_engine(script, metrics=metrics, clock=clock) as engine:
        with pytest.raises(DeadlineExceededError):
            await engine.submit(marked_item(1, deadline=clock()))
        assert script.batches == []
        assert counted(metrics, "birefnet_dropped_total", reason="expired") == 1


async def test_queue_and_inference_times_come_with_the_answer():
    clock = FakeClock()

    class SlowBackend(FakeBackend):
        def run(self, artifact_id: str, arrays: Arrays) -> Arrays:
            clock.advance(0.25)
            return super().run(artifact_id, arrays)

    engine = Engine([SlowBackend], EngineLimits(), Metrics(), clock)
    await engine.start({"a": fake_artifact(SIZE)})
    outcome = await engine.submit(marked_item(1))
    assert outcome.inference_s == pytest.approx(0.25)
    assert outcome.queue_s == 0
    await engine.close()


async def test_answers_do_not_keep_the_batch_in_memory():
    async with running_engine(DeviceScript()) as engine:
        outcome = await engine.submit(marked_item(1))
        alpha = outcome.arrays["alpha"]
        assert alpha.base is None
        assert alpha.shape == SIZE
        assert alpha.dtype == np.float32


@pytest.mark.parametrize("look_ahead", [0, 1])
async def test_arrays_are_freed_at_once_and_not_when_garbage_is_collected(look_ahead):
    """A cycle around a batch would keep tens of megabytes each until the collector comes by."""
    async with running_engine(DeviceScript(), options=FakeOptions(look_ahead=look_ahead)) as engine:
        await engine.submit(marked_item(1))
        await turn_loop()
        gc.disable()
        try:
            image = marked_image(2)
            outcome = await engine.submit(Item("a", {"image": image}, SIZE))
            watched: list[weakref.ref[Any]] = [weakref.ref(image), weakref.ref(outcome.arrays["alpha"])]
            del image, outcome
            # The device thread lets go of its job in the moment in which it waits for the next.
            await engine.submit(marked_item(3))
            await turn_loop()
            assert [ref() is None for ref in watched] == [True, True]
        finally:
            gc.enable()


async def test_a_batch_that_was_taken_back_is_freed_at_once_too():
    script = DeviceScript(gated=True)
    async with running_engine(script, options=FakeOptions(look_ahead=1)) as engine:
        tasks = [asyncio.create_task(engine.submit(marked_item(1)))]
        await script.arrival()
        gc.disable()
        try:
            image = marked_image(2)
            watched = weakref.ref(image)
            tasks.append(asyncio.create_task(engine.submit(Item("a", {"image": image}, SIZE))))
            del image
            await turn_loop()
            tasks.append(asyncio.create_task(engine.submit(marked_item(3))))
            await turn_loop()
            script.open()
            await asyncio.gather(*tasks)
            assert script.batches == [[1], [2, 3]]
            tasks.clear()
            await engine.submit(marked_item(4))
            await turn_loop()
            assert watched() is None
        finally:
            gc.enable()


async def test_the_backend_lives_in_one_thread_which_is_not_the_event_loops():
    threads, closed = [], []

    class WatchedBackend(FakeBackend):
        def __init__(self) -> None:
            super().__init__(before_run=lambda *_: threads.append(threading.get_ident()))
            threads.append(threading.get_ident())

        def close(self) -> None:
            closed.append(threading.get_ident())

    engine = Engine([WatchedBackend], EngineLimits(), Metrics())
    await engine.start({"a": fake_artifact(SIZE)})
    await engine.submit(marked_item(1))
    await engine.close()
    assert len(threads) > 2
    assert set(threads) == set(closed)
    assert len(closed) == 1
    assert threads[0] != threading.get_ident()


async def test_drain_finishes_what_is_inside_and_refuses_what_comes():
    script, metrics = DeviceScript(gated=True), Metrics()
    async with running_engine(script, EngineLimits(max_batch=1), metrics) as engine:
        inside = [asyncio.create_task(engine.submit(marked_item(mark))) for mark in (1, 2, 3)]
        await script.arrival()
        draining = asyncio.create_task(engine.drain())
        await turn_loop()
        assert not engine.ready
        assert engine.live
        assert engine.unready_reason == "the engine is draining"
        with pytest.raises(DrainingError):
            await engine.submit(marked_item(4))
        assert not draining.done()
        script.open()
        await draining
        assert [mark_of(task.result()) for task in inside] == [1, 2, 3]
        assert script.batches == [[1], [2], [3]]


async def test_close_answers_what_still_waits():
    script = DeviceScript(gated=True)
    async with running_engine(script, EngineLimits(max_batch=1)) as engine:
        tasks = [asyncio.create_task(engine.submit(marked_item(mark))) for mark in (1, 2)]
        await script.arrival()
        script.open()
        await engine.close()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(result, DrainingError | Outcome) for result in results)
        assert any(isinstance(result, DrainingError) for result in results)


async def test_unknown_artifacts_and_misfits_are_refused_before_they_meet_others():
    script = DeviceScript()
    async with running_engine(script) as engine:
        with pytest.raises(UnknownModelError):
            await engine.submit(marked_item(1, "other"))
        misfits: list[Arrays] = [
            {"picture": marked_image(1)},
            {"image": marked_image(1).astype(np.float32)},
            {"image": marked_image(1, (8, 9))},
            {"image": marked_image(1)[None]},
        ]
        for arrays in misfits:
            with pytest.raises(ValueError, match="This is a bug: expected"):
                await engine.submit(Item("a", arrays, SIZE))
        assert script.batches == []


async def test_an_engine_that_was_not_started_says_so():
    engine = Engine([FakeBackend], EngineLimits(), Metrics())
    assert not engine.ready
    assert engine.live
    with pytest.raises(NotReadyError, match="not been started"):
        await engine.submit(marked_item(1))
    with pytest.raises(ValueError, match="expected a started engine"):
        await engine.load("a", fake_artifact(SIZE))


async def test_several_devices_work_side_by_side():
    script = DeviceScript(gated=True)
    async with running_engine(script, EngineLimits(max_batch=1), devices=2) as engine:
        tasks = [asyncio.create_task(engine.submit(marked_item(mark))) for mark in (1, 2)]
        await script.arrival()
        await script.arrival()  # both are in, and neither has been let pass
        script.open()
        assert [mark_of(await task) for task in tasks] == [1, 2]
        assert len(engine.devices) == 2


@pytest.mark.parametrize(
    "wrong", [{"max_batch": 0}, {"ageing_s": 0}, {"oom_recovery_s": -1}, {"hang_s": 0}, {"batch_latency_s": 0}]
)
def test_impossible_limits_are_refused(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}: expected"):
        EngineLimits(**wrong)

"""The engine when a device fails: isolation, shortage of memory, loss, hanging."""

import asyncio
import threading

import numpy as np
import pytest

from artifact import Artifact
from server.backends.base import Arrays, BackendFault
from server.backends.fake import FakeBackend, FakeOptions, fake_artifact
from server.engine import Engine, EngineLimits
from server.errors import DeadlineExceededError, DeviceLostError, InferenceError
from server.observability.metrics import Metrics
from tests.support.backends import (
    PATIENCE_S,
    SIZE,
    DeviceScript,
    counted,
    fake_artifact_with_self_test,
    mark_of,
    marked_item,
    running_engine,
    turn_loop,
)
from tests.support.clock import FakeClock

MARKS = (2, 3, 4, 5)


async def batch_of(engine: Engine, script: DeviceScript, marks: tuple[int, ...] = MARKS) -> list[int | BaseException]:
    """Run items as one batch, by keeping the device busy until all of them wait; what each got."""
    gated, script.gated = script.gated, True
    script.forget_arrivals()
    first = asyncio.create_task(engine.submit(marked_item(1)))
    await script.arrival()
    tasks = [asyncio.create_task(engine.submit(marked_item(mark))) for mark in marks]
    await turn_loop()
    script.gated = gated
    script.let_pass()
    await first
    results = await asyncio.gather(*tasks, return_exceptions=True)
    return [result if isinstance(result, BaseException) else mark_of(result) for result in results]


@pytest.mark.parametrize("look_ahead", [0, 1])
async def test_only_the_poison_item_of_a_batch_fails(look_ahead):
    script, metrics = DeviceScript(poison={4}), Metrics()
    async with running_engine(script, metrics=metrics, options=FakeOptions(look_ahead=look_ahead)) as engine:
        healthy_2, healthy_3, poisoned, healthy_5 = await batch_of(engine, script)
        assert [healthy_2, healthy_3, healthy_5] == [2, 3, 5]
        assert isinstance(poisoned, InferenceError)
        assert not isinstance(poisoned, DeviceLostError)
        assert "poisoned" in poisoned.detail
        assert script.batches == [[1], [2, 3, 4, 5], [2], [3], [4], [5]]
        assert counted(metrics, "birefnet_faults_total", kind="batch", device="fake") == 1
        assert counted(metrics, "birefnet_faults_total", kind="item", device="fake") == 1
        assert engine.ready
        assert metrics.device.backlog_s == 0


async def test_an_unforeseen_exception_of_a_backend_is_isolated_too():
    class BuggyBackend(FakeBackend):
        def run(self, artifact_id: str, arrays: Arrays) -> Arrays:
            outputs = super().run(artifact_id, arrays)
            if any(image.flat[0] == 4 for image in arrays["image"]):
                raise ZeroDivisionError
            return outputs

    script = DeviceScript(armed=True)
    engine = Engine([lambda: BuggyBackend(before_run=script)], EngineLimits(), Metrics())
    script.armed = False
    await engine.start({"a": fake_artifact(SIZE)})
    script.armed = True
    results = await batch_of(engine, script)
    assert [type(result) for result in results] == [int, int, InferenceError, int]
    assert await batch_of(engine, script, (7,)) == [7], "the device thread lives on"
    await engine.close()


@pytest.mark.parametrize("rows", [lambda n: [0], lambda n: [0, *range(n)] if n > 1 else [0]], ids=["short", "long"])
async def test_an_answer_of_the_wrong_length_is_a_fault_and_not_a_mix_up(rows):
    class MiscountingBackend(FakeBackend):
        def run(self, artifact_id: str, arrays: Arrays) -> Arrays:
            outputs = super().run(artifact_id, arrays)
            return {name: array[rows(len(array))] for name, array in outputs.items()}

    script = DeviceScript()
    engine = Engine([lambda: MiscountingBackend(before_run=script)], EngineLimits(), Metrics())
    await engine.start({"a": fake_artifact(SIZE)})
    script.armed = True
    assert await batch_of(engine, script) == [2, 3, 4, 5], "one by one it works"
    assert [len(batch) for batch in script.batches] == [1, 4, 1, 1, 1, 1]
    await engine.close()


async def test_out_of_memory_halves_the_batch_and_time_restores_it():
    script, metrics, clock = DeviceScript(capacity=2), Metrics(), FakeClock()
    limits = EngineLimits(max_batch=8, oom_recovery_s=60)
    async with running_engine(script, limits, metrics, clock=clock) as engine:
        marks = tuple(range(2, 10))
        assert await batch_of(engine, script, marks) == list(marks), "nobody failed"
        assert [len(batch) for batch in script.batches] == [1, 8, 4, 2, 2, 2, 2]
        assert counted(metrics, "birefnet_faults_total", kind="out_of_memory", device="fake") == 2
        assert metrics.device.backlog_s == 0
        script.batches.clear()
        script.capacity = None
        await batch_of(engine, script, marks)
        assert [len(batch) for batch in script.batches] == [1, 2, 2, 2, 2], "the limit is remembered"
        script.batches.clear()
        clock.advance(120)
        await batch_of(engine, script, marks)
        assert [len(batch) for batch in script.batches] == [1, 8], "and recovers"


async def test_an_item_that_does_not_fit_even_alone_fails():
    script = DeviceScript(capacity=0)
    async with running_engine(script) as engine:
        with pytest.raises(InferenceError, match="no memory for this image"):
            await engine.submit(marked_item(1))
        assert engine.ready
        script.capacity = None
        assert mark_of(await engine.submit(marked_item(2))) == 2


@pytest.mark.parametrize("look_ahead", [0, 1])
async def test_a_fatal_fault_ends_readiness_and_life_and_fails_what_waits(look_ahead):
    script, metrics = DeviceScript(gated=True, fatal={1}), Metrics()
    limits = EngineLimits(max_batch=1)
    async with running_engine(script, limits, metrics, options=FakeOptions(look_ahead=look_ahead)) as engine:
        tasks = [asyncio.create_task(engine.submit(marked_item(mark))) for mark in (1, 2, 3)]
        await script.arrival()
        assert engine.ready
        assert engine.live
        script.open()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(result) for result in results] == [DeviceLostError] * 3
        assert script.batches == [[1]], "nothing more is sent to a lost device"
        assert not engine.ready
        assert not engine.live
        assert engine.unready_reason == "the device is lost: the card has fallen off"
        with pytest.raises(DeviceLostError):
            await engine.submit(marked_item(4))
        assert counted(metrics, "birefnet_faults_total", kind="fatal", device="fake") == 1
        assert metrics.queue_depth == 0
        assert metrics.device.backlog_s == 0
        await engine.drain()


async def test_a_fatal_fault_loses_what_the_other_threads_of_the_device_run_too():
    script = DeviceScript(gated=True, stuck={2}, fatal={1})
    async with running_engine(script, EngineLimits(max_batch=1), devices=2) as engine:
        tasks = [asyncio.create_task(engine.submit(marked_item(mark))) for mark in (1, 2, 3)]
        await script.arrival()
        await script.arrival()
        script.let_pass()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(result) for result in results] == [DeviceLostError] * 3, "it failed, it ran, it waited"
        assert script.batches == [[1], [2]] or script.batches == [[2], [1]]
        assert not engine.live


async def test_a_hung_device_is_noticed():
    script = DeviceScript(gated=True)
    async with running_engine(script, EngineLimits(max_batch=1, hang_s=0.02)) as engine:
        tasks = [asyncio.create_task(engine.submit(marked_item(mark))) for mark in (1, 2)]
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(result) for result in results] == [DeviceLostError] * 2
        assert engine.unready_reason == "the device is lost: fake did not answer for 0.02 s"
        assert not engine.live


async def test_the_watchdog_starts_anew_with_every_batch():
    """Or else many short batches in a row would look like one long one."""
    script = DeviceScript(gated=True)
    async with running_engine(script, EngineLimits(max_batch=1, hang_s=1000)) as engine:
        (worker,) = engine._dispatcher.workers
        assert worker.watchdog is None, "an idle device does not hang"
        tasks = [asyncio.create_task(engine.submit(marked_item(mark))) for mark in (1, 2)]
        await script.arrival()
        first = worker.watchdog
        assert first is not None
        script.let_pass()
        await script.arrival()
        second = worker.watchdog
        assert second is not None
        assert first.cancelled()
        assert second.when() > first.when()
        script.open()
        await asyncio.gather(*tasks)
        assert second.cancelled()
        assert worker.watchdog is None


async def test_a_batch_taken_back_of_which_nothing_is_left_does_not_leave_the_watchdog_armed():
    clock, gate = FakeClock(), threading.Event()
    script, options = DeviceScript(), FakeOptions(look_ahead=0)
    async with running_engine(script, EngineLimits(max_batch=1), options=options, clock=clock) as engine:
        (worker,) = engine._dispatcher.workers
        held = worker.thread.post(lambda backend: gate.wait(PATIENCE_S))  # so that no batch begins
        deadline = clock() + 1000
        tasks = [asyncio.create_task(engine.submit(marked_item(mark, deadline=deadline))) for mark in (1, 2)]
        await turn_loop()
        assert worker.watchdog is not None
        clock.advance(2000)
        engine._dispatcher.dispatch()
        assert worker.flights == []
        assert worker.watchdog is None, "an idle device does not hang"
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(result) for result in results] == [DeadlineExceededError] * 2
        gate.set()
        assert await asyncio.wrap_future(held)


async def test_the_self_test_runs_again_after_a_fault_and_passing_it_keeps_the_device(tmp_path):
    script = DeviceScript(poison={4})
    engine = Engine([lambda: FakeBackend(before_run=script)], EngineLimits(), Metrics())
    await engine.start({"a": fake_artifact_with_self_test(tmp_path / "artifact", mark=99)})
    script.armed = True
    assert [type(result) for result in await batch_of(engine, script)] == [int, int, InferenceError, int]
    assert script.batches == [[1], [2, 3, 4, 5], [99], [2], [3], [4], [5]], "proved before the others are tried again"
    assert engine.ready
    await engine.close()


async def test_a_device_that_gives_other_answers_after_a_fault_is_lost(tmp_path):
    class SickBackend(FakeBackend):
        sick = False

        def run(self, artifact_id: str, arrays: Arrays) -> Arrays:
            if any(image.flat[0] == 4 for image in arrays["image"]):
                SickBackend.sick = True
                raise BackendFault("the first sign")
            outputs = super().run(artifact_id, arrays)
            return {"alpha": outputs["alpha"].astype(np.float32) + np.float32(0.5)} if SickBackend.sick else outputs

    script = DeviceScript()
    engine = Engine([lambda: SickBackend(before_run=script)], EngineLimits(), Metrics())
    await engine.start({"a": fake_artifact_with_self_test(tmp_path / "artifact", mark=99)})
    script.armed = True
    results = await batch_of(engine, script)
    assert all(isinstance(result, DeviceLostError | InferenceError) for result in results), "no wrong matte gets out"
    assert not engine.live
    assert "does not pass its self-test after a fault" in str(engine.unready_reason)
    assert "max 5.00e-01" in str(engine.unready_reason)
    await engine.close()


class StuckLoading(FakeBackend):
    """Never ends loading whatever is called `stuck`."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()

    def load(self, artifact_id: str, artifact: Artifact) -> str:
        if artifact_id == "stuck":
            self.go.wait(PATIENCE_S)
        return super().load(artifact_id, artifact)


async def test_a_load_that_hangs_loses_the_device():
    backend = StuckLoading()
    engine = Engine([lambda: backend], EngineLimits(load_s=0.5), Metrics())
    await engine.start({"sound": fake_artifact(SIZE)})
    with pytest.raises(BackendFault, match="did not load stuck within"):
        await engine.load("stuck", fake_artifact(SIZE))
    assert not engine.live
    backend.go.set()
    await engine.close()


async def test_a_load_that_hangs_ends_the_start():
    backend = StuckLoading()
    engine = Engine([lambda: backend], EngineLimits(load_s=0.5), Metrics())
    with pytest.raises(BackendFault, match="did not load stuck within"):
        await engine.start({"stuck": fake_artifact(SIZE)})
    assert not engine.ready
    backend.go.set()
    await engine.close()

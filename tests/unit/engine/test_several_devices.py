"""Several devices behind one queue: who gets the work, and what one that fails leaves to the others."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import numpy as np
import pytest

from artifact import Artifact
from server.backends.base import Arrays, Backend, BackendFault, Finish, Finished, OutOfMemoryFault
from server.backends.fake import FakeBackend, FakeOptions, fake_artifact
from server.engine import Engine, EngineLimits, Outcome
from server.engine.devices import Worker
from server.errors import DeadlineExceededError, DeviceLostError, InferenceError
from server.observability.metrics import Metrics
from tests.support.backends import (
    PATIENCE_S,
    SIZE,
    DeviceScript,
    counted,
    mark_of,
    marked_item,
    turn_loop,
)
from tests.support.clock import FakeClock

ONE_BY_ONE = EngineLimits(max_batch=1)


@asynccontextmanager
async def engine_on(
    scripts: Sequence[DeviceScript],
    metrics: Metrics | None = None,
    limits: EngineLimits = ONE_BY_ONE,
    *,
    names: Sequence[str] = ("gpu:0", "gpu:1", "gpu:2"),
    look_ahead: int = 0,
    clock: Callable[[], float] | None = None,
) -> AsyncIterator[Engine]:
    """A warm engine with one fake device per script."""

    def maker(script: DeviceScript, name: str) -> Callable[[], Backend]:
        return lambda: FakeBackend(FakeOptions(look_ahead=look_ahead, name=name), before_run=script)

    makers = [maker(script, name) for script, name in zip(scripts, names, strict=False)]
    timed = {"clock": clock} if clock is not None else {}
    engine = Engine(makers, limits, metrics if metrics is not None else Metrics(), **timed)
    await engine.start({"a": fake_artifact(SIZE)})
    for script in scripts:
        script.armed = True
    try:
        yield engine
    finally:
        for script in scripts:
            script.open()
        await engine.close()


def send(engine: Engine, *marks: int) -> list[asyncio.Task[Outcome]]:
    return [asyncio.create_task(engine.submit(marked_item(mark))) for mark in marks]


async def test_work_goes_to_the_device_that_has_none():
    one, other = DeviceScript(gated=True), DeviceScript(gated=True)
    async with engine_on([one, other]) as engine:
        (first,) = send(engine, 1)
        await one.arrival()
        (second,) = send(engine, 2)
        await other.arrival()
        waiting = send(engine, 3)
        await turn_loop()
        other.let_pass()
        assert mark_of(await second) == 2
        await other.arrival()
        assert (one.batches, other.batches) == ([[1]], [[2], [3]]), "what waited goes to who has finished"
        one.open()
        other.open()
        await asyncio.gather(first, *waiting)


async def test_the_next_batch_goes_to_the_idle_device_before_the_second_thread_of_a_busy_one():
    scripts = [DeviceScript(gated=True) for _ in range(4)]
    names = ("gpu:0", "gpu:1", "gpu:0", "gpu:1")
    async with engine_on(scripts, names=names) as engine:
        assert [worker.name for worker in engine._dispatcher.workers] == ["gpu:0", "gpu:1", "gpu:0#1", "gpu:1#1"]
        tasks = send(engine, 1)
        await scripts[0].arrival()
        tasks += send(engine, 2)
        await scripts[1].arrival()
        tasks += send(engine, 3)
        await scripts[2].arrival()
        scripts[0].let_pass()
        await tasks[0]
        tasks += send(engine, 4, 5)
        await scripts[0].arrival()  # each GPU has one batch: the first thread in the order
        await scripts[3].arrival()
        scripts[1].let_pass()
        scripts[3].let_pass()
        await asyncio.gather(tasks[1], tasks[4])
        tasks += send(engine, 6)
        await scripts[1].arrival()
        assert [script.batches for script in scripts] == [[[1], [4]], [[2], [6]], [[3]], [[5]]]
        for script in scripts:
            script.open()
        await asyncio.gather(*tasks)


@pytest.mark.parametrize(("waiting", "expected"), [(2, (1, 1)), (5, (3, 2)), (8, (4, 4)), (9, (4, 4))])
async def test_devices_that_are_equally_idle_share_what_waits(waiting, expected):
    """It waits because nothing ran yet, not even a thread: all of it is there before a device has begun."""
    scripts = [DeviceScript(gated=True), DeviceScript(gated=True)]
    async with engine_on(scripts, limits=EngineLimits(max_batch=4)) as engine:
        gate = threading.Event()
        held = [worker.thread.post(lambda _: gate.wait(PATIENCE_S)) for worker in engine._dispatcher.workers]
        tasks = send(engine, *range(waiting))
        await turn_loop()
        gate.set()
        assert all(await asyncio.gather(*(asyncio.wrap_future(job) for job in held)))
        for script in scripts:
            await script.arrival()
        assert tuple(len(script.batches[0]) for script in scripts) == expected
        for script in scripts:
            script.open()
        await asyncio.gather(*tasks)


async def test_a_device_that_dies_is_taken_out_and_the_others_go_on():
    metrics = Metrics()
    dying, sound = DeviceScript(gated=True, fatal={1}), DeviceScript(gated=True)
    async with engine_on([dying, sound], metrics) as engine:
        assert counted(metrics, "birefnet_workers", part="device") == 2
        lost, running = send(engine, 1, 2)
        await dying.arrival()
        await sound.arrival()
        waiting = send(engine, 3, 4)
        await turn_loop()
        dying.open()
        with pytest.raises(DeviceLostError, match="the card has fallen off"):
            await lost
        assert (engine.ready, engine.live) == (True, True)
        assert not running.done()
        sound.open()
        assert [mark_of(await task) for task in (running, *waiting)] == [2, 3, 4]
        assert [mark_of(await task) for task in send(engine, 5, 6)] == [5, 6]
        assert dying.batches == [[1]], "nothing more is sent to it"
        assert counted(metrics, "birefnet_faults_total", kind="fatal", device="gpu:0") == 1
        assert counted(metrics, "birefnet_faults_total", kind="fatal", device="gpu:1") == 0
        assert counted(metrics, "birefnet_device_up", device="gpu:0") == 0
        assert counted(metrics, "birefnet_device_up", device="gpu:1") == 1
        assert counted(metrics, "birefnet_device_batches_total", device="gpu:0") == 0
        assert counted(metrics, "birefnet_device_batches_total", device="gpu:1") == 5
        assert counted(metrics, "birefnet_workers", part="device") == 1, "pressure is of what is left"
        assert metrics.device.backlog_s == 0
        await engine.drain()


async def test_what_a_dead_device_had_not_begun_is_run_by_another():
    dying, sound = DeviceScript(gated=True, fatal={1}), DeviceScript(gated=True)
    async with engine_on([dying, sound], look_ahead=1) as engine:
        lost, running = send(engine, 1, 2)
        await dying.arrival()
        await sound.arrival()
        ahead = send(engine, 3, 4)
        await turn_loop()
        assert [len(worker.flights) for worker in engine._dispatcher.workers] == [2, 2]
        dying.open()
        with pytest.raises(DeviceLostError):
            await lost
        sound.open()
        assert [mark_of(await task) for task in (running, *ahead)] == [2, 3, 4]
        assert sound.batches in ([[2], [3], [4]], [[2], [4], [3]])
        assert dying.batches == [[1]]


async def test_the_last_device_takes_the_process_with_it():
    scripts = [DeviceScript(gated=True, fatal={1}), DeviceScript(gated=True, fatal={2})]
    async with engine_on(scripts) as engine:
        first, second = send(engine, 1, 2)
        for script in scripts:
            await script.arrival()
        waiting = send(engine, 3)
        await turn_loop()
        scripts[0].open()
        await asyncio.gather(first, return_exceptions=True)
        assert engine.live
        scripts[1].open()
        results = await asyncio.gather(first, second, *waiting, return_exceptions=True)
        assert [type(result) for result in results] == [DeviceLostError] * 3
        assert (engine.ready, engine.live) == (False, False)
        assert engine.unready_reason == "the device is lost: the card has fallen off"
        with pytest.raises(DeviceLostError):
            await engine.submit(marked_item(4))


async def test_a_device_that_hangs_is_given_up_alone():
    metrics = Metrics()
    hung, sound = DeviceScript(gated=True), DeviceScript(gated=True)
    async with engine_on([hung, sound], metrics, look_ahead=1) as engine:
        stuck, running = send(engine, 1, 2)
        await hung.arrival()
        await sound.arrival()
        ahead = send(engine, 3, 4)
        await turn_loop()
        (worker, _) = engine._dispatcher.workers
        engine._dispatcher._hangs(worker)  # as after hang_s
        with pytest.raises(DeviceLostError, match="gpu:0 did not answer for 300 s"):
            await stuck
        assert (engine.ready, engine.live) == (True, True)
        sound.open()
        assert [mark_of(await task) for task in (running, *ahead)] == [2, 3, 4]
        assert metrics.device.backlog_s == 0, "what hangs is not waited for any more"
        hung.open()
        await asyncio.to_thread(worker.thread.stop)
        assert await asyncio.to_thread(worker.thread.join, PATIENCE_S)
        await turn_loop()
        assert metrics.device.backlog_s == 0, "and its late answer changes nothing"
        assert hung.batches == [[1]]
        assert mark_of(await engine.submit(marked_item(5))) == 5


async def test_each_device_has_a_watchdog_of_its_own():
    one, other = DeviceScript(gated=True), DeviceScript(gated=True)
    async with engine_on([one, other]) as engine:
        workers = engine._dispatcher.workers
        (first,) = send(engine, 1)
        await one.arrival()
        armed = workers[0].watchdog
        assert armed is not None
        assert workers[1].watchdog is None
        (second,) = send(engine, 2)
        await other.arrival()
        assert workers[0].watchdog is armed, "the batches of one say nothing of the other"
        other.open()
        await second
        assert workers[1].watchdog is None
        assert workers[0].watchdog is armed
        one.open()
        await first


async def test_memory_that_runs_short_on_one_device_limits_that_one_alone():
    clock = FakeClock()
    short, roomy = DeviceScript(gated=True, capacity=2), DeviceScript(gated=True)
    async with engine_on([short, roomy], limits=EngineLimits(max_batch=4), clock=clock) as engine:
        tasks = send(engine, 1, 2)  # one for each, so that more have to wait
        await short.arrival()
        await roomy.arrival()
        tasks += send(engine, 3, 4, 5, 6)
        await turn_loop()
        short.let_pass()
        await short.arrival()
        short.let_pass()  # four do not fit: two of them come back, and two wait
        await short.arrival()
        assert [sorted(batch) for batch in short.batches] == [[1], [3, 4, 5, 6], [3, 4]]
        tasks += send(engine, 7, 8)
        await turn_loop()
        roomy.let_pass()
        await roomy.arrival()
        assert [sorted(batch) for batch in roomy.batches] == [[2], [5, 6, 7, 8]]
        short.open()
        roomy.open()
        assert [mark_of(outcome) for outcome in await asyncio.gather(*tasks)] == [1, 2, 3, 4, 5, 6, 7, 8]


async def test_each_device_finds_its_own_largest_batch():
    class SmallBackend(FakeBackend):
        def run(self, artifact_id: str, arrays: Arrays) -> Arrays:
            if len(arrays["image"]) > 2:
                raise OutOfMemoryFault("too many")
            return super().run(artifact_id, arrays)

    metrics = Metrics()
    small, large = FakeOptions(max_batch=6, name="gpu:0"), FakeOptions(max_batch=6, name="gpu:1")
    engine = Engine([lambda: SmallBackend(small), lambda: FakeBackend(large)], EngineLimits(), metrics)
    await engine.start({"a": fake_artifact(SIZE)})
    assert counted(metrics, "birefnet_batch_limit", model="a", device="gpu:0") == 2
    assert counted(metrics, "birefnet_batch_limit", model="a", device="gpu:1") == 6
    metrics.device._item_s = metrics.device._task_s = 1.0
    assert [engine.wait_s(ahead) for ahead in (0, 7, 8, 16)] == [0, 0, 1.0, 2.0], "eight at a time"
    assert 'device="gpu:1",kind="matte"' in metrics.render()[0].decode()
    await engine.unload("a")
    assert "birefnet_batch_limit{" not in metrics.render()[0].decode()
    await engine.close()


async def test_a_poison_item_fails_alone_on_whatever_device():
    scripts = [DeviceScript(poison={4}), DeviceScript(poison={4})]
    async with engine_on(scripts, limits=EngineLimits(max_batch=4)) as engine:
        results = await asyncio.gather(*send(engine, *range(1, 9)), return_exceptions=True)
        assert [type(result) for result in results] == [Outcome] * 3 + [InferenceError] + [Outcome] * 4
        assert (engine.ready, engine.live) == (True, True)


async def test_a_device_that_cannot_be_opened_ends_the_start_and_the_others_are_closed():
    closed = []

    class WatchedBackend(FakeBackend):
        def close(self) -> None:
            closed.append(threading.current_thread().name)

    def broken() -> Backend:
        raise BackendFault("no such card")

    engine = Engine([broken, WatchedBackend], EngineLimits(), Metrics())
    with pytest.raises(BackendFault, match="no such card"):
        await engine.start({"a": fake_artifact(SIZE)})
    assert not engine.ready
    await engine.close()
    assert closed == ["device-1"]


async def test_a_model_that_is_added_is_warmed_up_on_what_is_left():
    scripts = [DeviceScript(fatal={1}), DeviceScript()]
    async with engine_on(scripts) as engine:
        await asyncio.gather(*send(engine, 1), return_exceptions=True)
        for script in scripts:
            script.armed = False
        await engine.load("b", fake_artifact(SIZE))
        assert mark_of(await engine.submit(marked_item(2, "b"))) == 2
        assert engine.precisions == {"a": "fp32", "b": "fp32"}
        await engine.unload("b")
        assert mark_of(await engine.submit(marked_item(3))) == 3


class Slow(FakeBackend):
    """Loads an artifact that is called `slow` when it is told to, and then as it is told to."""

    def __init__(self, name: str, script: DeviceScript) -> None:
        super().__init__(FakeOptions(name=name), before_run=script)
        self.begun, self.go = threading.Semaphore(0), threading.Event()
        self.fault: BackendFault | None = None

    def load(self, artifact_id: str, artifact: Artifact) -> str:
        if artifact_id == "slow":
            self.begun.release()
            assert self.go.wait(PATIENCE_S)
            if self.fault is not None:
                raise self.fault
        return super().load(artifact_id, artifact)


@asynccontextmanager
async def loading_slowly() -> AsyncIterator[tuple[Engine, list[Slow], asyncio.Task[None]]]:
    """Two devices that are both in the middle of loading `slow`."""
    backends = [Slow(f"gpu:{index}", DeviceScript()) for index in range(2)]
    engine = Engine([lambda: backends[0], lambda: backends[1]], EngineLimits(), Metrics())
    await engine.start({"a": fake_artifact(SIZE)})
    task = asyncio.create_task(engine.load("slow", fake_artifact(SIZE)))
    for backend in backends:
        assert await asyncio.to_thread(backend.begun.acquire, timeout=PATIENCE_S)
    try:
        yield engine, backends, task
    finally:
        for backend in backends:
            backend.go.set()
        await asyncio.gather(task, return_exceptions=True)
        await engine.close()


async def test_a_device_that_loads_a_graph_gets_no_batch_while_another_has_room():
    """It would wait for minutes, where a plan is built."""
    async with loading_slowly() as (engine, backends, _):
        backends[1].go.set()
        loading, done = engine._dispatcher.workers
        await done.do(lambda _: None)  # its turn comes when the graph is loaded
        await turn_loop()
        assert done.loading == 0
        for mark in (1, 2, 3):
            assert mark_of(await asyncio.wait_for(engine.submit(marked_item(mark)), PATIENCE_S)) == mark
        assert loading.loading == 1


async def test_a_device_lost_while_a_model_is_loaded_does_not_hold_it_up():
    async with loading_slowly() as (engine, backends, task):
        engine._dispatcher.lose(engine._dispatcher.workers[0], "its fan has stopped")
        backends[1].go.set()
        await task
        assert mark_of(await engine.submit(marked_item(2, "slow"))) == 2


async def test_a_model_that_kills_a_device_is_not_served_on_the_others():
    async with loading_slowly() as (engine, backends, task):
        backends[0].fault = BackendFault("it fell off", fatal=True)
        for backend in backends:
            backend.go.set()
        with pytest.raises(BackendFault, match="it fell off"):
            await task
        assert engine.ready
        assert set(engine.precisions) == {"a"}
        assert [worker.lost for worker in engine._dispatcher.workers] == ["it fell off", None]
        assert mark_of(await engine.submit(marked_item(2))) == 2


async def refusal(worker: Worker) -> None:
    """The thread of a dead device has refused whatever it had been given."""
    with pytest.raises(BackendFault):
        await asyncio.wrap_future(worker.thread.post(lambda _: None))
    await turn_loop()


async def test_a_device_that_a_model_has_killed_gets_no_batch_while_another_still_loads_it():
    async with loading_slowly() as (engine, backends, task):
        dead = engine._dispatcher.workers[0]
        backends[0].fault = BackendFault("it fell off", fatal=True)
        backends[0].go.set()
        await refusal(dead)
        answers = send(engine, 1, 2)
        await turn_loop()
        await refusal(dead)  # after the first of them
        assert dead.lost == "it fell off"
        backends[1].go.set()
        found = await asyncio.wait_for(asyncio.gather(*answers), PATIENCE_S)
        assert [mark_of(each) for each in found] == [1, 2]
        with pytest.raises(BackendFault, match="it fell off"):
            await task
        assert set(engine.precisions) == {"a"}


async def test_a_model_whose_loading_loses_the_last_device_says_so():
    async with loading_slowly() as (engine, _, task):
        for worker in engine._dispatcher.workers:
            engine._dispatcher.lose(worker, "the power is gone")
        with pytest.raises(BackendFault, match="the power is gone"):
            await task
        assert not engine.live


class Finishing(FakeBackend):
    """Finishes when it is told to, and as it is told to."""

    def __init__(self, name: str, script: DeviceScript) -> None:
        super().__init__(FakeOptions(name=name), before_run=script)
        self.begun, self.go = threading.Semaphore(0), threading.Semaphore(0)
        self.fault: BackendFault | None = None

    def finish(self, work: Finish) -> Finished:
        self.begun.release()
        assert self.go.acquire(timeout=PATIENCE_S)
        if self.fault is not None:
            raise self.fault
        return super().finish(work)

    async def arrival(self) -> None:
        assert await asyncio.to_thread(self.begun.acquire, timeout=PATIENCE_S)


WORK = Finish(np.full((4, 4), 0.5, np.float32), (8, 8))


@asynccontextmanager
async def finishing_engine(
    limits: EngineLimits = ONE_BY_ONE, clock: Callable[[], float] = time.monotonic
) -> AsyncIterator[tuple[Engine, list[Finishing], Metrics]]:
    metrics = Metrics()
    backends = [Finishing(f"gpu:{index}", DeviceScript()) for index in range(2)]
    engine = Engine([lambda: backends[0], lambda: backends[1]], limits, metrics, clock)
    await engine.start({"a": fake_artifact(SIZE)})
    try:
        yield engine, backends, metrics
    finally:
        for backend in backends:
            backend.go.release(100)
        await engine.close()


def finish(engine: Engine, left_s: float = 1000.0) -> "asyncio.Task[Finished | None]":
    return asyncio.create_task(engine.finish(WORK, engine._clock() + left_s))


async def test_mattes_are_finished_side_by_side_between_batches():
    async with finishing_engine() as (engine, backends, metrics):
        one, other = finish(engine), finish(engine)
        for backend in backends:
            await backend.arrival()
        assert metrics.device.backlog_s == 0, "they are no items of the queue"
        for backend in backends:
            backend.go.release()
        for finished in await asyncio.gather(one, other):
            assert finished is not None
            assert np.array_equal(finished.alpha, np.full((8, 8), 128, np.uint8))
        assert [worker.errands for worker in engine._dispatcher.workers] == [0, 0]


async def test_a_device_that_dies_of_finishing_leaves_it_to_the_host_and_the_rest_to_the_other():
    async with finishing_engine() as (engine, backends, metrics):
        backends[0].fault = BackendFault("it fell off", fatal=True)
        task = finish(engine)
        await backends[0].arrival()
        backends[0].go.release()
        assert await task is None
        assert [worker.lost for worker in engine._dispatcher.workers] == ["it fell off", None]
        assert engine.ready
        task = finish(engine)
        await backends[1].arrival()
        backends[1].go.release()
        assert await task is not None
        assert counted(metrics, "birefnet_faults_total", kind="fatal", device="gpu:0") == 1


async def test_a_finishing_that_hangs_loses_its_device():
    async with finishing_engine(EngineLimits(hang_s=0.02)) as (engine, *_):
        assert await finish(engine) is None
        assert [worker.lost for worker in engine._dispatcher.workers] == [
            "gpu:0 did not finish a matte within 0.02 s",
            None,
        ]


async def test_a_finishing_that_is_too_late_is_told_so_and_the_device_stays():
    clock = FakeClock()
    async with finishing_engine(clock=clock) as (engine, *_):
        with pytest.raises(DeadlineExceededError):
            await finish(engine, left_s=0.01)
        assert [worker.lost for worker in engine._dispatcher.workers] == [None, None]


async def test_without_a_device_that_can_the_host_finishes():
    class Plain:
        """A backend as it may be: with nothing that is optional."""

        def __init__(self) -> None:
            inner = FakeBackend()
            self.device = inner.device
            self.load, self.unload, self.run, self.close = inner.load, inner.unload, inner.run, inner.close

    engine = Engine([Plain], EngineLimits(), Metrics())
    await engine.start({"a": fake_artifact(SIZE)})
    assert await engine.finish(WORK, engine._clock() + 1000) is None
    await engine.close()

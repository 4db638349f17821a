"""Before an engine is ready: every batch size runs, the self-test passes, and a failure says by how much."""

import asyncio
import threading
from collections.abc import Callable

import numpy as np
import pytest

from artifact import Artifact, ArtifactError
from server.backends.base import Arrays, BackendFault, OutOfMemoryFault
from server.backends.fake import FakeBackend, FakeOptions, fake_artifact
from server.backends.ort import OrtBackend, OrtOptions
from server.engine import Engine, EngineLimits
from server.engine.warmup import SelfTestFailedError
from server.errors import DeviceLostError, NotReadyError, UnknownModelError
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
    tiny_onnx_artifact,
)
from tests.support.clock import FakeClock


class RecordingBackend(FakeBackend):
    """Notes the size of every batch."""

    def __init__(self, options: FakeOptions = FakeOptions(), capacity: int = 1000) -> None:  # noqa: B008 - frozen
        super().__init__(options)
        self.sizes: list[int] = []
        self.capacity = capacity

    def run(self, artifact_id: str, arrays: Arrays) -> Arrays:
        self.sizes.append(len(arrays["image"]))
        if self.sizes[-1] > self.capacity:
            raise OutOfMemoryFault("too many")
        return super().run(artifact_id, arrays)


async def test_not_ready_before_the_last_batch_size_has_run():
    begun, go = threading.Event(), threading.Event()

    def hold(artifact_id: str, arrays: Arrays) -> None:
        begun.set()
        assert go.wait(PATIENCE_S)

    engine = Engine([lambda: FakeBackend(before_run=hold)], EngineLimits(), Metrics())
    starting = asyncio.create_task(engine.start({"a": fake_artifact(SIZE)}))
    assert await asyncio.to_thread(begun.wait, PATIENCE_S)
    assert not engine.ready
    assert engine.live, "liveness does not wait for the models"
    assert engine.unready_reason == "the models are warming up"
    with pytest.raises(NotReadyError, match="warming up"):
        await engine.submit(marked_item(1))
    go.set()
    await starting
    assert engine.ready
    assert mark_of(await engine.submit(marked_item(1))) == 1
    await engine.close()


@pytest.mark.parametrize(
    ("device_max", "operator_max", "artifact_max", "expected"),
    [(3, None, 32, 3), (3, 5, 32, 5), (3, 5, 4, 4), (8, None, 2, 2), (8, 1, 8, 1)],
)
async def test_every_batch_size_up_to_the_limit_runs(device_max, operator_max, artifact_max, expected):
    backend = RecordingBackend(FakeOptions(max_batch=device_max))
    engine = Engine([lambda: backend], EngineLimits(max_batch=operator_max), Metrics())
    await engine.start({"a": fake_artifact(SIZE, max_batch=artifact_max)})
    assert set(backend.sizes) == set(range(1, expected + 1))
    backend.sizes.clear()
    await asyncio.gather(*(engine.submit(marked_item(mark)) for mark in range(20)))
    assert max(backend.sizes) == expected
    await engine.close()


async def test_what_does_not_fit_while_warming_up_is_never_tried_again():
    backend = RecordingBackend(FakeOptions(max_batch=8), capacity=3)
    engine = Engine([lambda: backend], EngineLimits(), Metrics())
    await engine.start({"a": fake_artifact(SIZE)})
    backend.sizes.clear()
    await asyncio.gather(*(engine.submit(marked_item(mark)) for mark in range(20)))
    assert max(backend.sizes) == 3
    await engine.close()


async def test_an_artifact_that_does_not_fit_even_alone_is_not_served():
    engine = Engine([lambda: RecordingBackend(capacity=0)], EngineLimits(), Metrics())
    with pytest.raises(OutOfMemoryFault):
        await engine.start({"a": fake_artifact(SIZE)})
    assert not engine.ready
    await engine.close()


async def test_a_passed_self_test_is_ready_on_a_real_runtime(tmp_path):
    engine = Engine([lambda: OrtBackend(OrtOptions(threads=1))], EngineLimits(), Metrics())
    await engine.start({"tiny": tiny_onnx_artifact(tmp_path / "artifact")})
    assert engine.ready
    assert engine.precisions == {"tiny": "fp32"}
    await engine.close()


async def test_a_failed_self_test_is_not_ready_and_says_by_how_much(tmp_path):
    engine = Engine([lambda: OrtBackend(OrtOptions(threads=1))], EngineLimits(), Metrics())
    artifact = tiny_onnx_artifact(tmp_path / "artifact", expected_offset=0.125)
    with pytest.raises(SelfTestFailedError):
        await engine.start({"tiny": artifact})
    assert not engine.ready
    assert engine.live, "a restart would not cure it"
    reason = str(engine.unready_reason)
    assert "self-test of tiny at fp32 on ort-cpu" in reason
    assert "max 1.25e-01 (at most 1e-04), mean 1.25e-01 (at most 1e-05)" in reason
    with pytest.raises(NotReadyError, match="self-test of tiny"):
        await engine.submit(marked_item(1, "tiny"))
    await engine.close()


async def test_a_device_that_mixes_the_images_of_a_batch_fails_the_self_test(tmp_path):
    """Right alone, wrong in company: the trap of a batch size baked into a graph."""

    class MixingBackend(FakeBackend):
        def run(self, artifact_id: str, arrays: Arrays) -> Arrays:
            alpha = super().run(artifact_id, arrays)["alpha"].copy()
            alpha[1:] = 0
            return {"alpha": alpha}

    engine = Engine([MixingBackend], EngineLimits(max_batch=2), Metrics())
    with pytest.raises(SelfTestFailedError, match="in row 1 of a batch of 2"):
        await engine.start({"a": fake_artifact_with_self_test(tmp_path / "artifact")})
    await engine.close()


async def test_not_a_number_fails_the_self_test(tmp_path):
    class NanBackend(FakeBackend):
        def run(self, artifact_id: str, arrays: Arrays) -> Arrays:
            return {"alpha": np.full_like(super().run(artifact_id, arrays)["alpha"], np.nan)}

    engine = Engine([NanBackend], EngineLimits(), Metrics())
    with pytest.raises(SelfTestFailedError, match="max nan"):
        await engine.start({"a": fake_artifact_with_self_test(tmp_path / "artifact")})
    await engine.close()


async def test_an_artifact_with_files_must_carry_a_self_test(tmp_path):
    artifact = tiny_onnx_artifact(tmp_path / "artifact")
    files = {role: entry for role, entry in artifact.manifest.files.items() if role != "self_test"}
    object.__setattr__(artifact.manifest, "files", files)
    engine = Engine([lambda: OrtBackend(OrtOptions(threads=1))], EngineLimits(), Metrics())
    with pytest.raises(ArtifactError, match="self_test"):
        await engine.start({"tiny": artifact})
    assert "self_test" in str(engine.unready_reason)
    await engine.close()


async def test_a_device_that_cannot_be_opened_is_told_at_the_start():
    def broken() -> FakeBackend:
        raise BackendFault("no such card")

    engine = Engine([broken], EngineLimits(), Metrics())
    with pytest.raises(BackendFault, match="no such card"):
        await engine.start({"a": fake_artifact(SIZE)})
    assert engine.unready_reason == "start failed: no such card"
    await engine.close()


async def test_artifacts_come_and_go_while_others_are_served():
    script, metrics = DeviceScript(), Metrics()
    async with running_engine(script, metrics=metrics) as engine:
        script.armed = False
        await engine.load("b", fake_artifact(SIZE, name="second"))
        script.armed = True
        assert mark_of(await engine.submit(marked_item(7, "b"))) == 7
        assert 'model="b"' in metrics.render()[0].decode()
        with pytest.raises(ValueError, match="a new id"):
            await engine.load("b", fake_artifact(SIZE))
        script.gated = True
        last = asyncio.create_task(engine.submit(marked_item(8, "b")))
        script.forget_arrivals()
        await script.arrival()
        leaving = asyncio.create_task(engine.unload("b"))
        await asyncio.sleep(0)
        with pytest.raises(UnknownModelError):
            await engine.submit(marked_item(9, "b"))
        script.open()
        await leaving
        assert mark_of(last.result()) == 8, "what was accepted is answered"
        assert 'model="b"' not in metrics.render()[0].decode()
        assert mark_of(await engine.submit(marked_item(1))) == 1


async def test_a_failing_addition_leaves_the_served_alone(tmp_path):
    script = DeviceScript()
    async with running_engine(script) as engine:
        artifact = fake_artifact_with_self_test(tmp_path / "artifact")
        np.savez(
            artifact.file("self_test"), image=np.zeros((1, *SIZE, 3), np.uint8), alpha=np.ones((1, *SIZE), np.float32)
        )
        with pytest.raises(SelfTestFailedError):
            await engine.load("bad", artifact)
        assert engine.ready
        assert mark_of(await engine.submit(marked_item(1))) == 1
        with pytest.raises(UnknownModelError):
            await engine.submit(marked_item(1, "bad"))


async def test_between_any_two_slices_of_a_warm_up_others_are_served():
    """One batch size after the other is held; each time a request gets through before the next one begins."""
    gate, begun = threading.Semaphore(0), threading.Semaphore(0)

    def hold(artifact_id: str, arrays: Arrays) -> None:
        if artifact_id == "b":
            begun.release()
            assert gate.acquire(timeout=PATIENCE_S)

    engine = Engine([lambda: FakeBackend(before_run=hold)], EngineLimits(), Metrics())
    await engine.start({"a": fake_artifact(SIZE)})
    loading = asyncio.create_task(engine.load("b", fake_artifact(SIZE), max_batch=3))
    for mark in (1, 2, 3):
        assert await asyncio.to_thread(begun.acquire, timeout=PATIENCE_S)
        asked = asyncio.create_task(engine.submit(marked_item(mark)))
        await asyncio.sleep(0)
        gate.release()
        assert mark_of(await asked) == mark
        assert not loading.done()
        assert engine.ready
    gate.release(10)
    await loading
    await engine.close()


async def test_an_artifact_can_have_a_largest_batch_of_its_own():
    backend = RecordingBackend(FakeOptions(max_batch=8))
    engine = Engine([lambda: backend], EngineLimits(), Metrics())
    await engine.start({"a": fake_artifact(SIZE), "b": fake_artifact(SIZE)}, {"b": 3})
    backend.sizes.clear()
    await asyncio.gather(*(engine.submit(marked_item(mark, "b")) for mark in range(20)))
    assert max(backend.sizes) == 3
    backend.sizes.clear()
    await asyncio.gather(*(engine.submit(marked_item(mark, "a")) for mark in range(20)))
    assert max(backend.sizes) == 8
    await engine.close()


async def test_a_device_that_is_lost_while_it_loads_one_more_is_lost_for_all():
    def lose(artifact_id: str, arrays: Arrays) -> None:
        if artifact_id == "b":
            raise BackendFault("the card has fallen off", fatal=True)

    engine = Engine([lambda: FakeBackend(before_run=lose)], EngineLimits(), Metrics())
    await engine.start({"a": fake_artifact(SIZE)})
    with pytest.raises(BackendFault, match="fallen off"):
        await engine.load("b", fake_artifact(SIZE))
    assert not engine.live
    await engine.close()


async def test_a_warm_up_that_is_broken_off_leaves_nothing_behind():
    gate, begun = threading.Semaphore(0), threading.Semaphore(0)
    backend = FakeBackend(before_run=lambda name, _: hold(name))

    def hold(artifact_id: str) -> None:
        if artifact_id == "b":
            begun.release()
            assert gate.acquire(timeout=PATIENCE_S)

    engine = Engine([lambda: backend], EngineLimits(), Metrics())
    await engine.start({"a": fake_artifact(SIZE)})
    loading = asyncio.create_task(engine.load("b", fake_artifact(SIZE)))
    assert await asyncio.to_thread(begun.acquire, timeout=PATIENCE_S)
    loading.cancel()
    gate.release(100)
    with pytest.raises(asyncio.CancelledError):
        await loading
    assert mark_of(await engine.submit(marked_item(1))) == 1
    with pytest.raises(BackendFault, match="not loaded"):
        backend.run("b", {"image": np.zeros((1, *SIZE, 3), np.uint8)})
    await engine.load("b", fake_artifact(SIZE))
    assert mark_of(await engine.submit(marked_item(2, "b"))) == 2
    await engine.close()


async def test_the_watchdog_waits_for_a_graph_that_is_loaded_but_not_for_its_batches():
    """Whatever waits behind a warm-up that hangs must not wait for ever."""
    steps, begun, gate = [], threading.Semaphore(0), threading.Semaphore(0)

    class HeldBackend(FakeBackend):
        def load(self, artifact_id: str, artifact: Artifact) -> str:
            self.hold("load", artifact_id)
            return super().load(artifact_id, artifact)

        def run(self, artifact_id: str, arrays: Arrays) -> Arrays:
            self.hold("run", artifact_id)
            return super().run(artifact_id, arrays)

        def hold(self, step: str, artifact_id: str) -> None:
            if artifact_id == "b":
                steps.append(step)
                begun.release()
                assert gate.acquire(timeout=PATIENCE_S)

    engine = Engine([HeldBackend], EngineLimits(hang_s=1000), Metrics())
    await engine.start({"a": fake_artifact(SIZE)})
    loading = asyncio.create_task(engine.load("b", fake_artifact(SIZE)))
    assert await asyncio.to_thread(begun.acquire, timeout=PATIENCE_S)
    waiting = asyncio.create_task(engine.submit(marked_item(1)))
    await asyncio.sleep(0)
    (worker,) = engine._dispatcher.workers
    engine._dispatcher._hangs(worker)  # as after hang_s
    assert (steps, engine.live) == (["load"], True)
    assert worker.watchdog is not None, "it goes on watching"
    gate.release()
    assert mark_of(await waiting) == 1
    assert await asyncio.to_thread(begun.acquire, timeout=PATIENCE_S)
    waiting = asyncio.create_task(engine.submit(marked_item(2)))
    await asyncio.sleep(0)
    engine._dispatcher._hangs(worker)
    assert (steps, engine.live) == (["load", "run"], False)
    gate.release(100)
    with pytest.raises(DeviceLostError):
        await waiting
    await asyncio.gather(loading, return_exceptions=True)
    await engine.close()


class TimedBackend(RecordingBackend):
    """Takes as long as it is told by the size of a batch, ten times that at its first run."""

    def __init__(self, clock: FakeClock, seconds: Callable[[int], float], capacity: int = 1000) -> None:
        super().__init__(FakeOptions(max_batch=16), capacity)
        self.clock, self.seconds = clock, seconds

    def run(self, artifact_id: str, arrays: Arrays) -> Arrays:
        size = len(arrays["image"])
        self.clock.advance(self.seconds(size) * (1 if size in self.sizes else 10))
        return super().run(artifact_id, arrays)


def buckets_of_eight(size: int) -> float:
    """Batches are filled up to 8 or 16, and an image takes 5 ms."""
    return 0.005 * (8 if size <= 8 else 16)


@pytest.mark.parametrize(
    ("seconds", "latency_s", "capacity", "expected"),
    [
        (lambda size: 0.010 * size, 0.085, 1000, 8),
        (lambda size: 0.010 * size, 0.160, 1000, 16),
        (lambda size: 0.010 * size, 0.001, 1000, 1),
        (lambda size: 0.010 * size, 0.085, 5, 5),
        (buckets_of_eight, 0.050, 1000, 8),
        (buckets_of_eight, 0.090, 1000, 16),
        (lambda size: 0.500 if size == 3 else 0.010 * size, 0.085, 1000, 8),
    ],
    ids=["by time", "all in time", "none in time", "by memory", "by bucket", "the larger bucket", "one was disturbed"],
)
async def test_the_largest_batch_is_found_from_time_and_memory(seconds, latency_s, capacity, expected):
    clock, metrics = FakeClock(), Metrics()
    backend = TimedBackend(clock, seconds, capacity)
    engine = Engine([lambda: backend], EngineLimits(batch_latency_s=latency_s), metrics, clock)
    await engine.start({"a": fake_artifact(SIZE)})
    (worker,) = engine._dispatcher.workers
    fitting = range(1, min(16, capacity) + 1)
    assert worker.warm["a"].batch_s == pytest.approx({size: seconds(size) for size in fitting}), (
        "warm, not the first run"
    )
    assert counted(metrics, "birefnet_batch_limit", model="a", device="fake") == expected
    backend.sizes.clear()
    await asyncio.gather(*(engine.submit(marked_item(mark)) for mark in range(40)))
    assert max(backend.sizes) == expected
    await engine.close()


async def test_without_a_time_nothing_but_a_single_image_is_timed():
    clock = FakeClock()
    backend = TimedBackend(clock, lambda size: 0.010 * size)
    engine = Engine([lambda: backend], EngineLimits(max_batch=4), Metrics(), clock)
    await engine.start({"a": fake_artifact(SIZE)})
    assert backend.sizes == [4, 3, 2, 1, 1]
    (worker,) = engine._dispatcher.workers
    assert not worker.warm["a"].batch_s
    assert worker.warm["a"].item_s == pytest.approx(0.010)
    await engine.close()

"""What a full server knows of itself: pressure is the work that is left, waits are measured, advice is right."""

import asyncio
import itertools
import threading

import numpy as np
import pytest

from server.app.composition import compose
from server.backends.fake import FakeBackend, FakeOptions, fake_artifact
from server.engine import Engine, EngineLimits, Item
from server.engine.admission import Admission, AdmissionLimits, Surroundings
from server.errors import OverloadedError
from server.observability.metrics import Metrics
from server.pipeline.models import Model, Models
from server.pipeline.pipeline import Pipeline, PipelineLimits
from server.pipeline.pool import HostPool
from server.pipeline.request import SegmentRequest
from server.settings import Settings
from tests.support.backends import PATIENCE_S, DeviceScript, counted
from tests.support.clients import running_server, until
from tests.support.clock import FakeClock
from tests.support.images import png

ENCODE_S = 4.0
INSIDE = 5


class SlowEncoder:
    """Takes four seconds of the fake clock for every answer, each when it is let go."""

    def __init__(self, clock: FakeClock) -> None:
        self.began, self.gate, self._clock = 0, threading.Semaphore(0), clock

    def __call__(self, *_: object) -> bytes:
        self.began += 1
        assert self.gate.acquire(timeout=PATIENCE_S), "the gate was never opened"
        self._clock.advance(ENCODE_S)
        return b"encoded"


def image(number: int) -> bytes:
    return png(np.full((20, 20, 3), number, np.uint8))


async def test_pressure_and_retry_after_of_a_server_that_is_full_of_encoding(monkeypatch):
    clock = FakeClock()
    metrics, encoder = Metrics(clock), SlowEncoder(clock)
    monkeypatch.setattr("server.pipeline.pipeline.answer", encoder)
    engine = Engine([FakeBackend], EngineLimits(), metrics, clock)
    models = Models([Model("fake", fake_artifact((8, 8)))])
    await engine.start(models.artifacts)
    admission = Admission(AdmissionLimits(max_requests=INSIDE), metrics, Surroundings(), clock)
    pool = HostPool(1, metrics.host, clock)
    pipeline = Pipeline(engine, admission, models, pool, metrics, PipelineLimits())

    async def ask(number: int) -> bytes:
        return (await pipeline.segment(SegmentRequest(image(number)))).body

    for number in range(10):  # one after the other: what an answer takes is known
        encoder.gate.release()
        assert await ask(number) == b"encoded"
    assert metrics.pressure == 0

    crowd = [asyncio.create_task(ask(100 + number)) for number in range(INSIDE)]
    await until(lambda: encoder.began == 11 and counted(metrics, "birefnet_queue_depth") == 0)
    await until(lambda: metrics.device.backlog_s == 0)
    # Nothing waits for the device: five answers are left to encode, in one thread.
    assert metrics.pressure == pytest.approx(INSIDE * ENCODE_S)
    assert counted(metrics, "birefnet_pressure") == pytest.approx(INSIDE * ENCODE_S)
    assert counted(metrics, "birefnet_backlog_seconds", part="host") == pytest.approx(INSIDE * ENCODE_S)

    told = []
    for number in range(3):
        with pytest.raises(OverloadedError) as caught:
            await ask(200 + number)
        told.append(caught.value.retry_after_s or 0)
    # One leaves every four seconds, and promises are for four fifths of that.
    assert told[0] == pytest.approx(ENCODE_S, abs=1)
    assert all(later - earlier >= ENCODE_S for earlier, later in itertools.pairwise(told))

    encoder.gate.release()  # four seconds later one has left
    await until(lambda: admission.inside == INSIDE - 1)
    assert metrics.pressure == pytest.approx((INSIDE - 1) * ENCODE_S)
    welcome = asyncio.create_task(ask(200))
    await until(lambda: admission.inside == INSIDE)
    encoder.gate.release(100)
    assert await welcome == b"encoded"
    await asyncio.gather(*crowd)
    await engine.close()
    pool.close()


async def test_the_wait_for_a_device_is_that_of_the_full_batches_ahead():
    clock = FakeClock()
    metrics = Metrics(clock)

    def take(*_: object) -> None:
        clock.advance(2.0)

    engine = Engine([lambda: FakeBackend(before_run=take)], EngineLimits(max_batch=4), metrics, clock)
    assert engine.wait_s(100) == 0, "nothing was measured yet"
    await engine.start({"a": fake_artifact((8, 8))})
    try:
        await engine.submit(Item("a", {"image": np.zeros((8, 8, 3), np.uint8)}, (8, 8)))
        assert [engine.wait_s(ahead) for ahead in (0, 3, 4, 7, 8)] == [0, 0, 2.0, 2.0, 4.0]
    finally:
        await engine.close()


def test_the_door_of_a_process_sees_the_wait_for_the_host_and_for_the_device():
    parts = compose(Settings(backend="fake", cpu_workers=2, max_wait_s=10))
    try:
        assert parts.admission.limits.max_wait_s == 10
        assert parts.admission.behind.wait_s(1000) == 0
        parts.metrics.device.assume(0.5)
        assert parts.admission.behind.wait_s(8) == pytest.approx(8 * 0.5), "no model is loaded: one at a time"
        parts.metrics.host.assume(3.0)
        parts.metrics.host.arrive(6)
        assert parts.admission.behind.wait_s(8) == pytest.approx(6 * 3.0 / 2)
        assert parts.admission.behind.unready_reason() is not None
    finally:
        parts.pool.close()


async def test_a_live_server_refuses_by_the_wait_that_it_has_measured():
    script = DeviceScript(gated=True)
    options = FakeOptions(delay_s=0.01, max_batch=1)
    async with running_server(script, options=options, max_wait_s=0.005) as server:
        first = asyncio.create_task(server.post(image(1)))
        await script.arrival()
        refused = await server.post(image(2))
        script.open()
        assert (await first).status_code == 200
    assert (refused.status_code, refused.json()["reason"]) == (429, "wait")
    assert int(refused.headers["retry-after"]) >= 1

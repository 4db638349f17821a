"""What a request leaves behind when its client goes: work that has begun still takes its memory."""

import asyncio
import threading

import numpy as np

from server.backends.fake import FakeBackend, fake_artifact
from server.engine import Engine, EngineLimits
from server.engine.admission import Admission, AdmissionLimits
from server.observability.metrics import Metrics
from server.pipeline.models import Model, Models
from server.pipeline.pipeline import Pipeline, PipelineLimits
from server.pipeline.pool import HostPool
from server.pipeline.request import SegmentRequest
from tests.support.backends import PATIENCE_S
from tests.support.clients import until
from tests.support.images import png

IMAGE = png(np.zeros((20, 20, 3), np.uint8))


async def test_what_has_begun_takes_its_memory_until_it_is_done(monkeypatch):
    began, go = threading.Event(), threading.Event()

    def encode(*_: object) -> bytes:
        began.set()
        assert go.wait(PATIENCE_S)
        return b"encoded"

    monkeypatch.setattr("server.pipeline.pipeline.answer", encode)
    metrics = Metrics()
    engine = Engine([FakeBackend], EngineLimits(), metrics)
    models = Models([Model("fake", fake_artifact((8, 8)))])
    await engine.start(models.artifacts)
    admission, pool = Admission(AdmissionLimits(), metrics), HostPool(1, metrics.host)
    pipeline = Pipeline(engine, admission, models, pool, metrics, PipelineLimits())
    task = asyncio.create_task(pipeline.segment(SegmentRequest(IMAGE)))
    assert await asyncio.to_thread(began.wait, PATIENCE_S)
    taken = admission.memory_inside
    assert taken > 0
    task.cancel()
    await asyncio.wait((task,))
    assert (admission.inside, admission.memory_inside) == (0, taken)
    go.set()
    await until(lambda: admission.memory_inside == 0)
    await engine.close()
    pool.close()

"""A second answer that nobody waits for: right figures, the lowest place in every line, and no harm from its faults."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest

from matting.difference import difference
from matting.geometry import fit
from server.backends.base import Arrays, BackendFault
from server.backends.fake import FakeBackend, fake_artifact, luminance
from server.backends.ort import OrtBackend, OrtOptions
from server.engine import Engine, EngineLimits
from server.engine.admission import Admission, AdmissionLimits
from server.errors import InvalidOptionError, UnknownModelError
from server.observability.metrics import SHADOW_OUTCOMES, Metrics
from server.pipeline.header import ImageLimits, read_header
from server.pipeline.models import Model, Models
from server.pipeline.pipeline import Pipeline, PipelineLimits
from server.pipeline.pool import HostPool
from server.pipeline.request import SegmentOptions, SegmentRequest, SegmentResult
from server.pipeline.shadow import Sample, Shadow, ShadowLimits
from server.pipeline.study import ShadowPlan, Study
from tests.support.backends import DeviceScript, counted, tiny_alpha, tiny_onnx_artifact, turn_loop
from tests.support.clients import marked_png, until
from tests.support.images import disc, png
from tests.support.tolerance import ORT_TINY

SIZE, LARGER = (24, 32), (48, 64)
ALWAYS = ShadowPlan("one", "two", 1.0)


class SecondBackend(FakeBackend):
    """Answers of the second model are off by a known amount, or fail."""

    def __init__(self, script: DeviceScript, offset: float, *, fails: bool) -> None:
        super().__init__(before_run=script)
        self.offset, self.fails = offset, fails

    def run(self, artifact_id: str, arrays: Arrays) -> Arrays:
        alpha = np.asarray(super().run(artifact_id, arrays)["alpha"], np.float32)
        if not artifact_id.startswith("two@"):
            return {"alpha": alpha}
        if self.fails and arrays["image"].any():  # not while it warms up
            raise BackendFault("this one cannot")
        return {"alpha": alpha + np.float32(self.offset)}


class Rig:
    def __init__(self, pipeline: Pipeline, script: DeviceScript, metrics: Metrics, engine: Engine) -> None:
        self.pipeline, self.script, self.metrics, self.engine = pipeline, script, metrics, engine
        self.shadow = pipeline.shadow

    async def segment(self, image: bytes, request_id: str = "", **options: Any) -> SegmentResult:
        return await self.pipeline.segment(SegmentRequest(image, SegmentOptions(**options), request_id))

    def samples(self) -> dict[str, int]:
        return {
            name: int(counted(self.metrics, "birefnet_shadow_images_total", outcome=name)) for name in SHADOW_OUTCOMES
        }

    async def settle(self, count: int) -> dict[str, Any]:
        """Wait until so many samples came to an end; the figures."""
        await until(lambda: sum(self.samples().values()) == count)
        report = self.shadow.report()
        assert report is not None
        assert report["samples"] == self.samples()
        return report


@asynccontextmanager
async def rig(
    *,
    second: tuple[int, int] = SIZE,
    offset: float = 0.0,
    fails: bool = False,
    gated: bool = False,
    patience_s: float = 30.0,
) -> AsyncIterator[Rig]:
    metrics, script = Metrics(), DeviceScript(gated=gated)

    engine = Engine([lambda: SecondBackend(script, offset, fails=fails)], EngineLimits(), metrics)
    models = Models([Model("one", fake_artifact(SIZE)), Model("two", fake_artifact(second))])
    await engine.start(models.artifacts)
    script.armed = True
    admission = Admission(AdmissionLimits(), metrics)
    pool = HostPool(2, metrics.host)
    pipeline = Pipeline(engine, admission, models, pool, metrics, PipelineLimits())
    pipeline.shadow = Shadow(engine, models, metrics, ShadowLimits(waiting=2, patience_s=patience_s))
    try:
        yield Rig(pipeline, script, metrics, engine)
    finally:
        script.open()
        await pipeline.shadow.close()
        await engine.close()
        pool.close()


async def test_a_known_offset_is_found_in_every_figure():
    async with rig(offset=0.25) as server:
        server.shadow.begin(ALWAYS)
        for mark in (50, 100):
            await server.segment(marked_png(mark), f"r{mark}")
        figures = (await server.settle(2))["difference"]
    assert figures["images"] == 2
    assert figures["mean"] == pytest.approx(0.25)
    assert figures["band_mean"] == pytest.approx(0.25)
    assert figures["largest"] == pytest.approx(0.25)
    assert figures["share_above_threshold"] == 1
    assert figures["worst"]["request_id"] in ("r50", "r100")
    assert figures["model"].startswith("one@")
    assert figures["shadow"].startswith("two@")
    labels = {"model": figures["model"], "shadow": figures["shadow"], "region": "whole"}
    assert counted(server.metrics, "birefnet_shadow_difference_sum", **labels) == pytest.approx(0.5)
    assert counted(server.metrics, "birefnet_shadow_difference_count", **labels) == 2


async def test_models_of_different_sizes_each_see_the_image_at_their_own():
    image = disc(60, 90).image
    async with rig(second=LARGER) as server:
        server.shadow.begin(ALWAYS)
        await server.segment(png(image))
        figures = (await server.settle(1))["difference"]
    expected = difference(luminance(fit(image, SIZE)), luminance(fit(image, LARGER)))
    assert figures["mean"] == pytest.approx(expected.mean)
    assert figures["band_mean"] == pytest.approx(expected.band)
    assert figures["largest"] == pytest.approx(expected.largest)
    assert expected.mean > 0


async def test_two_real_networks_of_different_sizes_are_compared(tmp_path):
    image = disc(60, 90).image
    metrics = Metrics()
    engine = Engine([lambda: OrtBackend(OrtOptions(threads=1))], EngineLimits(), metrics)
    artifacts = [tiny_onnx_artifact(tmp_path / name, size) for name, size in (("one", SIZE), ("two", LARGER))]
    models = Models(Model(artifact.directory.name, artifact) for artifact in artifacts)
    await engine.start(models.artifacts)
    pool = HostPool(2, metrics.host)
    pipeline = Pipeline(engine, Admission(AdmissionLimits(), metrics), models, pool, metrics, PipelineLimits())
    server = Rig(pipeline, DeviceScript(), metrics, engine)
    server.shadow.begin(ALWAYS)
    await server.segment(png(image))
    figures = (await server.settle(1))["difference"]
    await pipeline.shadow.close()
    await engine.close()
    pool.close()
    first, second = (tiny_alpha(fit(image, size)[None])[0] for size in (SIZE, LARGER))
    expected = difference(first, second)
    assert figures["mean"] == pytest.approx(expected.mean, abs=ORT_TINY)
    assert figures["band_mean"] == pytest.approx(expected.band, abs=ORT_TINY)
    assert figures["largest"] == pytest.approx(expected.largest, abs=2 * ORT_TINY)
    assert expected.mean > 0.001


async def test_the_client_has_its_answer_before_the_shadow_begins_and_the_same_one_as_without():
    async with rig(offset=0.5, gated=True) as server:
        without = asyncio.create_task(server.segment(marked_png(7)))
        await server.script.arrival()
        server.script.let_pass()
        plain = await without
        server.shadow.begin(ALWAYS)
        shadowed = asyncio.create_task(server.segment(marked_png(7)))
        await server.script.arrival()
        server.script.let_pass()
        answer = await shadowed
        await server.script.arrival()
        assert server.script.artifacts[-1].startswith("two@"), "and only then the shadow runs"
        assert sum(server.samples().values()) == 0
        server.script.let_pass()
        await server.settle(1)
    assert (answer.body, answer.model, answer.artifact) == (plain.body, "one", plain.artifact)


async def test_where_clients_keep_the_device_busy_samples_are_dropped_and_counted():
    async with rig(gated=True, patience_s=0.5) as server:
        server.shadow.begin(ALWAYS)
        first = asyncio.create_task(server.segment(marked_png(1)))
        await server.script.arrival()
        second = asyncio.create_task(server.segment(marked_png(2)))
        await until(lambda: server.metrics.queue_depth == 1)
        server.script.let_pass()
        await first
        await server.settle(1)
        assert server.samples()["busy"] == 1
        assert {name.partition("@")[0] for name in server.script.artifacts} == {"one"}
        server.script.open()
        await second
        report = await server.settle(2)
    assert report["samples"] == {"compared": 1, "busy": 1, "failed": 0, "outdated": 0}
    assert counted(server.metrics, "birefnet_dropped_total", reason="expired") == 0, "no client's request was"
    assert counted(server.metrics, "birefnet_dropped_total", reason="cancelled") == 0


async def test_more_samples_than_may_wait_are_dropped_at_once():
    async with rig(gated=True) as server:
        server.shadow.begin(ALWAYS)
        holding = asyncio.create_task(server.segment(marked_png(99), model="two"))
        await until(lambda: [99] in server.script.batches)
        for _ in range(5):
            server.shadow.offer(answered(server))
            await turn_loop()
        server.script.open()
        await holding
        report = await server.settle(5)
    # One is being worked on and two wait; the others found no place.
    assert report["samples"] == {"compared": 3, "busy": 2, "failed": 0, "outdated": 0}


def answered(server: Rig) -> Sample:
    """A sample as the pipeline makes one."""
    image = marked_png(3)
    header = read_header(image, ImageLimits())
    return Sample(server.pipeline.models.find("one"), image, header, np.zeros(SIZE, np.float32))


async def test_a_sample_that_comes_as_the_last_one_ends_does_not_wait_for_another(monkeypatch):
    async with rig() as server:
        server.shadow.begin(ALWAYS)
        count, loop = server.shadow._count, asyncio.get_running_loop()

        def count_and_offer(study: Study, outcome: str) -> None:
            count(study, outcome)
            # It runs after the last step of the task, and before the task's end is noticed.
            loop.call_soon(server.shadow.offer, answered(server))
            monkeypatch.undo()

        monkeypatch.setattr(server.shadow, "_count", count_and_offer)
        await server.segment(marked_png(1))
        await server.settle(2)


async def test_a_shadow_that_fails_harms_nobody():
    async with rig(fails=True) as server:
        server.shadow.begin(ALWAYS)
        answers = [await server.segment(marked_png(mark)) for mark in (1, 2)]
        await server.settle(2)
        assert [answer.model for answer in answers] == ["one", "one"]
        assert server.samples()["failed"] == 2
        assert server.engine.ready


async def test_an_answer_that_is_no_number_is_a_failure_not_a_figure():
    async with rig(offset=float("nan")) as server:
        server.shadow.begin(ALWAYS)
        await server.segment(marked_png(1))
        report = await server.settle(1)
    assert report["samples"]["failed"] == 1
    assert report["difference"] is None


async def test_requests_for_other_models_failed_ones_and_the_rest_of_the_share_are_left_alone():
    async with rig() as server:
        server.shadow.begin(ShadowPlan("one", "two", 0.0))
        await server.segment(marked_png(1))
        server.shadow.begin(ALWAYS)
        await server.segment(marked_png(1), model="two")
        with contextlib.suppress(Exception):
            await server.segment(marked_png(1)[:60])
        server.shadow.begin(None)
        await server.segment(marked_png(1))
        await turn_loop()
        assert sum(server.samples().values()) == 0
        assert server.shadow.report() is None


async def test_another_artifact_under_a_name_begins_the_figures_anew():
    async with rig(offset=0.25) as server:
        server.shadow.begin(ALWAYS)
        await server.segment(marked_png(1))
        before = (await server.settle(1))["difference"]
        models = server.pipeline.models
        other = Model("two", fake_artifact(SIZE), copy=2)
        await server.engine.load(other.artifact_id, other.artifact)
        models.put(other)
        await server.segment(marked_png(1))
        await server.segment(marked_png(1))
        after = (await server.settle(3))["difference"]
    assert (before["images"], after["images"]) == (1, 2)
    assert before["shadow"] != after["shadow"]


async def test_what_is_answered_by_an_artifact_that_has_gone_is_outdated():
    async with rig(gated=True) as server:
        server.shadow.begin(ALWAYS)
        task = asyncio.create_task(server.segment(marked_png(1)))
        await server.script.arrival()
        server.script.let_pass()
        await task
        await server.script.arrival()  # the shadow runs
        server.pipeline.models.put(Model("one", fake_artifact(SIZE), copy=2))
        server.script.let_pass()
        report = await server.settle(1)
    assert report["samples"]["outdated"] == 1
    assert report["difference"] is None


async def test_what_is_no_plan():
    async with rig() as server:
        with pytest.raises(UnknownModelError, match="found 'three'"):
            server.shadow.begin(ShadowPlan("one", "three", 0.5))
        with pytest.raises(InvalidOptionError, match="expected two models"):
            server.shadow.begin(ShadowPlan("one", "one", 0.5))
        assert server.shadow.report() is None


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_the_share_is_drawn_and_always_the_same(share):
    drawn = [[study.draw() for _ in range(2000)] for study in (Study(ShadowPlan("a", "b", share)) for _ in range(2))]
    assert drawn[0] == drawn[1]
    assert sum(drawn[0]) == pytest.approx(share * 2000, abs=60 if 0 < share < 1 else 0)

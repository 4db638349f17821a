"""Refinement in the pipeline, on a scripted device: the right pixels, bounded, dropped wherever it is when it ends."""

import asyncio
import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from artifact import Artifact, TensorSpec
from matting.geometry import fit, restore
from matting.refinement import EAGER, GUIDED, Canvas, GuidedFilter, Question, RefineOptions, Tile, refine, run
from server.backends.fake import FakeBackend, FakeOptions, fake_artifact, fake_refiner, luminance
from server.engine import Engine, EngineLimits
from server.engine.admission import Admission, AdmissionLimits, Surroundings
from server.engine.batching import Priority
from server.errors import DeadlineExceededError, InferenceError
from server.observability.metrics import Metrics
from server.pipeline.memory import REFINING
from server.pipeline.models import Model, Models, ModelsError
from server.pipeline.pipeline import Pipeline, PipelineLimits
from server.pipeline.pool import HostPool, HostWork
from server.pipeline.refiner import NO_HARM, Refiner, make_refiner, open_refiner
from server.pipeline.refining import AUTO_SIDE, Errand, advance, drive, make_plan
from server.pipeline.request import Crop, Output, OutputFormat, Refine, SegmentOptions, SegmentRequest
from tests.support.backends import DeviceScript, counted, turn_loop
from tests.support.images import decoded, jpeg, png
from tests.support.refiners import each, identity

WORKING = (96, 96)
SIZE = (300, 400)
REFINER = make_refiner(fake_refiner(64, halo=8))


def star(size: tuple[int, int] = SIZE, radius: float = 90.0) -> NDArray[np.uint8]:
    """A white star on black: its luminance is its matte."""
    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    y, x = y - size[0] / 2, x - size[1] / 2
    reach = radius * (1 + 0.2 * np.sin(9 * np.arctan2(y, x)))
    alpha = np.clip(reach - np.hypot(y, x) + 0.5, 0, 1)
    return np.repeat(np.rint(alpha * 255).astype(np.uint8)[..., None], 3, axis=2)


def coarse_of(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    return luminance(fit(image, WORKING))


class Rig:
    """A pipeline with a refiner on a scripted device."""

    def __init__(self, pipeline: Pipeline, script: DeviceScript, metrics: Metrics, admission: Admission) -> None:
        self.pipeline, self.script, self.metrics, self.admission = pipeline, script, metrics, admission

    async def segment(self, image: NDArray[np.uint8], **options: Any):
        return await self.pipeline.segment(SegmentRequest(png(image), SegmentOptions(**options)))

    async def array(self, image: NDArray[np.uint8], **options: Any) -> NDArray[np.float32]:
        found = await self.segment(image, format=OutputFormat.NPY, **options)
        return np.load(io.BytesIO(found.body))

    def tiles_run(self) -> int:
        runs = zip(self.script.artifacts, self.script.batches, strict=True)
        return sum(len(marks) for artifact, marks in runs if artifact == REFINER.artifact_id)


@asynccontextmanager
async def rig(
    refiner: Refiner | None = REFINER, *, gated: bool = False, max_batch: int = 2, memory: float = 1e12
) -> AsyncIterator[Rig]:
    metrics, script = Metrics(), DeviceScript(gated=gated)
    device = FakeOptions(max_batch=max_batch)
    engine = Engine([lambda: FakeBackend(device, before_run=script)], EngineLimits(), metrics)
    models = Models([Model("one", fake_artifact(WORKING))])
    refiners = {refiner.artifact_id: refiner.artifact} if refiner is not None else {}
    await engine.start({**models.artifacts, **refiners})
    script.armed = True
    admission = Admission(
        AdmissionLimits(max_memory_bytes=memory), metrics, Surroundings(lambda: engine.unready_reason)
    )
    pool = HostPool(2, metrics.host)
    pipeline = Pipeline(engine, admission, models, pool, metrics, PipelineLimits(refiner=refiner))
    try:
        yield Rig(pipeline, script, metrics, admission)
    finally:
        script.open()
        await engine.close()
        pool.close()


async def test_a_refiner_that_changes_nothing_gives_the_upsampled_matte_to_the_bit():
    """Tiles cannot be mixed up: each has its own part of the mask."""
    image = star()
    async with rig() as server:
        result = await server.segment(image, refine=Refine.ON, format=OutputFormat.NPY)
        tiles = server.tiles_run()
    assert np.array_equal(np.load(io.BytesIO(result.body)), restore(coarse_of(image), SIZE))
    assert result.refinement is not None
    assert result.refinement.tiles == tiles > 10
    assert [stage.size for stage in result.refinement.stages] == [(150, 200), (300, 400)]
    assert list(result.stage_s) == ["decode", "queue", "infer", "refine", "encode"]
    assert result.stage_s["refine"] > 0


async def test_the_guided_filter_stands_in_where_no_refiner_is_served():
    image = star()
    guided = GuidedFilter.for_image(SIZE, WORKING)

    def answer(questions: tuple[Question, ...]) -> list[NDArray[np.float32]]:
        return [guided.answer(tile) for tile in questions if isinstance(tile, Tile)]

    expected = run(refine(image, coarse_of(image), guided.shape, GUIDED), answer)
    async with rig(None) as server:
        found = await server.array(image, refine=Refine.ON)
        assert len(server.script.batches) == 1
    assert np.array_equal(found, expected.alpha)
    truth = image[..., 0].astype(np.float32) / 255
    assert np.abs(found - truth).sum() < 0.6 * np.abs(restore(coarse_of(image), SIZE) - truth).sum()


@pytest.mark.parametrize("output", list(Output))
async def test_every_output_is_made_of_the_refined_matte(output):
    image = star()
    async with rig(None) as server:
        plain = await server.segment(image, output=output, refine=Refine.OFF)
        refined = await server.segment(image, output=output, refine=Refine.ON)
    assert plain.refinement is None
    assert "refine" not in plain.stage_s
    assert decoded(refined.body).shape == decoded(plain.body).shape
    assert not np.array_equal(decoded(refined.body), decoded(plain.body))


async def test_a_crop_is_seen_by_the_model():
    image = star(radius=25.0)
    async with rig() as server:
        found = await server.segment(image, crop=Crop.AUTO, refine=Refine.OFF, format=OutputFormat.NPY)
        assert server.tiles_run() == 0
        assert len(server.script.batches) == 2
    assert found.refinement is not None
    assert found.refinement.crop is not None
    truth = image[..., 0].astype(np.float32) / 255
    before = np.abs(restore(coarse_of(image), SIZE) - truth).sum()
    assert np.abs(np.load(io.BytesIO(found.body)) - truth).sum() < 0.7 * before


async def test_what_was_done_is_counted():
    async with rig() as server:
        result = await server.segment(star(), refine=Refine.ON)
        assert result.refinement is not None
        assert counted(server.metrics, "birefnet_refine_tiles_total") == result.refinement.tiles
        assert counted(server.metrics, "birefnet_refine_stages_total", outcome="refined") == 2
        assert counted(server.metrics, "birefnet_refine_band_share_count") == 2
        assert counted(server.metrics, "birefnet_stage_seconds_count", stage="refine") == 1
        await server.segment(np.zeros((300, 400, 3), np.uint8), refine=Refine.ON)
        assert counted(server.metrics, "birefnet_refine_stages_total", outcome="nothing") == 2


async def test_tiles_in_flight_are_bounded_and_share_batches():
    async with rig(gated=True, max_batch=3) as server:
        task = asyncio.create_task(server.segment(star(), refine=Refine.ON))
        await server.script.arrival()
        server.script.let_pass()
        await server.script.arrival()
        await turn_loop()
        assert server.metrics.queue_depth + len(server.script.batches[-1]) == 2 * 3
        server.script.open()
        await task
        assert max(len(marks) for marks in server.script.batches) == 3


async def test_a_deadline_passes_between_tiles():
    async with rig(gated=True) as server:
        task = asyncio.create_task(server.segment(star(), refine=Refine.ON, timeout_s=2.0))
        await server.script.arrival()
        server.script.let_pass()
        await server.script.arrival()  # the first tiles, which are held
        with pytest.raises(DeadlineExceededError):
            await task
        server.script.open()
        assert server.admission.inside == 0
        await turn_loop()
        assert server.metrics.queue_depth == 0
        assert counted(server.metrics, "birefnet_dropped_total", reason="expired") == 1, "one request, many tiles"
    assert server.tiles_run() <= 2


async def test_a_client_that_leaves_takes_its_tiles_along():
    async with rig(gated=True) as server:
        task = asyncio.create_task(server.segment(star(), refine=Refine.ON))
        await server.script.arrival()
        server.script.let_pass()
        await server.script.arrival()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await turn_loop()
        assert server.metrics.queue_depth == 0
        assert server.admission.inside == 0
        assert counted(server.metrics, "birefnet_dropped_total", reason="cancelled") == 1, "one request, many tiles"
        server.script.open()
    assert server.tiles_run() <= 2


async def test_a_tile_that_the_device_fails_on_fails_the_request_and_no_other():
    async with rig() as server:
        server.script.poison = {253}
        image = np.minimum(star(), 253)  # the mark of a tile is its first pixel: one that begins within the subject
        with pytest.raises(InferenceError):
            await server.segment(image, refine=Refine.ON)
        assert server.tiles_run() > 0
        server.script.poison = set()
        assert server.metrics.queue_depth == 0
        assert (await server.segment(star(), refine=Refine.ON)).size == SIZE


async def test_tiles_that_wait_are_taken_back_when_another_one_fails():
    async with rig(gated=True) as server:
        task = asyncio.create_task(server.segment(star(), refine=Refine.ON))
        await server.script.arrival()
        server.script.let_pass()
        await server.script.arrival()
        server.script.poison = set(range(256))
        server.script.let_pass()  # the batch fails, and its tiles are tried one by one
        await server.script.arrival()
        assert server.metrics.queue_depth > 0
        server.script.let_pass()
        with pytest.raises(InferenceError):
            await task
        await turn_loop()
        assert server.metrics.queue_depth == 0


async def test_refinement_counts_in_the_memory_of_a_request():
    image = star()
    async with rig(gated=True) as server:
        task = asyncio.create_task(server.segment(image, refine=Refine.ON))
        await server.script.arrival()
        assert server.admission.memory_inside >= image.shape[0] * image.shape[1] * REFINING
        server.script.open()
        await task


async def test_a_reduced_decode_is_not_enough_for_refinement():
    image = jpeg(star((480, 640), 150.0))
    async with rig() as server:
        server.pipeline.limits = replace(server.pipeline.limits, scaled_decode=True)
        for mode in (Refine.OFF, Refine.ON):
            options = SegmentOptions(refine=mode)
            assert (await server.pipeline.segment(SegmentRequest(image, options))).size == (480, 640)


async def test_the_door_knows_how_long_refinement_takes():
    async with rig() as server:
        await server.segment(star(), refine=Refine.ON)
        plan = server.pipeline._refinements.plan(
            SegmentOptions(refine=Refine.ON), SIZE, server.pipeline.models.default.manifest
        )
        assert plan is not None
        small, large = (server.pipeline._refinements.expected_s(plan, pixels) for pixels in (1.0, 2.0))
        assert large == pytest.approx(2 * small)
        assert small > 0
        assert server.pipeline._refinements.expected_s(None, 1.0) == 0
        careful = replace(plan, options=RefineOptions())
        assert server.pipeline._refinements.expected_s(careful, 1.0) == 0, "which takes another time"
        # Nobody is ahead: it is the refinement itself that takes too long.
        clock = server.pipeline._pool.clock
        server.pipeline._refinements._learn(plan, 1e9)
        with pytest.raises(DeadlineExceededError, match="of which refinement takes"):
            await server.segment(star(), refine=Refine.ON, timeout_s=60)
        assert (await server.segment(star(), refine=Refine.OFF, timeout_s=60)).size == SIZE
        # An hour later nobody knows how fast it is by now.
        server.pipeline._pool.clock = lambda: clock() + 3600
        assert server.pipeline._refinements.expected_s(plan, 1.0) < 1e-6


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1), (97, 2), (200, 2500)])
@pytest.mark.parametrize("refiner", [REFINER, None])
async def test_extreme_shapes(size, refiner):
    """White in the middle third, which leaves a boundary wherever there is room for one."""
    image = np.zeros((*size, 3), np.uint8)
    image[size[0] // 3 : size[0] - size[0] // 3, size[1] // 3 : size[1] - size[1] // 3] = 255
    async with rig(refiner) as server:
        found = await server.segment(image, refine=Refine.ON, crop=Crop.AUTO)
        assert found.size == size
        assert decoded(found.body).shape == size


# ---- who is refined


HARMLESS, UNPROVEN = (
    REFINER,
    make_refiner(Artifact(REFINER.artifact.directory, replace(REFINER.artifact.manifest, extra={}))),
)


@pytest.mark.parametrize(
    ("mode", "side", "refiner", "expected"),
    [
        (Refine.AUTO, AUTO_SIDE, HARMLESS, "refiner"),
        (Refine.AUTO, AUTO_SIDE - 1, HARMLESS, None),
        (Refine.AUTO, 6000, UNPROVEN, None),
        (Refine.AUTO, 6000, None, None),
        (Refine.OFF, 6000, HARMLESS, None),
        (Refine.ON, 200, HARMLESS, "refiner"),
        (Refine.ON, 200, UNPROVEN, "refiner"),
        (Refine.ON, 200, None, "filter"),
        (Refine.ON, 96, HARMLESS, None),
    ],
)
def test_who_is_refined_by_what(mode, side, refiner, expected):
    manifest = fake_artifact(WORKING).manifest
    for size in ((side, 50), (50, side)):
        plan = make_plan(SegmentOptions(refine=mode), size, manifest, refiner, 4)
        found = None if plan is None else "refiner" if isinstance(plan.by, Refiner) else "filter"
        assert found == expected
        assert plan is None or (plan.options.stages and plan.options.batch == 4 and plan.options.crop is None)


def test_who_asks_gets_all_that_the_refiner_says_and_who_does_not_what_is_certain():
    manifest = fake_artifact(WORKING).manifest
    asked, unasked = (
        make_plan(SegmentOptions(refine=mode), (3000, 2000), manifest, HARMLESS, 4) for mode in (Refine.ON, Refine.AUTO)
    )
    assert asked is not None
    assert unasked is not None
    assert (asked.options.band, asked.options.fusion) == (EAGER.band, EAGER.fusion)
    assert (unasked.options.band, unasked.options.fusion) == (RefineOptions().band, RefineOptions().fusion)


def test_a_crop_alone_refines_nothing():
    plan = make_plan(SegmentOptions(crop=Crop.AUTO), (300, 300), fake_artifact(WORKING).manifest, None, 4)
    assert plan is not None
    assert not plan.options.stages
    assert plan.options.crop is not None


@pytest.mark.parametrize("found", [{"images": 0, "worse": 0}, {"images": 9, "worse": 1}, {}, None, "yes", {"worse": 0}])
def test_only_a_refiner_that_was_shown_not_to_harm_is_harmless(found):
    assert REFINER.harmless
    manifest = replace(REFINER.artifact.manifest, extra={NO_HARM: found})
    assert not make_refiner(Artifact(REFINER.artifact.directory, manifest)).harmless


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "matte"}, "expected an artifact of kind refine, found matte"),
        ({"halo": None}, "expected the halo of a refiner's tiles in the manifest, found none"),
        ({"halo": 30}, r"expected .*`alpha` float32 \['batch', 4, 4\], found .*`alpha` float32 \['batch', 48, 48\]"),
        ({"halo": -8}, "halo: expected 0 to 24 pixels for tiles of 64, found -8"),
        ({"input_size": (64, 72)}, "expected `image` uint8"),
        (
            {"inputs": (TensorSpec("image", "uint8", ("batch", 64, 64, 3)),)},
            r"`frame` float32 \['batch', 6\], `alpha` .*, found `image` [^`]*`alpha` .*: export the refiner anew",
        ),
        (
            {"outputs": (TensorSpec("alpha", "float32", ("batch", 64, 64)),)},
            r"expected .*`alpha` float32 \['batch', 48, 48\], found .*`alpha` float32 \['batch', 64, 64\]",
        ),
    ],
)
def test_what_is_no_refiner(change, message):
    manifest = replace(REFINER.artifact.manifest, **change)
    with pytest.raises(ModelsError, match=message):
        make_refiner(Artifact(REFINER.artifact.directory, manifest))


def test_a_refiner_that_is_not_there(tmp_path):
    with pytest.raises(ModelsError, match=r"refiner: .*expected an artifact directory"):
        open_refiner(tmp_path / "none")


# ---- the driver


def test_items_carry_what_the_request_wants():
    manifest = fake_artifact(WORKING).manifest
    errand = Errand("model", manifest, 12.5, "request-7", HostWork(priority=Priority.HIGH))
    tile = Tile(np.zeros((64, 64, 3), np.uint8), np.zeros((64, 64), np.float32), np.zeros(6, np.float32))
    canvas = Canvas(np.zeros((*WORKING, 3), np.uint8))
    for question, artifact_id, names in (
        (tile, REFINER.artifact_id, {"image", "mask", "frame"}),
        (canvas, "model", {"image"}),
    ):
        item = errand.item(question, REFINER)
        assert (item.artifact_id, set(item.arrays)) == (artifact_id, names)
        assert (item.priority, item.deadline, item.request_id) == (Priority.HIGH, 12.5, "request-7")
    assert errand.item(tile, REFINER).bucket == errand.item(tile, REFINER).bucket != errand.item(canvas, REFINER).bucket


async def test_the_driver_hands_answers_back_in_order():
    image = star()
    asked: list[int] = []

    async def on_host(work):
        return work()

    async def ask(questions):
        asked.append(len(questions))
        await turn_loop(1)
        return each(identity, REFINER.shape)(questions)

    refined = await drive(refine(image, coarse_of(image), REFINER.shape), on_host, ask)
    assert sum(asked) == refined.report.tiles
    assert np.array_equal(refined.alpha, restore(coarse_of(image), SIZE))


def test_a_step_is_questions_or_the_end():
    image = np.zeros((200, 200, 3), np.uint8)
    refined = advance(refine(image, np.zeros(WORKING, np.float32), REFINER.shape), None)
    assert not isinstance(refined, tuple)
    assert refined.report.tiles == 0

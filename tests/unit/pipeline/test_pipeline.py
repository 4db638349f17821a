"""The life of one request on a scripted device: right pixels, stages timed, dropped wherever it is when it ends."""

import asyncio
import gc
import threading
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from matting.foreground import estimate_foreground
from matting.geometry import fit, restore
from server.backends.base import OutOfMemoryFault
from server.backends.fake import FakeBackend, fake_artifact, luminance
from server.engine import Engine, EngineLimits
from server.engine.admission import Admission, AdmissionLimits, Surroundings
from server.engine.batching import Priority
from server.errors import (
    BodyTooLargeError,
    CorruptImageError,
    DeadlineExceededError,
    DrainingError,
    EmptyBodyError,
    ImageTooLargeError,
    InvalidOptionError,
    NotAnImageError,
    OverloadedError,
    UnknownModelError,
)
from server.observability.metrics import Metrics
from server.pipeline import decode as decoding
from server.pipeline import stages
from server.pipeline.decode import DecodedImage, decode
from server.pipeline.header import ImageHeader, ImageLimits
from server.pipeline.memory import DECODING, ENCODING
from server.pipeline.models import Model, Models
from server.pipeline.pipeline import Pipeline, PipelineLimits
from server.pipeline.pool import HostPool
from server.pipeline.request import Foreground, Output, OutputFormat, SegmentOptions, SegmentRequest, SegmentResult
from tests.support.backends import PATIENCE_S, DeviceScript, counted, turn_loop
from tests.support.images import decoded, disc, huge_png_header, jpeg, noise, png, rotated_jpeg, smooth

WORKING = (24, 32)


class Rig:
    """A pipeline on a scripted fake device."""

    def __init__(self, pipeline: Pipeline, script: DeviceScript, metrics: Metrics, admission: Admission) -> None:
        self.pipeline, self.script, self.metrics, self.admission = pipeline, script, metrics, admission

    async def segment(self, image: bytes, **options: Any):
        return await self.pipeline.segment(SegmentRequest(image, SegmentOptions(**options)))


@asynccontextmanager
async def rig(
    limits: PipelineLimits | None = None, admission_limits: AdmissionLimits | None = None, *, gated: bool = False
) -> AsyncIterator[Rig]:
    metrics, script = Metrics(), DeviceScript(gated=gated)
    engine = Engine([lambda: FakeBackend(before_run=script)], EngineLimits(), metrics)
    models = Models([Model("one", fake_artifact(WORKING)), Model("two", fake_artifact((8, 8)))])
    await engine.start(models.artifacts)
    script.armed = True
    admission = Admission(admission_limits or AdmissionLimits(), metrics, Surroundings(lambda: engine.unready_reason))
    pool = HostPool(2, metrics.host)
    try:
        yield Rig(
            Pipeline(engine, admission, models, pool, metrics, limits or PipelineLimits()), script, metrics, admission
        )
    finally:
        script.open()
        await engine.close()
        pool.close()


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop and the threads run until something is so."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - the code under test has no event for it
            await asyncio.sleep(0.001)


def expected_alpha(rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
    return restore(luminance(fit(rgb, WORKING)), rgb.shape[:2])


def levels(alpha: NDArray[np.floating]) -> NDArray[np.int64]:
    return np.asarray(np.rint(alpha * 255), np.int64)


async def test_a_matte_is_the_networks_answer_at_image_size():
    image = disc(60, 90).image
    async with rig() as server:
        result = await server.segment(png(image))
    assert (result.media_type, result.size, result.model, result.batch_size) == ("image/png", (60, 90), "one", 1)
    assert np.abs(decoded(result.body).astype(int) - levels(expected_alpha(image))).max() <= 1


async def test_a_cutout_has_the_images_own_colours_and_straight_alpha():
    image = disc(60, 90).image
    async with rig() as server:
        result = await server.segment(png(image), output=Output.CUTOUT, foreground=Foreground.ORIGINAL)
    found = decoded(result.body)
    np.testing.assert_array_equal(found[..., :3], image)
    assert np.abs(found[..., 3].astype(int) - levels(expected_alpha(image))).max() <= 1


async def test_a_cutout_and_a_composite_have_the_estimated_foreground():
    image = disc(60, 90).image
    async with rig() as server:
        cutout = decoded((await server.segment(png(image), output=Output.CUTOUT)).body)
        composite = decoded((await server.segment(png(image), output=Output.COMPOSITE, background=(0, 255, 0))).body)
    expected = estimate_foreground(image, np.ascontiguousarray(cutout[..., 3]))
    assert (expected != image).any()
    np.testing.assert_array_equal(cutout[..., :3], expected)
    alpha = cutout[..., 3:] / 255
    assert np.abs(composite - (alpha * expected + (1 - alpha) * np.array([0, 255, 0]))).max() <= 1.5


async def test_a_composite_lies_over_the_colour():
    image = disc(60, 90).image
    alpha = expected_alpha(image)[..., None]
    async with rig() as server:
        result = await server.segment(
            png(image), output=Output.COMPOSITE, background=(10, 200, 30), foreground=Foreground.ORIGINAL
        )
    assert np.abs(decoded(result.body) - (alpha * image + (1 - alpha) * np.array([10, 200, 30]))).max() <= 1.5


@pytest.mark.parametrize("output", [Output.MATTE, Output.CUTOUT])
async def test_the_transparency_of_the_input_multiplies(output):
    image = np.dstack([smooth(60, 90), np.full((60, 90), 255, np.uint8)])
    image[:, :45, 3] = 0
    image[:, 45:60, 3] = 128
    async with rig() as server:
        found = decoded((await server.segment(png(image), output=output)).body)
    alpha = (found if output is Output.MATTE else found[..., 3]).astype(int)
    expected = expected_alpha(image[..., :3]) * (image[..., 3] / 255)
    assert (alpha[:, :45] == 0).all()
    assert np.abs(alpha - levels(expected)).max() <= 1


async def test_the_answer_is_upright():
    async with rig() as server:
        result = await server.segment(rotated_jpeg(smooth(60, 90), 6))
    assert result.size == (90, 60)
    assert decoded(result.body).shape == (90, 60)


@pytest.mark.parametrize("size", [(1, 1), (1, 400), (400, 1)])
async def test_extreme_shapes(size):
    async with rig() as server:
        for output in Output:
            assert (await server.segment(png(noise(*size)), output=output)).size == size


async def test_the_named_model_runs():
    async with rig() as server:
        assert (await server.segment(png(smooth(30, 30)), model="two")).model == "two"
        assert server.script.artifacts == [
            model_id for model_id in server.pipeline.models.artifacts if "two" in model_id
        ]


async def test_stages_are_timed_and_counted():
    async with rig() as server:
        result = await server.segment(jpeg(smooth(300, 400)))
        assert list(result.stage_s) == ["decode", "queue", "infer", "encode"]
        assert min(result.stage_s.values()) >= 0
        assert result.stage_s["decode"] > 0
        for stage, seconds in result.stage_s.items():
            assert counted(server.metrics, "birefnet_stage_seconds_sum", stage=stage) == pytest.approx(seconds)


async def test_concurrent_requests_share_batches_and_get_their_own_answers():
    images = [noise(40, 50, seed) for seed in range(12)]
    async with rig() as server:
        results = await asyncio.gather(*(server.segment(png(image)) for image in images))
    for image, result in zip(images, results, strict=True):
        assert np.abs(decoded(result.body).astype(int) - levels(expected_alpha(image))).max() <= 1


@pytest.mark.parametrize(
    ("image", "options", "error"),
    [
        (b"", {}, EmptyBodyError),
        (b"hello", {}, NotAnImageError),
        (png(smooth(30, 30))[:-40], {}, CorruptImageError),
        (bytes(200_000), {}, BodyTooLargeError),
        (huge_png_header(2000, 2000), {}, ImageTooLargeError),
        (png(smooth(30, 30)), {"model": "three"}, UnknownModelError),
        (png(smooth(30, 30)), {"output": Output.CUTOUT, "format": OutputFormat.JPEG}, InvalidOptionError),
        (png(np.zeros((1, 20_000), np.uint8)), {"format": OutputFormat.WEBP}, InvalidOptionError),
    ],
)
async def test_what_cannot_be_served_leaves_no_trace(image, options, error):
    limits = PipelineLimits(image=ImageLimits(max_bytes=100_000, max_pixels=1_000_000))
    async with rig(limits) as server:
        with pytest.raises(error, match=r"expected .* found"):
            await server.segment(image, **options)
        assert server.admission.inside == 0
        assert server.script.batches == []
        assert (await server.segment(png(smooth(30, 30)))).size == (30, 30)


async def test_the_door_counts_from_header_to_answer():
    async with rig(admission_limits=AdmissionLimits(max_requests=1), gated=True) as server:
        first = asyncio.create_task(server.segment(png(smooth(300, 300))))
        await server.script.arrival()
        assert server.admission.inside == 1
        assert server.admission.megapixels_inside == pytest.approx(0.09)
        with pytest.raises(OverloadedError) as caught:
            await server.segment(png(smooth(30, 30)))
        assert (caught.value.retry_after_s or 0) >= 1
        server.script.let_pass()
        await first
        assert server.admission.inside == 0


async def test_the_door_is_told_what_a_request_takes_by_its_formats():
    limits = AdmissionLimits(max_memory_bytes=10_000_000)
    upload = png(smooth(300, 300))
    async with rig(admission_limits=limits, gated=True) as server:
        own = {"output": Output.CUTOUT, "format": OutputFormat.WEBP, "foreground": Foreground.ORIGINAL}
        first = asyncio.create_task(server.segment(upload, **own))
        await server.script.arrival()
        assert server.admission.memory_inside == 90_000 * ENCODING[Output.CUTOUT, OutputFormat.WEBP] + 2 * len(upload)
        server.script.let_pass()
        await first


async def test_a_request_that_takes_more_than_there_is_will_never_be_taken():
    upload = png(smooth(300, 300))
    enough = 90_000 * DECODING["PNG"] + 2 * len(upload)
    async with rig(admission_limits=AdmissionLimits(max_memory_bytes=enough)) as server:
        assert (await server.segment(upload)).size == (300, 300)
        with pytest.raises(ImageTooLargeError, match=r"at most \d MiB of memory, .* output=cutout, format=webp"):
            await server.segment(upload, output=Output.CUTOUT, format=OutputFormat.WEBP)


async def test_bad_requests_are_answered_as_such_even_at_a_full_door():
    async with rig(admission_limits=AdmissionLimits(max_requests=1), gated=True) as server:
        first = asyncio.create_task(server.segment(png(smooth(30, 30))))
        await server.script.arrival()
        with pytest.raises(NotAnImageError):
            await server.segment(b"hello")
        server.script.let_pass()
        await first


async def test_a_draining_door_refuses():
    async with rig() as server:
        await server.admission.drain()
        with pytest.raises(DrainingError):
            await server.segment(png(smooth(30, 30)))


@pytest.mark.parametrize(
    ("asked", "most", "expected"),
    [(None, 600.0, 300.0), (20.0, 600.0, 20.0), (900.0, 600.0, 600.0), (None, 50.0, 50.0)],
)
async def test_the_deadline_is_the_clients_within_the_servers(asked, most, expected, monkeypatch):
    async with rig(PipelineLimits(timeout_s=300.0, max_timeout_s=most)) as server:
        seen = []
        enter = server.admission.enter

        def spy(entrant):
            seen.append((entrant.megapixels, entrant.priority, entrant.deadline - server.pipeline._clock()))
            return enter(entrant)

        monkeypatch.setattr(server.admission, "enter", spy)
        await server.segment(png(smooth(100, 200)), timeout_s=asked, priority=Priority.HIGH)
    ((megapixels, priority, remaining),) = seen
    assert (megapixels, priority) == (0.02, Priority.HIGH)
    assert remaining == pytest.approx(expected, abs=5)


async def test_a_deadline_passes_behind_a_slow_header():
    async with rig() as server:
        gate = threading.Event()
        slow = asyncio.create_task(server.pipeline._pool.glance(lambda: gate.wait(PATIENCE_S)))
        await turn_loop()
        try:
            async with asyncio.timeout(PATIENCE_S / 2):
                with pytest.raises(DeadlineExceededError, match="header"):
                    await server.segment(png(smooth(30, 30)), timeout_s=0.1)
        finally:
            gate.set()
            await slow
        assert server.admission.inside == 0


async def test_a_deadline_passes_in_the_device_queue():
    async with rig(gated=True) as server:
        first = asyncio.create_task(server.segment(png(smooth(30, 30))))
        await server.script.arrival()
        with pytest.raises(DeadlineExceededError):
            await server.segment(png(smooth(30, 30)), timeout_s=0.2)
        server.script.open()
        await first
        assert server.admission.inside == 0
        assert sum(map(len, server.script.batches)) == 1
        assert counted(server.metrics, "birefnet_dropped_total", reason="expired") == 1


ENDS = pytest.mark.parametrize(
    ("end", "reason"), [("cancel", "cancelled"), ("deadline", "expired"), ("evict", "evicted")]
)


async def see_end(task: "asyncio.Task[SegmentResult]", server: Rig, end: str) -> None:
    """A request that waits ends before its answer is there."""
    if end == "cancel":
        task.cancel()
    if end == "evict":
        server.admission.evict(DrainingError("too late"))
    errors = {"cancel": asyncio.CancelledError, "deadline": DeadlineExceededError, "evict": DrainingError}
    with pytest.raises(errors[end]):
        await task


@ENDS
async def test_a_request_that_ends_while_it_waits_for_the_host_is_dropped_and_counted(end, reason, held_host):
    async with rig() as server, held_host(server) as release:
        task = asyncio.create_task(server.segment(png(noise(30, 30)), timeout_s=0.2 if end == "deadline" else None))
        await until(lambda: server.admission.inside > 0)
        await turn_loop()
        await see_end(task, server, end)
        release()
        assert server.admission.inside == 0
        assert counted(server.metrics, "birefnet_dropped_total", reason=reason) == 1
    assert server.script.batches == []


@ENDS
async def test_a_request_that_ends_while_it_waits_to_be_encoded_is_counted(end, reason, held_host):
    async with rig(gated=True) as server:
        task = asyncio.create_task(server.segment(png(noise(30, 30)), timeout_s=2.0 if end == "deadline" else None))
        await server.script.arrival()
        async with held_host(server) as release:
            server.script.let_pass()
            await until(lambda: len(server.pipeline._pool._line._work) == 1)
            await see_end(task, server, end)
            release()
        assert server.admission.inside == 0
        assert counted(server.metrics, "birefnet_dropped_total", reason=reason) == 1


@pytest.fixture
def held_host():
    """Both threads of the pool are held until `release` is called."""

    @asynccontextmanager
    async def hold(server: Rig):
        gate, began = threading.Event(), threading.Semaphore(0)

        def wait() -> None:
            began.release()
            assert gate.wait(PATIENCE_S)

        pool = server.pipeline._pool
        tasks = [asyncio.create_task(pool.run(wait, 1e9)) for _ in range(2)]
        for _ in range(2):
            await asyncio.to_thread(began.acquire)
        try:
            yield gate.set
        finally:
            gate.set()
            await asyncio.gather(*tasks)

    return hold


async def test_a_client_that_leaves_while_queued_costs_no_device_time():
    async with rig(gated=True) as server:
        first = asyncio.create_task(server.segment(png(noise(30, 30, 1))))
        await server.script.arrival()
        gone = asyncio.create_task(server.segment(png(noise(30, 30, 2))))
        await until(lambda: server.metrics.queue_depth > 0)
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        server.script.open()
        await first
        assert sum(map(len, server.script.batches)) == 1
        assert server.admission.inside == 0
        assert counted(server.metrics, "birefnet_dropped_total", reason="cancelled") == 1


@pytest.mark.parametrize("output", [Output.MATTE, Output.CUTOUT])
@pytest.mark.parametrize("orientation", [1, 6])
async def test_upload_and_colours_are_let_go_of_as_soon_as_they_are_not_needed(output, orientation, monkeypatch):
    """While the device works, the upload is gone, and so is what was decoded of it; for a matte, all of that."""
    freed = []
    kept: list[weakref.ref[NDArray[np.uint8]]] = []

    class Upload(bytes):
        def __del__(self) -> None:
            freed.append("upload")

    def spy(data: bytes, header: ImageHeader, at_least: tuple[int, int] | None) -> DecodedImage:
        image = decode(data, header, at_least)
        weakref.finalize(image, freed.append, "decoded")
        weakref.finalize(image._stored, freed.append, "as stored")
        return image

    def spy_upright(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
        kept.append(weakref.ref(upright := upright_of(pixels, orientation)))
        return upright

    upright_of = decoding._upright
    monkeypatch.setattr(stages, "decode", spy)
    monkeypatch.setattr(decoding, "_upright", spy_upright)
    async with rig(gated=True) as server:
        exif = Image.Exif()
        exif[0x0112] = orientation
        request = SegmentRequest(Upload(png(noise(64, 64), exif=exif)), SegmentOptions(output=output))
        task = asyncio.create_task(server.pipeline.segment(request))
        del request
        await server.script.arrival()
        gc.collect()
        assert sorted(freed) == ["as stored", "decoded", "upload"]
        assert [ref() is not None for ref in kept] == ([True] if output is Output.CUTOUT else [False] * len(kept))
        assert len(kept) == (0 if output is Output.MATTE and orientation == 1 else 1)
        server.script.let_pass()
        await task


async def test_scaled_decode_is_for_mattes_only(monkeypatch):
    sizes: list[tuple[int, ...]] = []

    def spy(data: bytes, header: ImageHeader, at_least: tuple[int, int] | None) -> DecodedImage:
        sizes.append(decode(data, header, at_least).rgb.shape[:2])
        return decode(data, header, at_least)

    monkeypatch.setattr(stages, "decode", spy)
    image = jpeg(smooth(480, 640))
    for scaled in (False, True):
        async with rig(PipelineLimits(scaled_decode=scaled)) as server:
            for output in (Output.MATTE, Output.CUTOUT):
                assert (await server.segment(image, output=output)).size == (480, 640)
    assert sizes == [(480, 640), (480, 640), (60, 80), (480, 640)]


@pytest.mark.parametrize(
    "options",
    [
        {"output": Output.MATTE},
        {"output": Output.MATTE, "depth": 16},
        {"output": Output.MATTE, "format": OutputFormat.NPY},
        {"output": Output.TRIMAP},
        {"output": Output.CUTOUT},
        {"output": Output.CUTOUT, "foreground": Foreground.ORIGINAL},
        {"output": Output.CUTOUT, "format": OutputFormat.NPY},
        {"output": Output.COMPOSITE, "background": (255, 0, 0)},
    ],
    ids=lambda options: " ".join(str(value) for value in options.values()),
)
@pytest.mark.parametrize("size", [(90, 70), (12, 20)], ids=["larger", "smaller"])
@pytest.mark.parametrize("transparent", [False, True])
async def test_what_the_device_finishes_is_to_the_byte_what_the_host_would(options, size, transparent):
    image = smooth(*size)
    if transparent:
        image = np.dstack([image, np.tile(np.linspace(0, 255, size[1]).astype(np.uint8), (size[0], 1))])
    data = png(image)
    async with rig() as plain, rig(PipelineLimits(finish_on_device=True)) as finishing:
        expected, found = await plain.segment(data, **options), await finishing.segment(data, **options)
    assert found.body == expected.body
    colours = options["output"] in (Output.CUTOUT, Output.COMPOSITE) and "foreground" not in options
    assert ("finish" in found.stage_s) == (colours or size[0] > WORKING[0]), "only where there is something to do"
    assert "finish" not in expected.stage_s


async def test_what_the_device_fails_to_finish_the_host_does(monkeypatch):
    monkeypatch.setattr(FakeBackend, "finish", lambda self, work: (_ for _ in ()).throw(OutOfMemoryFault("no room")))
    data = png(smooth(90, 70))
    async with rig() as plain, rig(PipelineLimits(finish_on_device=True)) as failing:
        expected = await plain.segment(data, output=Output.CUTOUT)
        found = await failing.segment(data, output=Output.CUTOUT)
        assert found.body == expected.body
        assert counted(failing.metrics, "birefnet_faults_total", kind="out_of_memory", device="fake") == 1

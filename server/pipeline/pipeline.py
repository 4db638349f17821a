"""The life of one request: look at the header, enter, decode, infer, compose, encode, leave."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from matting.refinement import Report
from server.engine import Engine, Item, Outcome
from server.engine.admission import Admission, Entrant, Stay
from server.engine.items import cancelled_for
from server.engine.quotas import Quotas
from server.errors import DeadlineExceededError, ImageTooLargeError, UrlNotAllowedError
from server.observability.metrics import Metrics
from server.observability.tracing import record_stage
from server.pipeline.distant import DistantImage
from server.pipeline.encode import MEDIA_TYPES, Compression, check_combination, check_size
from server.pipeline.header import ImageHeader, ImageLimits, check_upload, read_header
from server.pipeline.memory import memory_cost
from server.pipeline.models import Model, Models
from server.pipeline.pool import HostPool, HostWork
from server.pipeline.refiner import Refiner
from server.pipeline.refining import Errand, Refinements, RefinePlan, exchanged_bytes
from server.pipeline.request import ImageUrl, SegmentOptions, SegmentRequest, SegmentResult, fingerprint
from server.pipeline.shadow import Sample, Shadow, ShadowLimits
from server.pipeline.stages import COLOURLESS, Alpha, Prepared, answer, prepare, take_finished, to_finish

_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class PipelineLimits:
    """What a request may ask for, and how it is answered.

    Attributes:
        image: Largest upload.
        timeout_s: Of requests that do not say.
        max_timeout_s: Longer ones are cut to it.
        compression: Of the answers.
        scaled_decode: Decode large JPEGs at a reduced scale for mattes that are not refined.
        finish_on_device: Resize mattes and estimate colours on the device, where its backend can.
        refiner: Refines mattes; without it the guided filter does, where that is asked for.
    """

    image: ImageLimits = field(default_factory=ImageLimits)
    timeout_s: float = 300.0
    max_timeout_s: float = 600.0
    compression: Compression = field(default_factory=Compression)
    scaled_decode: bool = False
    finish_on_device: bool = False
    refiner: Refiner | None = None


class Pipeline:
    """Answers requests. Both transports, and the command line, hand theirs to the same one."""

    def __init__(
        self,
        engine: Engine,
        admission: Admission,
        models: Models,
        pool: HostPool,
        metrics: Metrics,
        limits: PipelineLimits,
    ) -> None:
        self.models = models
        self.limits = limits
        self.quotas = Quotas(admission, metrics)
        self.shadow = Shadow(engine, models, metrics, ShadowLimits(scaled_decode=limits.scaled_decode))
        self._engine = engine
        self._admission = admission
        self._pool = pool
        self._metrics = metrics
        self._clock = pool.clock
        self._refinements = Refinements(engine, pool, metrics, limits.refiner)

    @property
    def useful_concurrency(self) -> int:
        """Requests at a time that keep host and devices busy; more only wait."""
        on_devices = sum(device.max_batch * (1 + device.look_ahead) for device in self._engine.devices)
        return self._pool.workers + on_devices

    def check(self, request: SegmentRequest) -> float:
        """Refuse what would be refused whatever its image is, before anything is spent on that.

        Returns:
            Seconds that the request may take.

        Raises:
            InvalidOptionError, UnknownModelError: The options cannot be met.
            ServerError: As `Admission.check`.
        """
        options = request.options
        check_combination(options.output, options.format, options.depth)
        model = self.models.find(options.model)
        timeout_s = self._timeout_s(options, model)
        deadline = self._clock() + timeout_s
        entrant = Entrant(0.0, 0, options.priority, deadline, request.account, fingerprint(request))
        self._admission.check(entrant)
        self.quotas.check(model.name, model.limits, entrant)
        return timeout_s

    async def segment(self, request: SegmentRequest) -> SegmentResult:
        """Answer one request. Cancelling the caller's task drops the work, wherever it is.

        The upload is let go of once it is decoded, if the caller holds no reference of its own to `request`.

        Raises:
            UrlNotAllowedError: The image is named by a URL; `RemotePipeline` fetches those.
            RequestError: The request cannot be served as it is; nothing was queued for it.
            CapacityError: The server cannot take it now.
            DeadlineExceededError: Its deadline has passed, or cannot be met.
            InferenceError: The device failed.
        """
        arrived = self._clock()
        options, image, account, request_id = request.options, request.image, request.account, request.request_id
        known_by = fingerprint(request)
        if isinstance(image, ImageUrl):
            raise no_urls()
        # At once: neither waits for the thread that reads headers. Who sends no image is not told to come back.
        if isinstance(image, bytes):
            check_upload(image, self.limits.image)
        self.check(request)
        del request
        with self.models.borrow(options.model) as model:
            deadline = arrived + self._timeout_s(options, model)
            header = await self._read_header(image, deadline)
            check_size(header.size, options.format, options.output)
            plan = self._refinements.plan(options, header.size, model.manifest)
            memory = self._memory_cost(header, len(image), options, plan)
            extra_s = self._refinements.expected_s(plan, header.megapixels)
            entrant = Entrant(header.megapixels, memory, options.priority, deadline, account, known_by, extra_s)
            with (
                self._admission.enter(entrant) as stay,
                self.quotas.enter(model.name, model.limits, entrant),
            ):
                sampled = image if isinstance(image, bytes) and self.shadow.chooses(model) else None
                outlived = partial(self._admission.hold_until, memory)
                call = _Call(options, model, header, request_id, stay, arrived, outlived, image, sampled, plan)
                del image, sampled
                return await self._serve(call)

    async def _read_header(self, image: bytes | DistantImage, deadline: float) -> ImageHeader:
        if not isinstance(image, bytes):
            return image.read_header()
        try:
            async with asyncio.timeout(deadline - self._clock()):
                return await self._pool.glance(partial(read_header, image, self.limits.image))
        except TimeoutError as error:
            raise DeadlineExceededError("the deadline passed before the header of the image was read") from error

    def _memory_cost(
        self, header: ImageHeader, upload_bytes: int, options: SegmentOptions, plan: RefinePlan | None
    ) -> int:
        cost = memory_cost(header, upload_bytes, options, plan)
        most = self._admission.limits.max_memory_bytes
        if cost > most:
            raise ImageTooLargeError(
                f"expected a request that needs at most {most / _MIB:.0f} MiB of memory, found one that needs "
                f"{cost / _MIB:.0f}: {header.megapixels:.1f} megapixels of {header.format} as output={options.output}, "
                f"format={options.format}"
            )
        return cost

    def _timeout_s(self, options: SegmentOptions, model: Model) -> float:
        timeout_s = self.limits.timeout_s if options.timeout_s is None else options.timeout_s
        return min(timeout_s, self.limits.max_timeout_s, model.limits.timeout_s or timeout_s)

    async def _serve(self, call: "_Call") -> SegmentResult:
        options = call.options
        encoding = call.host_work(f"encode {options.output} {options.format} {options.foreground}")
        async with self._room(call):
            with self._pool.plan(encoding):
                prepared = await self._prepare(call)
                outcome = await self._infer(call, prepared)
                coarse = cast("NDArray[np.float32]", outcome.arrays[call.model.manifest.outputs[0].name])
                refined, report = await self._refine(call, prepared, coarse)
                alpha = await self._finish(call, prepared, refined)
            call.stay.waits = False
            size = prepared.size
            work = partial(answer, prepared, alpha, call.options, self.limits.compression)
            del prepared, alpha, refined
            with self._counting_drops():
                encoded = await self._pool.run(work, call.deadline, encoding)
        call.spend("queue", encoded.waited_s)
        call.spend("encode", encoded.worked_s)
        record_stage("queue", encoded.waited_s, encoded.worked_s, before="encode")
        record_stage("encode", encoded.worked_s, format=options.format, bytes=len(encoded.result))
        for stage, seconds in call.stage_s.items():
            self._metrics.stage_seconds.labels(stage).observe(seconds)
        if call.sampled is not None:
            self.shadow.offer(Sample(call.model, call.sampled, call.header, coarse, call.request_id))
        media_type, model = MEDIA_TYPES[call.options.format], call.model
        return SegmentResult(
            encoded.result, media_type, size, model.name, outcome.batch_size, call.stage_s, model.artifact_id, report
        )

    def _room(self, call: "_Call") -> AbstractAsyncContextManager[None]:
        """For what crosses to and from another process, where that holds the upload."""
        if call.image is None or isinstance(call.image, bytes):
            return nullcontext()
        return self._shared(call.image, call)

    @asynccontextmanager
    async def _shared(self, image: DistantImage, call: "_Call") -> AsyncIterator[None]:
        with self._counting_drops():
            try:
                async with AsyncExitStack() as stack:
                    async with asyncio.timeout(call.deadline - self._clock()):
                        size = exchanged_bytes(call.model.manifest.input_size, call.plan)
                        await stack.enter_async_context(image.room(size))
                    kept = stack.pop_all()
            except TimeoutError as error:
                raise DeadlineExceededError("the deadline passed before there was memory to share") from error
        async with kept:
            yield

    async def _prepare(self, call: "_Call") -> Prepared:
        work = partial(
            prepare,
            call.take_image(),
            call.header,
            call.model.manifest.input_size,
            colours=call.plan is not None or call.options.output not in COLOURLESS,
            scaled_decode=self.limits.scaled_decode,
        )
        with self._counting_drops():
            decoded = await self._pool.run(work, call.deadline, call.host_work(f"decode {call.header.format}"))
        call.spend("decode", decoded.worked_s)
        call.spend("queue", decoded.waited_s)
        record_stage("queue", decoded.waited_s, decoded.worked_s, before="decode")
        record_stage("decode", decoded.worked_s, format=call.header.format, megapixels=call.header.megapixels)
        return decoded.result

    async def _infer(self, call: "_Call", prepared: Prepared) -> Outcome:
        manifest = call.model.manifest
        item = Item(
            artifact_id=call.model.artifact_id,
            arrays={manifest.inputs[0].name: prepared.canvas},
            bucket=manifest.input_size,
            priority=call.options.priority,
            deadline=call.deadline,
            request_id=call.request_id,
        )
        outcome = await self._engine.submit(item)
        call.spend("queue", outcome.queue_s)
        call.spend("infer", outcome.inference_s)
        record_stage("queue", outcome.queue_s, outcome.inference_s, before="batch")
        record_stage("batch", outcome.inference_s, size=outcome.batch_size, model=call.model.artifact_id)
        return outcome

    async def _refine(
        self, call: "_Call", prepared: Prepared, coarse: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32] | None, Report | None]:
        """The matte at image size, where that was asked for, and how it was made; else the coarse mask."""
        image = prepared.distant if prepared.distant is not None else prepared.rgb
        if call.plan is None or image is None:
            return coarse, None
        began = self._clock()
        errand = Errand(call.model.artifact_id, call.model.manifest, call.deadline, call.request_id, call.host_work(""))
        with self._counting_drops():
            refined = await self._refinements.run(call.plan, errand, image, coarse)
        call.spend("refine", self._clock() - began)
        record_stage("refine", call.stage_s["refine"], tiles=refined.report.tiles)
        return (None if prepared.distant is not None else refined.alpha), refined.report

    async def _finish(self, call: "_Call", prepared: Prepared, alpha: NDArray[np.float32] | None) -> Alpha | None:
        """The matte at image size, and the colours in `prepared`, where the device is to make them; else as it is."""
        if alpha is None or prepared.distant is not None:
            return alpha
        work = to_finish(prepared, alpha, call.options) if self.limits.finish_on_device else None
        if work is None:
            return alpha
        began = self._clock()
        with self._counting_drops():
            finished = await self._engine.finish(work, call.deadline)
        if finished is None:
            return alpha
        call.spend("finish", self._clock() - began)
        record_stage("finish", call.stage_s["finish"])
        return take_finished(prepared, finished)

    @contextmanager
    def _counting_drops(self) -> Iterator[None]:
        """Around what is done for a request on the host, and for all of its tiles; the engine counts its one item."""
        try:
            yield
        except DeadlineExceededError:
            self._metrics.dropped.labels("expired").inc()
            raise
        except asyncio.CancelledError as cancellation:
            self._metrics.dropped.labels(cancelled_for(cancellation)).inc()
            raise


def no_urls() -> UrlNotAllowedError:
    """The refusal of images that are named by their URL, where none are fetched."""
    return UrlNotAllowedError(
        "image_url: this server fetches no images (its setting allow_urls is off); expected the image itself"
    )


@dataclass(slots=True)
class _Call:
    """One request that has been let in."""

    options: SegmentOptions
    model: Model
    header: ImageHeader
    request_id: str
    stay: Stay
    arrived: float
    outlived: Callable[[Future[Any]], None]  # see `HostWork`
    image: bytes | DistantImage | None = field(repr=False)
    sampled: bytes | None = field(repr=False)  # the upload again, kept for the shadow until it is answered
    plan: RefinePlan | None = None
    stage_s: dict[str, float] = field(default_factory=dict)

    @property
    def deadline(self) -> float:
        """Monotonic seconds."""
        return self.stay.entrant.deadline

    def host_work(self, kind: str) -> HostWork:
        """What is to be done for it on the host."""
        return HostWork(kind, self.header.megapixels, self.options.priority, self.arrived, self.outlived)

    def take_image(self) -> bytes | DistantImage:
        """The upload, which the call then holds no longer."""
        image, self.image = self.image, None
        if image is None:
            raise RuntimeError("This is a bug: the upload was taken twice")
        return image

    def spend(self, stage: str, seconds: float) -> None:
        """Count time under a stage; `queue` is the sum of all lines it stood in."""
        self.stage_s[stage] = self.stage_s.get(stage, 0.0) + seconds

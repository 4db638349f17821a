"""Settings become the parts of one process, each handed the smallest piece of them that it needs."""

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from server.access import Gate, KeyRing
from server.api.certificates import CertificateFiles, Certificates
from server.backends.base import Backend
from server.engine import Engine, EngineLimits
from server.engine.admission import Admission, AdmissionLimits, Surroundings
from server.engine.uploads import UploadLimits, Uploads
from server.errors import RequestError
from server.host import host_limits, lower_priority
from server.observability.metrics import Metrics
from server.pipeline.encode import Compression
from server.pipeline.header import ImageLimits
from server.pipeline.models import Model, Models, ModelsError, limited, open_models
from server.pipeline.pipeline import Pipeline, PipelineLimits
from server.pipeline.pool import HostPool
from server.pipeline.refiner import Refiner, embedded_refiner, make_refiner, open_refiner
from server.pipeline.remote import RemotePipeline
from server.pipeline.roster import Place, Roster
from server.pipeline.study import ShadowPlan
from server.settings import Settings

if TYPE_CHECKING:
    from server.fetch.fetcher import Fetcher

_log = logging.getLogger(__name__)

_CLOSE_S = 2.0  # for work on the host whose answer nobody waits for any more
_MIB = 1 << 20
_NO_CONTENTS: Mapping[str, bytes] = MappingProxyType({})
# Backend to the distributions that it may run on.
_VERSIONED = {
    "ort": ("onnxruntime", "onnxruntime-gpu"),
    "trt": ("tensorrt", "tensorrt-cu13", "tensorrt-cu12"),
    "torch": ("torch",),
}


@dataclass(frozen=True, slots=True)
class Parts:
    """What one process is made of; nothing runs yet."""

    engine: Engine
    admission: Admission
    uploads: Uploads
    models: Models
    pool: HostPool
    metrics: Metrics
    pipeline: Pipeline
    roster: Roster
    fetcher: "Fetcher | None" = None

    @property
    def front(self) -> Pipeline | RemotePipeline:
        """What transports hand their requests to."""
        if self.fetcher is None:
            return self.pipeline
        return RemotePipeline(self.pipeline, self.fetcher, self.uploads, self.metrics)

    async def start(self) -> None:
        """Open the devices, and warm and prove every model.

        Raises:
            BackendFault, ArtifactError, SelfTestFailedError: As `Engine.start`.
        """
        refiner = self.pipeline.limits.refiner
        refiners = {refiner.artifact_id: refiner.artifact} if refiner is not None else {}
        await self.engine.start({**self.models.artifacts, **refiners}, self.models.max_batches)

    async def close(self) -> None:
        """End all threads, for some seconds; one that is busy for longer is left behind."""
        await asyncio.gather(self.roster.close(), self.pipeline.shadow.close())
        self.pool.close()
        if self.fetcher is not None:
            self.fetcher.close()
        _, ended = await asyncio.gather(self.engine.close(), asyncio.to_thread(self.pool.join, _CLOSE_S))
        if not ended:
            _log.error("a thread of the host still works after %g s; it is left behind", _CLOSE_S)


def compose(settings: Settings, make_backend: Callable[[], Backend] | None = None) -> Parts:
    """Build all parts.

    Args:
        settings: Of this process.
        make_backend: Instead of the one that the settings name.

    Raises:
        ModelsError: The artifacts that the settings name cannot be served.
        OSError: A file that they name cannot be read.
    """
    settings = settings.for_host(host_limits())
    metrics = Metrics()
    models = Models(served_models(settings))
    # Streams outside, GPUs inside: the first batches go to different GPUs.
    makers = [
        make_backend or _backend_maker(settings, gpu)
        for _ in range(settings.gpu_streams)
        for gpu in settings.gpus or (0,)
    ]
    engine = Engine(makers, _engine_limits(settings), metrics)
    if settings.max_memory_inside_mib is None or settings.max_uploads_mib is None or settings.cpu_workers is None:
        raise RuntimeError("This is a bug: `for_host` must decide everything that was left to the machine")
    limits = AdmissionLimits(
        settings.max_requests,
        settings.max_megapixels_inside or math.inf,
        settings.max_memory_inside_mib * _MIB,
        settings.max_wait_s or math.inf,
    )
    behind = Surroundings(
        lambda: engine.unready_reason,
        lambda ahead: max(engine.wait_s(ahead), metrics.host.backlog_s),
        lambda: (metrics.device.task_s or 0.0) + (metrics.host.item_s or 0.0),
    )
    admission = Admission(limits, metrics, behind)
    upload_limits = UploadLimits(
        settings.max_uploads, round(settings.max_uploads_mib * _MIB), settings.grpc_max_streams
    )
    uploads = Uploads(upload_limits, admission)
    pool = HostPool(settings.cpu_workers, metrics.host, niceness=settings.compute_niceness)
    pipeline = Pipeline(engine, admission, models, pool, metrics, _pipeline_limits(settings))
    metrics.build_info(_runtime_versions(settings.backend))
    if settings.shadow_model is not None:
        _begin_shadow(pipeline, settings.shadow_model, settings.shadow_share)
    place = Place(
        settings.models_dir,
        lambda: "the server is shutting down" if admission.draining else engine.unready_reason,
        pipeline.shadow.need_of,
    )
    roster = Roster(engine, models, pipeline.quotas, place)
    fetcher = _make_fetcher(settings, metrics)
    return Parts(engine, admission, uploads, models, pool, metrics, pipeline, roster, fetcher)


@asynccontextmanager
async def open_pipeline(settings: Settings) -> AsyncIterator[Pipeline]:
    """A warm pipeline without transports, closed on leaving.

    Raises:
        ModelsError, BackendFault, ArtifactError, SelfTestFailedError: It cannot be started.
    """
    # What bounds the requests of clients has no place where there are none.
    parts = compose(settings.model_copy(update={"model_limits": (), "shadow_model": None}))
    try:
        await parts.start()
        yield parts.pipeline
    finally:
        await parts.close()


def open_gate(settings: Settings, contents: Mapping[str, bytes] = _NO_CONTENTS) -> Gate:
    """Who is let through.

    Args:
        settings: Of this process.
        contents: Of the files of keys, where another process has read them, by what they open: `service`, `admin`.

    Raises:
        KeysError: The file of API keys cannot be used.
    """
    asks_certificates = settings.tls_client_ca is not None
    admin_keys = None
    if settings.admin_keys_file is not None:
        admin_keys = KeyRing(settings.admin_keys_file, content=contents.get("admin"))
    if settings.api_keys_file is None:
        return Gate(asks_certificates=asks_certificates, admin_keys=admin_keys)
    rate = settings.rate_limit_megapixels or None
    keys = KeyRing(settings.api_keys_file, rate, content=contents.get("service"))
    return Gate(keys, frozenset(settings.open_without_key), asks_certificates, admin_keys)


def open_certificates(settings: Settings) -> Certificates | None:
    """What TLS needs; None without TLS.

    Raises:
        CertificatesError: The files cannot be used.
    """
    if settings.tls_certificate is None or settings.tls_key is None:
        return None
    return Certificates(CertificateFiles(settings.tls_certificate, settings.tls_key, settings.tls_client_ca))


def served_models(settings: Settings) -> tuple[Model, ...]:
    """The models that a process with these settings serves, the default one first.

    Raises:
        ModelsError: The artifacts that the settings name cannot be served.
    """
    if settings.backend != "fake":
        may_be_empty = settings.admin_keys_file is not None  # it may be filled later
        models = open_models(settings.model, settings.models_dir, may_be_empty=may_be_empty)
        return limited(models, settings.model_limits)
    if settings.model or settings.models_dir is not None:
        raise ModelsError("backend=fake runs no artifacts: expected it without model and models_dir")
    from server.backends.fake import fake_artifact

    return limited((Model("fake", fake_artifact()),), settings.model_limits)


def _begin_shadow(pipeline: Pipeline, shadow: str, share: float) -> None:
    try:
        pipeline.shadow.begin(ShadowPlan(pipeline.models.default.name, shadow, share))
    except RequestError as error:
        raise ModelsError(f"shadow_model: {error}") from None


def served_refiner(settings: Settings) -> Refiner | None:
    """The refiner that a process with these settings serves; None is none.

    Raises:
        ModelsError: The artifact that the setting names cannot be served.
    """
    if settings.refiner == "none":
        return None
    if settings.backend == "fake":
        from server.backends.fake import fake_refiner

        if settings.refiner != "embedded":
            raise ModelsError("backend=fake runs no artifacts: expected it with refiner=none or without")
        return make_refiner(fake_refiner())
    return embedded_refiner() if settings.refiner == "embedded" else open_refiner(Path(settings.refiner))


def _engine_limits(settings: Settings) -> EngineLimits:
    latency_ms = settings.batch_latency_ms
    return EngineLimits(settings.max_batch, batch_latency_s=latency_ms / 1000 if latency_ms is not None else None)


def _backend_maker(settings: Settings, gpu: int) -> Callable[[], Backend]:
    """What makes the backend, later, in the thread of its device; runtimes are imported there too."""
    named = settings.device == "cuda" or bool(settings.gpus)  # so that another device would be the wrong one

    def make_fake() -> Backend:
        from server.backends.fake import FakeBackend, FakeOptions

        name = f"fake:{gpu}" if settings.gpus else "fake"
        return FakeBackend(FakeOptions(delay_s=settings.fake_latency_s, name=name))

    def make_ort() -> Backend:
        from server.backends.ort import OrtBackend, OrtOptions, has_cuda

        index = gpu if named or (settings.device == "auto" and has_cuda()) else None
        options = OrtOptions(settings.threads or 1, index, settings.allow_cpu or not named, settings.gpu_memory_mib)
        return OrtBackend(options)

    def make_torch() -> Backend:
        from server.backends.torch_cuda import TorchBackend, TorchOptions, has_cuda

        index = gpu if named or (settings.device == "auto" and has_cuda()) else None
        return TorchBackend(TorchOptions(settings.threads or 1, index, settings.allow_cpu, settings.tune_kernels))

    def make_trt() -> Backend:
        from server.backends.trt import TrtBackend, TrtOptions

        return TrtBackend(TrtOptions(gpu, build_plans=settings.build_plans))

    make = {"fake": make_fake, "ort": make_ort, "trt": make_trt, "torch": make_torch}[settings.backend]

    def make_gently() -> Backend:
        backend = make()
        if backend.device.on_host:  # before a model is loaded: the runtime's threads follow the one that starts them
            lower_priority(settings.compute_niceness)
        return backend

    return make_gently


def _runtime_versions(backend: str) -> dict[str, str]:
    """Of the first distribution that is installed, under the first one's name, as a label of the metrics."""
    names = _VERSIONED.get(backend, ())
    for name in names:
        with suppress(PackageNotFoundError):
            return {names[0]: version(name)}
    return {}


def _make_fetcher(settings: Settings, metrics: Metrics) -> "Fetcher | None":
    """None where no images are fetched: then not even the code that connects is loaded."""
    if not settings.allow_urls:
        return None
    from server.fetch.addresses import AddressPolicy
    from server.fetch.fetcher import Fetcher, FetchLimits
    from server.fetch.places import PlaceLimits

    share = max(1, settings.url_fetches // 2)
    limits = FetchLimits(
        max_bytes=settings.max_upload_bytes,
        timeout_s=settings.url_timeout_s,
        ports=settings.url_ports,
        places=PlaceLimits(settings.url_fetches, share, share, settings.max_requests),
        addresses=AddressPolicy(settings.url_allow, settings.url_deny),
        ca_file=settings.url_ca_file,
    )
    return Fetcher(limits, metrics)


def image_limits(settings: Settings) -> ImageLimits:
    """How large an upload may be."""
    return ImageLimits(settings.max_upload_bytes, settings.max_pixels, settings.max_side, settings.max_metadata_bytes)


def compression(settings: Settings) -> Compression:
    """How hard the encoders try."""
    return Compression(settings.png_level, settings.jpeg_quality, settings.webp_quality)


def _pipeline_limits(settings: Settings) -> PipelineLimits:
    return PipelineLimits(
        image=image_limits(settings),
        timeout_s=settings.timeout_s,
        max_timeout_s=settings.max_timeout_s,
        compression=compression(settings),
        scaled_decode=settings.scaled_decode,
        finish_on_device=settings.finish == "device",
        refiner=served_refiner(settings),
    )

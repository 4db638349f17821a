"""Names of all metrics in one place, and the one object that holds them.

Every `Metrics` has its own registry, so several servers fit into one process. Durations are seconds. A share of busy
time is `rate(birefnet_busy_seconds_total[1m]) / birefnet_workers`; `birefnet_busy_share` says the same for people
without Prometheus.
"""

import platform
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from server.observability.station import Station

REFUSALS = (
    "uploads",
    "streams",
    "fetches",
    "requests",
    "wait",
    "megapixels",
    "memory",
    "model_requests",
    "model_megapixels",
    "model_memory",
    "rate_limit",
    "deadline",
    "draining",
    "not_ready",
)
SHADOW_OUTCOMES = ("compared", "busy", "failed", "outdated")
DROPS = ("expired", "cancelled", "evicted")
STAGES = ("refined", "nothing", "dropped")
FAULTS = ("item", "batch", "out_of_memory", "fatal")

# From a cached thumbnail to the longest request the server accepts (600 s).
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_DIFFERENCES = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1)
_SHARES = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.5, 1)
_BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """Everything the server counts and times.

    Attributes:
        requests: `transport` (rest, grpc), `outcome` (ok, or the error's public code).
        request_seconds: Time of one of them, by the same labels: from its headers, or in a stream its message, until
            its answer begins to leave. Over HTTP the upload's time is part of it.
        refusals: Turned away at the door, by `reason` (`REFUSALS`); every refusal is counted exactly once.
        dropped: Accepted, then dropped in a line or on the host, so that what they still needed was not done, by
            `reason` (`DROPS`); each once, however many tiles it has. One that ends while the device runs its image is
            not among them: that was spent.
        faults: Failures by `kind` (`FAULTS`) and `device`.
        device_batches: Batches that a `device` ran to their end.
        fetches: Images fetched by their URL, by `outcome` (ok, or the error's public code).
        fetch_seconds: Time of one fetch, waiting and redirects included, whatever came of it.
        fetch_bytes: Bytes of the images that were fetched whole.
        refine_tiles: Tiles that refinement asked for.
        refine_stages: Stages of refinement by `outcome` (`STAGES`): refined, nothing to refine, or not used.
        refine_band_share: Share of a stage's pixels in the boundary band.
        stage_seconds: Time of one request in each `stage` (decode, queue, infer, encode, …).
        shadow_images: Answered a second time by a shadow model, or not after all, by `outcome` (`SHADOW_OUTCOMES`).
        shadow_difference: Mean |Δalpha| of one image between two artifacts (`model`, `shadow`), by `region` (whole,
            band).
        host: The pool of threads that decode and encode.
        device: The devices that run networks.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        # Process-wide: one more series per series, which nobody reads.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self.host = Station(clock=clock)
        self.device = Station(clock=clock)
        self._queue_depth = self._inside = self._uploads = self._upload_bytes = self._streams = _nothing

        def counter(name: str, text: str, label: str, values: tuple[str, ...]) -> Counter:
            made = Counter(name, text, [label], registry=self.registry)
            for value in values:  # a series must exist before its first event, or `rate` misses that event
                made.labels(value)
            return made

        self.requests = Counter(
            "birefnet_requests", "Requests answered.", ["transport", "outcome"], registry=self.registry
        )
        self.request_seconds = Histogram(
            "birefnet_request_seconds",
            "Time of a request, until its answer begins to leave.",
            ["transport", "outcome"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.refusals = counter("birefnet_refusals", "Requests refused at the door.", "reason", REFUSALS)
        self.dropped = counter("birefnet_dropped", "Requests dropped with work left to do.", "reason", DROPS)
        self.faults = Counter("birefnet_faults", "Failures of a device.", ["kind", "device"], registry=self.registry)
        self.device_batches = Counter("birefnet_device_batches", "Batches run.", ["device"], registry=self.registry)
        self._batch_limit = Gauge(
            "birefnet_batch_limit",
            "Largest batch, as found at warm-up.",
            ["model", "device"],
            registry=self.registry,
        )
        self._device_up = Gauge(
            "birefnet_device_up", "1 while a device serves, 0 once it is lost.", ["device"], registry=self.registry
        )
        self.refine_tiles = Counter("birefnet_refine_tiles", "Tiles that were refined.", registry=self.registry)
        self.refine_stages = counter("birefnet_refine_stages", "Stages of refinement.", "outcome", STAGES)
        self.refine_band_share = Histogram(
            "birefnet_refine_band_share",
            "Share of a stage's pixels in the boundary band.",
            buckets=_SHARES,
            registry=self.registry,
        )
        self.fetches = Counter("birefnet_fetches", "Images fetched by URL.", ["outcome"], registry=self.registry)
        self.fetch_seconds = Histogram(
            "birefnet_fetch_seconds", "Time of a fetch.", buckets=_SECONDS, registry=self.registry
        )
        self.fetch_bytes = Counter("birefnet_fetch_bytes", "Bytes of fetched images.", registry=self.registry)
        self.stage_seconds = Histogram(
            "birefnet_stage_seconds",
            "Time of a request in a stage.",
            ["stage"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.queue_wait_seconds = Histogram(
            "birefnet_queue_wait_seconds", "Time of an item in the queue.", buckets=_SECONDS, registry=self.registry
        )
        self.inference_seconds = Histogram(
            "birefnet_inference_seconds", "Time of a batch on the device.", buckets=_SECONDS, registry=self.registry
        )
        self.batch_size = Histogram(
            "birefnet_batch_size", "Items that ran together.", buckets=_BATCH_SIZES, registry=self.registry
        )
        self.shadow_images = counter(
            "birefnet_shadow_images", "Answered again by a shadow model, or dropped.", "outcome", SHADOW_OUTCOMES
        )
        self.shadow_difference = Histogram(
            "birefnet_shadow_difference",
            "Mean difference of alpha between a model and its shadow, of an image.",
            ["model", "shadow", "region"],
            buckets=_DIFFERENCES,
            registry=self.registry,
        )
        self._models = Gauge(
            "birefnet_model_info",
            "A model that is served; always 1.",
            ["model", "kind", "backbone", "size", "precision", "device", "sha256"],
            registry=self.registry,
        )
        self.registry.register(_Stations(self))
        ProcessCollector(registry=self.registry)

    @property
    def pressure(self) -> float:
        """Seconds of work inside ÷ capacity, of the fuller of host and device: the autoscaling signal."""
        return max(self.host.backlog_s, self.device.backlog_s)

    def watch_queue(self, depth: Callable[[], int]) -> None:
        """Say where the number of waiting items is read at each scrape."""
        self._queue_depth = depth

    @property
    def queue_depth(self) -> int:
        """Items that wait for a device now."""
        return self._queue_depth()

    def watch_inside(self, number: Callable[[], int]) -> None:
        """Say where the number of requests from the door to their answers is read at each scrape."""
        self._inside = number

    def watch_uploads(self, number: Callable[[], int], size: Callable[[], int]) -> None:
        """Say where the number and the bytes of bodies on their way are read at each scrape."""
        self._uploads, self._upload_bytes = number, size

    def watch_streams(self, number: Callable[[], int]) -> None:
        """Say where the number of open gRPC streams is read at each scrape."""
        self._streams = number

    @property
    def levels(self) -> Mapping[str, tuple[str, int]]:
        """How much there is of everything that is bounded, now: text and value by name."""
        return {
            "birefnet_queue_depth": ("Items that wait for a device.", self._queue_depth()),
            "birefnet_requests_inside": ("Requests from the door to their answers.", self._inside()),
            "birefnet_uploads": ("Bodies on their way.", self._uploads()),
            "birefnet_upload_bytes": ("Bytes of HTTP bodies on their way, as counted.", self._upload_bytes()),
            "birefnet_grpc_streams": ("Open streams of images over gRPC.", self._streams()),
        }

    def build_info(self, backends: Mapping[str, str]) -> None:
        """Publish versions: of this package, of Python, and of what the backends run on (name to version)."""
        labels = {"version": package_version(), "python": platform.python_version(), **backends}
        Gauge("birefnet_build_info", "Versions; always 1.", list(labels), registry=self.registry).labels(**labels).set(
            1
        )

    def device_opened(self, name: str) -> None:
        """Publish a device: its series exist before its first batch and its first fault."""
        self._device_up.labels(name).set(1)
        self.device.introduce(name)
        self.device_batches.labels(name)
        for kind in FAULTS:
            self.faults.labels(kind, name)

    def device_lost(self, name: str) -> None:
        """A device serves no more."""
        self._device_up.labels(name).set(0)

    def batch_limited(self, model: str, device: str, limit: int | None) -> None:
        """Publish the largest batch of a model on a device, or take it back with None."""
        if limit is None:
            self._batch_limit.remove(model, device)
        else:
            self._batch_limit.labels(model, device).set(limit)

    def model_served(self, labels: Mapping[str, str]) -> None:
        """Publish a model: model, kind, backbone, size, precision, device, sha256."""
        self._models.labels(**labels).set(1)

    def model_removed(self, labels: Mapping[str, str]) -> None:
        """Take back what `model_served` published."""
        self._models.remove_by_labels(dict(labels))

    def count_refinement(self, tiles: int, band_shares: Iterable[float], outcomes: Mapping[str, int]) -> None:
        """Count one matte that was refined.

        Args:
            tiles: Of all its stages.
            band_shares: Of each stage, 0 to 1.
            outcomes: Stages by outcome (`STAGES`).
        """
        self.refine_tiles.inc(tiles)
        for share in band_shares:
            self.refine_band_share.observe(share)
        for outcome, stages in outcomes.items():
            self.refine_stages.labels(outcome).inc(stages)

    def count_request(self, transport: str, outcome: str, seconds: float) -> None:
        """Count one answered request: `ok`, or the public code of its error, and the time that it took."""
        self.requests.labels(transport, outcome).inc()
        self.request_seconds.labels(transport, outcome).observe(seconds)

    async def page(self) -> tuple[bytes, str]:
        """As `render`."""
        return self.render()

    def render(self) -> tuple[bytes, str]:
        """The body of `/metrics` and its content type."""
        return generate_latest(self.registry), CONTENT_TYPE_LATEST


def package_version() -> str:
    """Version of the installed distribution."""
    try:
        return version("birefnet-server")
    except PackageNotFoundError:
        return "unknown"


def _nothing() -> int:
    return 0


class _Stations(Collector):
    """Reads queue and stations at the moment of the scrape, so that they cost nothing in between."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        metrics = self._metrics
        stations = {"host": metrics.host, "device": metrics.device}
        for name, (text, level) in metrics.levels.items():
            yield GaugeMetricFamily(name, text, level)
        yield GaugeMetricFamily(
            "birefnet_pressure", "Seconds of work inside / capacity, the larger of host and device.", metrics.pressure
        )
        busy = CounterMetricFamily(
            "birefnet_busy_seconds", "Seconds of work done, summed over workers.", labels=["part"]
        )
        shares: dict[str, tuple[str, Callable[[Station], float]]] = {
            "birefnet_workers": ("Tasks that can run at once.", lambda station: float(station.capacity)),
            "birefnet_busy_share": ("Share of capacity used lately.", lambda station: station.busy_share),
            "birefnet_backlog_seconds": ("Seconds of work inside / capacity.", lambda station: station.backlog_s),
        }
        by_device = CounterMetricFamily("birefnet_device_busy_seconds", "Seconds of work done.", labels=["device"])
        for part, station in stations.items():
            busy.add_metric([part], station.busy_s)
        for name, seconds in metrics.device.busy_by().items():
            by_device.add_metric([name], seconds)
        yield busy
        yield by_device
        for name, (text, value) in shares.items():
            family = GaugeMetricFamily(name, text, labels=["part"])
            for part, station in stations.items():
                family.add_metric([part], value(station))
            yield family

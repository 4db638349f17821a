"""Section `server`: a live server on the torch backend, from JPEGs to mattes and cutouts, and 24 Mpixel refined."""

import io
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import numpy as np
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.gpu.artifacts import served_artifact
from benchmarks.gpu.bottleneck import Usage
from benchmarks.gpu.subjects import Context, Subject, release
from benchmarks.gpu.throughput import wall_times
from benchmarks.load import closed_loop, sequential, summarise_ms
from benchmarks.serving import batches_run, checked, get, port, stage_medians_ms
from model_export.sample_inputs import subject as drawn
from tests.support.processes import LiveServer, live_server

_READY_S = 420.0
_BARE_BATCHES = (8, 16, 32)
_COUNTERS = (
    "birefnet_busy_seconds_total",
    "birefnet_device_up",
    "birefnet_stage_seconds_sum",
    "birefnet_workers",
    "process_cpu_seconds_total",
)
_CLIENTS = 64
_SECONDS = 15.0
_LARGE = (4000, 6000)  # 24 Mpixel
_MEDIUM = (3000, 4000)  # 12


@dataclass(frozen=True, slots=True)
class Load:
    """One kind of request.

    Attributes:
        name: Of the row.
        size: (height, width) of its JPEGs.
        path: With its options.
    """

    name: str
    size: tuple[int, int]
    path: str


LOADS = (
    Load("1024x1024 JPEG to grey PNG", (1024, 1024), "/segment?refine=off"),
    Load("1024x1024 JPEG to WebP cutout", (1024, 1024), "/segment?refine=off&output=cutout&format=webp"),
    Load("12 Mpixel JPEG to grey PNG", _MEDIUM, "/segment?refine=off"),
    Load("12 Mpixel JPEG to WebP cutout", _MEDIUM, "/segment?refine=off&output=cutout&format=webp"),
)
_DRY_LOADS = (Load("small JPEG to grey PNG", (96, 64), "/segment?refine=off"),)


def measure_server(context: Context) -> None:
    """Servers with one stream and with two: load with each kind of request, and one large photograph refined."""
    subject = context.subjects[0]
    artifact = served_artifact(context, subject)
    flags = ["--backend", "torch", "--model", str(artifact.directory), "--max-requests", "256"]
    flags += ["--device", "cuda", "--max-batch", "32", "--tune-kernels"] if not context.dry else []
    bare = _bare_engine(context, subject)
    release(context.device)  # the server needs the memory
    for streams in (1,) if context.dry else (1, 2):
        row = subject.row(backend="torch", streams=streams)
        context.report.measure({"name": "whole server", **row}, partial(_measure_one, context, [*flags], row, bare))


def _bare_engine(context: Context, subject: Subject) -> dict[str, Any] | None:
    """Images per second of the same network at its best batch, copies included, with no server around it."""
    batches = subject.batches if context.dry else _BARE_BATCHES
    images = subject.images(max(batches))
    precision, dtype = next(iter(context.precisions.items()))
    network = context.fused(subject, dtype)

    def best() -> dict[str, Any]:
        rates = {}
        for batch in batches:
            runner = context.runner(network, subject)
            runner({"image": images[:batch]})
            rates[batch] = 1000 * batch / wall_times(context, runner, images[:batch])["median_ms"]
            del runner
            release(context.device)
        batch = max(rates, key=lambda each: rates[each])
        return {"batch": batch, "images_per_second": round(rates[batch], 3)}

    row = subject.row(backend="torch", precision=precision)
    return context.report.measure({"name": "bare engine", **row}, best)


def _measure_one(
    context: Context, flags: list[str], row: dict[str, Any], bare: dict[str, Any] | None
) -> dict[str, Any]:
    loads = _DRY_LOADS if context.dry else LOADS
    with _ready_server(*flags, "--gpu-streams", str(row["streams"])) as (live, ready_s):
        for load in loads:
            context.report.measure({"name": load.name, **row}, partial(_loaded, context, live, load, bare))
        large = {"name": "24 Mpixel JPEG to refined 16-bit matte", **row}
        context.report.measure(large, partial(_refined, context, live))
    return {"ready_s": round(ready_s, 2)}


def _loaded(context: Context, live: LiveServer, load: Load, bare: dict[str, Any] | None) -> dict[str, Any]:
    files = [_jpeg(load.size, shift) for shift in range(1 if context.dry else 4)]
    clients, seconds = (2, 0.5) if context.dry else (_CLIENTS, _SECONDS)
    checked(sequential(port(live), files, 3, load.path))
    alone = checked(sequential(port(live), files, 3 if context.dry else 20, load.path))
    before, counters, client_s = batches_run(live), _counters(live), time.process_time()
    answers, took_s = closed_loop(port(live), files, clients, seconds, load.path)
    checked(answers)
    client_s, after = time.process_time() - client_s, _counters(live)
    usage = _usage(counters, after, took_s, client_s)
    rate = len(answers) / took_s
    items, batches = (now - then for now, then in zip(batches_run(live), before, strict=True))
    return {
        "images_per_second": round(rate, 3),
        "engine_images_per_second": bare["images_per_second"] if bare is not None else None,
        "engine_share": round(rate / bare["images_per_second"], 4) if bare is not None else None,
        "bottleneck": usage.bottleneck(),
        "used_shares": {part: round(share, 4) for part, share in usage.shares.items()},
        "mean_batch": round(items / max(1.0, batches), 2),
        "clients": clients,
        "alone": summarise_ms([answer.wall_s for answer in alone]),
        "loaded": summarise_ms([answer.wall_s for answer in answers]),
        "stage_median_ms": stage_medians_ms(answers),
        "stage_s": {stage: round(seconds, 3) for stage, seconds in usage.stages_s.items()},
        "seconds": round(took_s, 3),
        "answer_bytes": round(median(len(answer.body) for answer in answers)),
    }


def _refined(context: Context, live: LiveServer) -> dict[str, Any]:
    size = (160, 96) if context.dry else _LARGE
    path = "/segment?refine=on&depth=16&timeout_ms=300000"
    file = [_jpeg(size, 0)]
    checked(sequential(port(live), file, 1, path))
    answers = checked(sequential(port(live), file, 2 if context.dry else 5, path))
    return {
        "wall": summarise_ms([answer.wall_s for answer in answers]),
        "stage_median_ms": stage_medians_ms(answers),
    }


def _jpeg(size: tuple[int, int], shift: int) -> bytes:
    pixels = drawn(*size, shift=7 * shift)
    grain = np.random.default_rng(shift).integers(-4, 5, pixels.shape, dtype=np.int8)
    buffer = io.BytesIO()
    Image.fromarray((pixels.astype(np.int16) + grain).clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def _counters(live: LiveServer) -> dict[tuple[str, str], float]:
    """What the server's metrics have now, by name and the value of the only label that is of use here."""
    families = text_string_to_metric_families(get(live, "/metrics").decode())
    return {
        (sample.name, sample.labels.get("part") or sample.labels.get("stage") or sample.labels.get("device", "")): (
            sample.value
        )
        for family in families
        for sample in family.samples
        if sample.name in _COUNTERS
    }


def _usage(
    before: Mapping[tuple[str, str], float], after: Mapping[tuple[str, str], float], took_s: float, client_s: float
) -> Usage:
    def spent(name: str, label: str = "") -> float:
        return after[name, label] - before.get((name, label), 0.0)

    stages = [label for name, label in after if name == "birefnet_stage_seconds_sum"]
    devices = [label for name, label in after if name == "birefnet_device_up"]
    return Usage(
        took_s=took_s,
        client_s=client_s,
        process_s=spent("process_cpu_seconds_total"),
        device_s=spent("birefnet_busy_seconds_total", "device"),
        devices=after["birefnet_workers", "device"],
        host_s=spent("birefnet_busy_seconds_total", "host"),
        host_workers=after["birefnet_workers", "host"],
        on_host=all("cuda" not in device for device in devices),
        stages_s={stage: spent("birefnet_stage_seconds_sum", stage) for stage in stages},
    )


@contextmanager
def _ready_server(*flags: str) -> Iterator[tuple[LiveServer, float]]:
    with live_server(*flags, ready=False) as live:
        yield live, _until_ready(live)


def _until_ready(live: LiveServer) -> float:
    while time.monotonic() - live.started < _READY_S:
        if live.process.poll() is not None:
            records: Sequence[Any] = live.wait_for_records()
            raise RuntimeError(f"expected a server that becomes ready, found one that ended: {records[-3:]}")
        try:
            get(live, "/readyz")
        except OSError:
            time.sleep(0.2)
        else:
            return time.monotonic() - live.started
    raise RuntimeError(f"expected a server that is ready within {_READY_S:g} s, found one that is not")

"""Section `server`: a live server on the torch backend, from JPEGs to mattes and cutouts, and 24 Mpixel refined."""

import io
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.gpu.artifacts import refiner_artifact, served_artifact
from benchmarks.gpu.subjects import Context
from benchmarks.load import closed_loop, sequential, summarise_ms
from benchmarks.serving import batches_run, checked, get, port, stage_medians_ms
from model_export.sample_inputs import subject as drawn
from tests.support.processes import LiveServer, live_server

_READY_S = 420.0
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
    flags += ["--refiner", str(refiner_artifact(context).directory)]
    flags += ["--device", "cuda", "--max-batch", "32", "--tune-kernels"] if not context.dry else []
    for streams in (1,) if context.dry else (1, 2):
        row = subject.row(backend="torch", streams=streams)
        context.report.measure({"name": "whole server", **row}, partial(_measure_one, context, [*flags], row))


def _measure_one(context: Context, flags: list[str], row: dict[str, Any]) -> dict[str, Any]:
    loads = _DRY_LOADS if context.dry else LOADS
    with _ready_server(*flags, "--gpu-streams", str(row["streams"])) as (live, ready_s):
        for load in loads:
            context.report.measure({"name": load.name, **row}, partial(_loaded, context, live, load))
        large = {"name": "24 Mpixel JPEG to refined 16-bit matte", **row}
        context.report.measure(large, partial(_refined, context, live))
    return {"ready_s": round(ready_s, 2)}


def _loaded(context: Context, live: LiveServer, load: Load) -> dict[str, Any]:
    files = [_jpeg(load.size, shift) for shift in range(1 if context.dry else 4)]
    clients, seconds = (2, 0.5) if context.dry else (_CLIENTS, _SECONDS)
    checked(sequential(port(live), files, 3, load.path))
    alone = checked(sequential(port(live), files, 3 if context.dry else 20, load.path))
    before, busy_before = batches_run(live), _busy(live)
    answers, took_s = closed_loop(port(live), files, clients, seconds, load.path)
    checked(answers)
    items, batches = (now - then for now, then in zip(batches_run(live), before, strict=True))
    return {
        "images_per_second": round(len(answers) / took_s, 3),
        "mean_batch": round(items / max(1.0, batches), 2),
        "clients": clients,
        "alone": summarise_ms([answer.wall_s for answer in alone]),
        "loaded": summarise_ms([answer.wall_s for answer in answers]),
        "stage_median_ms": stage_medians_ms(answers),
        "busy": {name: round(now - busy_before.get(name, 0.0), 3) for name, now in _busy(live).items()},
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


def _busy(live: LiveServer) -> dict[str, float]:
    """Seconds that the server's stages took so far, as its metrics have them."""
    found = {}
    for line in get(live, "/metrics").decode().splitlines():
        if line.startswith(("birefnet_inference_seconds_sum", "birefnet_stage_seconds_sum")):
            name, _, value = line.rpartition(" ")
            found[name.removeprefix("birefnet_")] = float(value)
    return found


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

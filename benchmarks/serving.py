"""Measure the server on this machine: `python -m benchmarks.serving -o benchmarks/results/serving/NAME.json`.

Methodology: `benchmarks/README.md`. Every figure comes from a live process, over the wire.
"""

import argparse
import io
import json
import shlex
import sys
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from benchmarks import machine
from benchmarks.load import Answer, closed_loop, sequential, summarise_ms
from matting.quality import iou, mean_absolute_error
from tests.support.images import photographs, png
from tests.support.processes import LiveServer, live_server
from training.data.sets import SETS

SIDE = 1024
CLIENTS = 16
WARM_UP = 10  # requests that are not counted
QUALITY_SET = "heldout"
QUALITY_SIDE = 512
QUALITY_IMAGES = 50


class MeasurementError(Exception):
    """A request of the measurement was not answered with 200: there is no figure to write."""


def jpegs() -> list[bytes]:
    """The bundled photographs, 1024×1024, as JPEG files of quality 90."""
    files = []
    for photograph in photographs().values():
        buffer = io.BytesIO()
        Image.fromarray(photograph).resize((SIDE, SIDE), Image.Resampling.LANCZOS).save(buffer, "JPEG", quality=90)
        files.append(buffer.getvalue())
    return files


def checked(answers: Sequence[Answer]) -> Sequence[Answer]:
    """The answers, if every one of them is a 200."""
    bad = [answer for answer in answers if answer.status != 200]
    if bad:
        raise MeasurementError(
            f"{len(bad)} of {len(answers)} requests failed, the first with {bad[0].status}: {bad[0].body[:300]!r}"
        )
    return answers


def stage_medians_ms(answers: Sequence[Answer]) -> dict[str, float]:
    """Median milliseconds of each stage the server accounts for."""
    return {stage: round(median(a.stage_s[stage] for a in answers) * 1000, 2) for stage in answers[0].stage_s}


def port(live: LiveServer) -> int:
    """The HTTP port of a live server."""
    return int(live.http.rsplit(":", 1)[1])


def get(live: LiveServer, path: str) -> bytes:
    """The body of a 200."""
    with urllib.request.urlopen(live.http + path, timeout=10) as response:  # noqa: S310 - our own server
        return bytes(response.read())


def cold_starts(flags: Sequence[str], count: int) -> dict[str, Any]:
    """Seconds from the start of the process until ready."""
    seconds = []
    for _ in range(count):
        with live_server(*flags) as live:
            get(live, "/readyz")
            seconds.append(time.monotonic() - live.started)
    return {
        "count": count,
        "median": round(median(seconds), 3),
        "min": round(min(seconds), 3),
        "max": round(max(seconds), 3),
    }


def batches_run(live: LiveServer) -> tuple[float, float]:
    """Items and batches that the engine has run since the process started, by its own histogram."""
    totals = {"birefnet_batch_size_sum": 0.0, "birefnet_batch_size_count": 0.0}
    for family in text_string_to_metric_families(get(live, "/metrics").decode()):
        for entry in family.samples:
            if entry.name in totals:
                totals[entry.name] += entry.value
    items, batches = totals.values()
    return items, batches


def memory_mib(live: LiveServer) -> dict[str, float]:
    """Resident memory of the process in MiB as the kernel accounts for it: now (VmRSS) and at its highest (VmHWM)."""
    lines = Path(f"/proc/{live.process.pid}/status").read_text(encoding="ascii").splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    return {name: round(int(fields[name].split()[0]) / 1024, 1) for name in ("VmRSS", "VmHWM")}


def measure_quality(live: LiveServer) -> dict[str, Any]:
    """Score the mattes this server returns for held-out procedural images against their exact alpha."""
    source = SETS[QUALITY_SET]
    errors, overlaps = [], []
    for index in range(QUALITY_IMAGES):
        image, truth = source.item(index, QUALITY_SIDE)
        (answer,) = checked(sequential(port(live), [png(image)], 1))
        alpha = np.asarray(Image.open(io.BytesIO(answer.body)), np.float32) / np.float32(255)
        errors.append(mean_absolute_error(alpha, truth))
        overlaps.append(iou(alpha, truth))
    return {
        "set": f"procedural, {QUALITY_SET}, {QUALITY_SIDE}x{QUALITY_SIDE}, the first {QUALITY_IMAGES}",
        "images": QUALITY_IMAGES,
        "mean_absolute_error": round(float(np.mean(errors)), 4),
        "iou": round(float(np.mean(overlaps)), 4),
    }


def measure_model(flags: Sequence[str], requests: int, duration_s: float) -> dict[str, Any]:
    """Latency, throughput, memory and quality of one live server."""
    images = jpegs()
    with live_server(*flags) as live:
        ready = memory_mib(live)["VmRSS"]
        checked(sequential(port(live), images, WARM_UP))
        alone = checked(sequential(port(live), images, requests))
        before = batches_run(live)
        answers, took_s = closed_loop(port(live), images, CLIENTS, duration_s)
        checked(answers)
        items, batches = (now - then for now, then in zip(batches_run(live), before, strict=True))
        after = memory_mib(live)
        quality = measure_quality(live)
        model = json.loads(get(live, "/models"))["models"][0]
    return {
        "model": {key: model[key] for key in ("name", "sha256", "size")},
        "latency": {
            "image": f"JPEG {SIDE}x{SIDE}, photographs, quality 90",
            "answer": "matte, PNG",
            "wall": summarise_ms([answer.wall_s for answer in alone]),
            "stage_median_ms": stage_medians_ms(alone),
        },
        "throughput": {
            "clients": CLIENTS,
            "duration_s": round(took_s, 2),
            "images": len(answers),
            "images_per_second": round(len(answers) / took_s, 3),
            "errors": 0,
            "mean_batch_size": round(items / batches, 3),
            "wall": summarise_ms([answer.wall_s for answer in answers]),
        },
        "memory_mib": {"ready": ready, "after_load": after["VmRSS"], "peak": after["VmHWM"]},
        "quality": quality,
    }


def measure_overhead(requests: int) -> dict[str, Any]:
    """What the server itself adds to decode, inference and encode, with the fake backend."""
    images = jpegs()
    with live_server("--backend", "fake") as live:
        checked(sequential(port(live), images, WARM_UP))
        answers = checked(sequential(port(live), images, requests))
    work = ("decode", "infer", "encode")
    overhead = [answer.wall_s - sum(answer.stage_s[stage] for stage in work) for answer in answers]
    return {
        "backend": "fake",
        "image": f"JPEG {SIDE}x{SIDE}, photographs, quality 90",
        "overhead": summarise_ms(overhead),
        "wall": summarise_ms([answer.wall_s for answer in answers]),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the whole measurement and write its JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description=__doc__)
    parser.add_argument("-o", "--out", type=Path, required=True, help="where the JSON goes")
    parser.add_argument("--requests", type=int, default=50, help="requests of the latency and overhead runs")
    parser.add_argument("--seconds", type=float, default=30.0, help="length of the throughput run")
    parser.add_argument("--cold-starts", type=int, default=5, help="processes started for the cold start")
    parser.add_argument("flags", nargs="*", help="flags handed to `birefnet-server serve`, after --")
    arguments = parser.parse_args(argv)

    words = sys.argv[1:] if argv is None else list(argv)
    described = machine.describe()  # first: the load average is to be that of the machine without us
    result = {
        "schema_version": 1,
        "command": shlex.join(["python", "-m", "benchmarks.serving", *words]),
        "machine": described,
        "cold_start_s": cold_starts(arguments.flags, arguments.cold_starts),
        **measure_model(arguments.flags, arguments.requests, arguments.seconds),
        "overhead": measure_overhead(arguments.requests * 4),
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""Measure a TensorRT plan, bare and behind the live server: `python -m benchmarks.plans ARTIFACT -o FILE`.

The artifact has a plan for this machine's GPU (`birefnet-export tensorrt`). `--dry-run` takes a tiny model on a fake
GPU instead, and writes a file of the same form: its figures mean nothing. Methodology: `benchmarks/README.md`.
"""

import argparse
import io
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from artifact import Artifact, find_plan, load_self_test, open_artifact, plan_source, plans_of
from benchmarks import machine
from benchmarks.load import Answer, closed_loop, summarise_ms
from benchmarks.results import markdown, write_result
from model_export.sample_inputs import subject
from plans import PlanRunner, Platform, open_platform
from tests.support.processes import live_server

CLIENTS_PER_ROW = 4
JPEG_QUALITY = 90


@contextmanager
def chosen(arguments: argparse.Namespace) -> Iterator[tuple[Artifact, Platform]]:
    """What is measured, and on what."""
    if not arguments.dry_run:
        yield open_artifact(arguments.artifact), open_platform(arguments.device)
        return
    from tests.support.plans import fake_platform, typed_artifact, with_plan

    with tempfile.TemporaryDirectory() as folder:
        gpu = fake_platform()
        artifact = typed_artifact(Path(folder) / "artifact")
        yield with_plan(artifact, gpu.key(artifact), Path(folder)), gpu.platform


def batch_sizes(runner: PlanRunner) -> list[int]:
    """Powers of two that the plan takes, and its largest batch."""
    sizes = [size for size in (1, 2, 4, 8, 16, 32, 64) if runner.least <= size <= runner.most]
    return sorted({*sizes, runner.most})


def pictures(artifact: Artifact, count: int) -> NDArray[np.uint8]:
    """(count, H, W, 3): a drawn subject, at another place in each."""
    return np.stack([subject(*artifact.manifest.input_size, shift=16 * index) for index in range(count)])


def timed(act: Callable[[], object], seconds: float) -> list[float]:
    """Seconds of each call, for at least three and some time."""
    act()
    found: list[float] = []
    began = time.perf_counter()
    while len(found) < 3 or time.perf_counter() - began < seconds:
        started = time.perf_counter()
        act()
        found.append(time.perf_counter() - started)
    return found


def rows(artifact: Artifact, runner: PlanRunner, role: str, seconds: float) -> list[dict[str, Any]]:
    """One row per batch size: copies from and to the host's memory are inside the time."""
    manifest = artifact.manifest
    precision = manifest.files[role].precision or "fp16"
    test = load_self_test(artifact)
    found = []
    for size in batch_sizes(runner):
        print(f"batch of {size}", file=sys.stderr, flush=True)
        deviation = test.compare(runner.run(test.inputs), precision)
        batch = {manifest.inputs[0].name: pictures(artifact, size)}
        each = timed(lambda batch=batch: runner.run(batch), seconds)  # type: ignore[misc]
        found.append(
            {
                "backend": "tensorrt",
                "measured": True,
                "backbone": manifest.backbone,
                "precision": precision,
                "size": list(manifest.input_size),
                "batch": size,
                "images_per_second": round(size / median(each), 2),
                "time": summarise_ms(each),
                "max_abs": deviation.max_abs,
                "mean_abs": deviation.mean_abs,
            }
        )
    return found


def behind_the_server(artifact: Artifact, best: float, most: int, seconds: float) -> dict[str, Any]:
    """JPEG files of the working size to grey PNG mattes, through a live server."""
    flags = (
        "--backend",
        "trt",
        "--refiner",
        "none",
        "--model",
        f"measured={artifact.directory}",
        "--max-requests",
        "256",
    )
    files = []
    for picture in pictures(artifact, 4):
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, "JPEG", quality=JPEG_QUALITY)
        files.append(buffer.getvalue())
    started = time.perf_counter()
    with live_server(*flags) as live:
        ready_s = time.perf_counter() - started
        clients = CLIENTS_PER_ROW * most
        port = int(live.http.rsplit(":", 1)[1])
        answered(closed_loop(port, files, clients, seconds / 4)[0])  # not counted
        answers, wall_s = closed_loop(port, files, clients, seconds)
        live.signal()
        live.wait()
    rate = len(answered(answers)) / wall_s
    return {
        "measured": True,
        "ready_s": round(ready_s, 2),
        "clients": clients,
        "images_per_second": round(rate, 2),
        "share_of_bare": round(rate / best, 3),
        "latency": summarise_ms([answer.wall_s for answer in answers]),
    }


def answered(answers: Sequence[Answer]) -> Sequence[Answer]:
    """The answers, if every one of them is a 200: else there is no figure to write."""
    bad = [answer for answer in answers if answer.status != 200]
    if bad:
        raise RuntimeError(f"{len(bad)} of {len(answers)} requests failed, the first with {bad[0].status}")
    return answers


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """The whole result, but for what `write_result` adds."""
    with chosen(arguments) as (artifact, platform):
        role = find_plan(artifact, platform.cuda.name, platform.version)
        path = artifact.file(role)
        started = time.perf_counter()
        runner = PlanRunner(platform, path.read_bytes(), artifact.manifest)
        load_s = time.perf_counter() - started
        try:
            found = rows(artifact, runner, role, arguments.seconds)
            most = runner.most
        finally:
            runner.close()
        best = max(row["images_per_second"] for row in found)
        served: dict[str, Any] = {"measured": False, "reason": "a dry run has no GPU for the server's process"}
        if not arguments.dry_run:
            served = behind_the_server(artifact, best, most, arguments.seconds)
        return {
            "dry_run": arguments.dry_run,
            "machine": {
                **machine.describe("cuda-bindings"),
                "gpu": platform.cuda.name,
                "tensorrt": platform.version,
            },
            "model": {
                "name": artifact.manifest.name,
                "backbone": artifact.manifest.backbone,
                "size": list(artifact.manifest.input_size),
                "graph_sha256": plan_source(artifact)[1].sha256,
            },
            "plan": {
                "file": path.name,
                "mib": round(path.stat().st_size / 2**20, 1),
                "load_s": round(load_s, 2),
                **plans_of(artifact.manifest)[role].to_mapping(),
            },
            "rows": found,
            "server": served,
        }


def table(found: dict[str, Any]) -> str:
    """The rows for people."""
    head = ["batch", "images/s", "median, ms", "p95, ms", "max \\|Δα\\|", "mean \\|Δα\\|"]
    return markdown(
        head,
        [
            [
                str(row["batch"]),
                str(row["images_per_second"]),
                str(row["time"]["median_ms"]),
                str(row["time"]["p95_ms"]),
                f"{row['max_abs']:.1e}",
                f"{row['mean_abs']:.1e}",
            ]
            for row in found["rows"]
        ],
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and write."""
    parser = argparse.ArgumentParser(prog="benchmarks.plans", description=__doc__)
    parser.add_argument("artifact", nargs="?", help="artifact directory with a plan for this GPU")
    parser.add_argument("-o", "--out", type=Path, required=True, help="the JSON file")
    parser.add_argument("--device", type=int, default=0, help="index of the GPU (0)")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement (10)")
    parser.add_argument("--dry-run", action="store_true", help="a tiny model on a fake GPU")
    words = sys.argv[1:] if argv is None else list(argv)
    arguments = parser.parse_args(words)
    if arguments.artifact is None and not arguments.dry_run:
        parser.error("expected an artifact directory, or --dry-run")
    found = measure(arguments)
    write_result(arguments.out, "benchmarks.plans", words, found)
    print(table(found))
    print(json.dumps(found["server"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())

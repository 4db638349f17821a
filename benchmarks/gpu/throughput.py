"""Section `throughput`: images per second, latency and memory of the torch backend's network, by batch."""

import time
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.gpu.clock import summarised
from benchmarks.gpu.roofline import roofline
from benchmarks.gpu.subjects import Context, Subject, alpha_of, difference, release
from server.backends.torch_cuda.runners import GraphRunner, Runner

_MIB = 2.0**20
_QUALITY_IMAGES = 2


def measure_throughput(context: Context) -> None:
    """Each network at each batch; a batch that does not fit ends its network."""
    for subject in context.subjects:
        images = subject.images(max(subject.batches))
        expected = alpha_of(context.plain(subject), images[:_QUALITY_IMAGES], context.device)
        for precision, dtype in context.precisions.items():
            if precision == "fp32" and not context.dry:
                continue
            _measure(context, subject, dtype, images, expected)
            release(context.device)


def _measure(
    context: Context, subject: Subject, dtype: torch.dtype, images: NDArray[np.uint8], expected: torch.Tensor
) -> None:
    network = context.fused(subject, dtype)
    precision = "fp16" if dtype == torch.float16 else "fp32"
    for batch in subject.batches:
        # A runner of its own, as its memory shall be that of this batch.
        runner = context.runner(network, subject)
        row = subject.row(backend="torch", precision=precision, batch=batch)
        found = context.report.measure(
            row,
            partial(_row, context, subject, runner, images[:batch], expected),
        )
        del runner
        release(context.device)
        if found is None:
            break


def _row(
    context: Context, subject: Subject, runner: Runner, images: NDArray[np.uint8], expected: torch.Tensor
) -> dict[str, Any]:
    cuda = context.device.type == "cuda"
    before = torch.cuda.memory_allocated(context.device) if cuda else 0
    alpha = runner({"image": images})["alpha"].copy()
    few = min(len(images), len(expected))
    quality = difference(torch.from_numpy(alpha[:few]), expected[:few])
    whole = wall_times(context, runner, images)
    # A captured graph's pool counts as reserved, not as allocated.
    reserved = torch.cuda.memory_reserved(context.device) if cuda else 0
    device = context.clock.summary(lambda: runner.replay(len(images))) if isinstance(runner, GraphRunner) else whole
    limit = roofline(subject.config, subject.size, len(images), context.ceilings)
    return {
        **quality,
        "images_per_second": round(1000 * len(images) / whole["median_ms"], 3),
        "device_images_per_second": round(1000 * len(images) / device["median_ms"], 3),
        "time": whole,
        "device_time": device,
        "official_images_per_second": None,  # `benchmarks.gpu.merge` knows, and writes it here
        "official_compiled_images_per_second": None,
        "roofline_ms": round(limit["ms"], 4),
        "roofline_share": round(limit["ms"] / device["median_ms"], 4),
        "reserved_mib": round(reserved / _MIB, 1),
        "weights_mib": round(before / _MIB, 1),
    }


def wall_times(context: Context, runner: Runner, images: NDArray[np.uint8]) -> dict[str, float]:
    """`summarised`, of whole runs, copies between host and device included, by the host's clock."""
    found: list[float] = []
    began = time.perf_counter()
    while len(found) < context.clock.runs and (len(found) < 3 or time.perf_counter() - began < context.clock.seconds):
        started = time.perf_counter()
        runner({"image": images})
        found.append((time.perf_counter() - started) * 1000)
    return summarised(found)

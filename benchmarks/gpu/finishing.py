"""Section `finish`: what comes after the network, on the host and on the device, by the size of the image.

It decides `finish`. The host's cost is processor time, of which a server has cores times wall time; the device's is the
time in which it runs no network, copies over PCIe included.
"""

import time
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import numpy as np
import torch

from benchmarks.gpu.clock import summarised
from benchmarks.gpu.subjects import Context
from matting.composition import to_uint8
from matting.foreground import estimate_foreground
from matting.geometry import restore
from model_export.sample_inputs import subject
from server.backends.base import Finish, Finished
from server.backends.torch_cuda.finishing import finish

_SIZES = ((1024, 1024), (3000, 4000), (4000, 6000))
_DRY_SIZES = ((96, 64),)
_WORKING = (1024, 1024)
_RUNS = 5


def measure_finish(context: Context) -> None:
    """Mattes alone, and mattes with the colours of the foreground."""
    for size in _DRY_SIZES if context.dry else _SIZES:
        for colours in (False, True):
            work = example(size, (64, 64) if context.dry else _WORKING, colours=colours)
            expected = on_host(work)
            row = {"size": list(size), "colours": colours}
            for place, run in (("host", on_host), ("device", partial(finish, device=context.device))):
                context.report.measure({"place": place, **row}, partial(_row, partial(run, work), expected, work))


def example(size: tuple[int, int], working: tuple[int, int], *, colours: bool) -> Finish:
    """A photograph-like image, and a matte with as many undecided pixels as photographs of people have, some 5 %."""
    rows, columns = np.mgrid[0 : working[0], 0 : working[1]]
    far = np.hypot(rows / working[0] - 0.5, columns / working[1] - 0.5) + 0.02 * np.sin(columns / 7)
    alpha = np.clip((0.35 - far) * 40 + 0.5, 0, 1).astype(np.float32)
    return Finish(alpha, size, subject(*size) if colours else None)


def on_host(work: Finish) -> Finished:
    """As the server does it where the device does not."""
    alpha = to_uint8(restore(work.alpha, work.size))
    return Finished(alpha, None if work.rgb is None else estimate_foreground(work.rgb, alpha))


def _row(run: Callable[[], Finished], expected: Finished, work: Finish) -> dict[str, Any]:
    found = run()
    wall_ms, cpu_ms = [], []
    for _ in range(_RUNS):
        began, worked = time.perf_counter(), time.process_time()
        run()
        wall_ms.append((time.perf_counter() - began) * 1000)
        cpu_ms.append((time.process_time() - worked) * 1000)
    pixels = work.size[0] * work.size[1]
    return {
        "time": summarised(wall_ms),
        "host_cpu_ms": round(median(cpu_ms), 3),
        "pcie_bytes": work.alpha.nbytes + pixels + (6 * pixels if work.rgb is not None else 0),
        "max_levels": _levels(found.alpha, expected.alpha),
        "max_levels_colours": None if expected.rgb is None or found.rgb is None else _levels(found.rgb, expected.rgb),
        "undecided": round(float(((expected.alpha > 0) & (expected.alpha < 255)).mean()), 4),
        "device_memory_mib": _peak_mib(),
    }


def _levels(found: np.ndarray[Any, Any], expected: np.ndarray[Any, Any]) -> int:
    return int(np.abs(found.astype(np.int16) - expected.astype(np.int16)).max())


def _peak_mib() -> float | None:
    return round(torch.cuda.max_memory_allocated() / 2**20, 1) if torch.cuda.is_available() else None

"""Large images through a live server: `python -m benchmarks.high_resolution -o FILE`.

What one 6000×4000 photograph takes, in memory above the idle process and in time by stage, with and without
refinement; and how the time of refinement grows when the canvas is widened and when the scene is scaled to twice the
pixels. Methodology: `benchmarks/README.md`.
"""

import argparse
import http.client
import io
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import urlencode

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks import machine
from benchmarks.load import server_timing
from benchmarks.results import markdown, write_result
from matting.quality import band_absolute_error
from tests.support.processes import LiveServer, live_server
from training.data.sets import SETS

SCENE = ("heldout-easy", 1)  # which the embedded model gets right
RENDERED = 1536  # pixels of the sides of the scene as it is rendered, before it is enlarged
LARGE, HALF = (4000, 6000), (2828, 4243)  # of twice the pixels of the other
WIDE = (2828, 8486)
REQUESTS = {
    "upsampled matte": {"refine": "off"},
    "refined matte": {"refine": "on"},
    "refined 16-bit matte": {"refine": "on", "depth": "16"},
    "refined cutout": {"refine": "on", "output": "cutout"},
}
TIMEOUT_MS = 600_000  # the longest that the server takes, for machines that do something else too
_MIB = 1024.0
_FORGET_PEAK = "5"  # proc(5), clear_refs


@dataclass(frozen=True, slots=True)
class Upload:
    """A photograph as it is sent, and its true matte."""

    jpeg: bytes
    truth: NDArray[np.float32]


def scene(size: tuple[int, int], *, canvas: tuple[int, int] | None = None) -> Upload:
    """The scene at a size, with grain; on a wider canvas, whose rest continues the scene's border."""
    name, index = SCENE
    image, truth = SETS[name].item(index, RENDERED)
    large = cv2.resize(image, size[::-1], interpolation=cv2.INTER_CUBIC)
    alpha = np.asarray(cv2.resize(truth, size[::-1], interpolation=cv2.INTER_CUBIC), np.float32).clip(0, 1)
    if canvas is not None:
        more = canvas[1] - size[1]
        large = cv2.copyMakeBorder(large, 0, 0, 0, more, cv2.BORDER_REPLICATE)
        alpha = np.pad(alpha, ((0, 0), (0, more)))
    grain = np.random.default_rng(0).integers(-4, 5, large.shape, dtype=np.int8)
    pixels = (np.asarray(large, np.int16) + grain).clip(0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=92)
    return Upload(buffer.getvalue(), alpha)


class Usage:
    """Resident memory and processor time of a live process."""

    def __init__(self, live: LiveServer) -> None:
        self._folder = Path(f"/proc/{live.process.pid}")

    def cpu_s(self) -> float:
        """Processor time of all its threads so far, which other load on the machine hardly changes."""
        fields = (self._folder / "stat").read_text(encoding="ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def forget_peak(self) -> None:
        """Begin to look for the peak anew."""
        (self._folder / "clear_refs").write_text(_FORGET_PEAK)

    def mib(self, name: str) -> float:
        """VmRSS, what is resident now, or VmHWM, the most since `forget_peak`."""
        lines = (self._folder / "status").read_text(encoding="ascii").splitlines()
        return round(int(next(line for line in lines if line.startswith(f"{name}:")).split()[1]) / _MIB, 1)


def ask(live: LiveServer, upload: Upload, options: Mapping[str, str]) -> dict[str, Any]:
    """One request: its answer and what the server says of it."""
    connection = http.client.HTTPConnection(
        "127.0.0.1", int(live.http.rsplit(":", 1)[1]), timeout=TIMEOUT_MS / 1000 + 60
    )
    usage = Usage(live)
    started, worked = time.perf_counter(), usage.cpu_s()
    connection.request("POST", f"/segment?{urlencode({'timeout_ms': TIMEOUT_MS, **options})}", body=upload.jpeg)
    response = connection.getresponse()
    body = response.read()
    wall_s, cpu_s = time.perf_counter() - started, usage.cpu_s() - worked
    connection.close()
    if response.status != 200:
        raise RuntimeError(f"expected 200, found {response.status}: {body[:300]!r}")
    stages = {name: round(seconds, 3) for name, seconds in server_timing(response.headers["Server-Timing"]).items()}
    words = dict(word.split("=") for word in response.headers.get("X-Refine", "").split(", ") if "=" in word)
    return {
        "body": body,
        "wall_s": round(wall_s, 3),
        "cpu_s": round(cpu_s, 2),
        "stage_s": stages,
        "tiles": int(words.get("tiles", 0)),
        "dropped": int(words.get("dropped", 0)),
    }


def measure_requests(flags: Sequence[str]) -> dict[str, Any]:
    """Each kind of request in a process of its own, so that none finds the memory of another."""
    upload = scene(LARGE)
    rows = {}
    for name, options in REQUESTS.items():
        with live_server(*flags) as live:
            usage = Usage(live)
            usage.forget_peak()
            idle = usage.mib("VmRSS")
            found = ask(live, upload, options)
            peak = usage.mib("VmHWM")
            body = found.pop("body")
            rows[name] = {**found, "idle_mib": idle, "peak_above_idle_mib": round(peak - idle, 1)}
        alpha = alpha_of(body)
        rows[name]["band_error"] = round(band_absolute_error(alpha, upload.truth, 20), 5)
        print(f"{name}: {rows[name]}", file=sys.stderr)
    return rows


def alpha_of(body: bytes) -> NDArray[np.float32]:
    """The matte of an answer, in [0, 1]."""
    with Image.open(io.BytesIO(body)) as image:
        pixels = np.asarray(image)
    plane = pixels[..., 3] if pixels.ndim == 3 else pixels
    return plane.astype(np.float32) / np.float32(np.iinfo(plane.dtype).max)


def measure_growth(flags: Sequence[str], rounds: int) -> dict[str, Any]:
    """What refinement adds to a request, in turns within one process, and the ratios within each round."""
    uploads = {
        "as it is": (HALF, scene(HALF)),
        "widened": (WIDE, scene(HALF, canvas=WIDE)),
        "scaled": (LARGE, scene(LARGE)),
    }
    wall: dict[str, list[float]] = {name: [] for name in uploads}
    worked: dict[str, list[float]] = {name: [] for name in uploads}
    tiles = {}
    with live_server(*flags) as live:
        ask(live, uploads["scaled"][1], {"refine": "off"})  # warms what is done once
        for _ in range(rounds):
            for name, (_, upload) in uploads.items():
                without, found = (ask(live, upload, {"refine": mode}) for mode in ("off", "on"))
                tiles[name] = found["tiles"]
                wall[name].append(found["stage_s"]["refine"])
                worked[name].append(found["cpu_s"] - without["cpu_s"])
    rows = {}
    for name, (size, _) in uploads.items():
        rows[name] = {
            "size": list(size),
            "tiles": tiles[name],
            "refine_s": round(median(wall[name]), 3),
            "refine_ratio": _ratio(wall[name], wall["as it is"]),
            "cpu_s": round(median(worked[name]), 2),
            "cpu_ratio": _ratio(worked[name], worked["as it is"]),
        }
        print(f"{name}: {rows[name]}", file=sys.stderr)
    return rows


def _ratio(mine: Sequence[float], base: Sequence[float]) -> float:
    return round(median(one / other for one, other in zip(mine, base, strict=True)), 3)


def table(result: Mapping[str, Any]) -> str:
    """The tables of `docs/refinement.md`."""
    stages = ("decode", "infer", "refine", "encode")
    rows = [
        (
            name,
            f"{row['peak_above_idle_mib']:.0f} MiB",
            *(f"{row['stage_s'].get(stage, 0):.2f} s" for stage in stages),
            f"{row['cpu_s']:.1f} s",
            str(row["tiles"]),
            f"{row['band_error']:.4f}",
        )
        for name, row in result["requests"].items()
    ]
    growth = [
        (
            name,
            "×".join(map(str, reversed(row["size"]))),
            str(row["tiles"]),
            f"{row['refine_s']:.2f} s",
            f"{row['cpu_s']:.1f} s",
            f"{row['cpu_ratio']:.2f}",
        )
        for name, row in result["growth"].items()
    ]
    requests = markdown(("6000×4000, JPEG", "above idle", *stages, "CPU", "tiles", "error in the band"), rows)
    more = markdown(("scene", "pixels", "tiles", "refine", "CPU of refinement", "ratio of CPU"), growth)
    return f"{requests}\n\n{more}"


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--refiner", default="embedded", help="As the setting of the server.")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    flags = ("--refiner", arguments.refiner)
    found = {
        "machine": machine.describe(),
        "refiner": arguments.refiner,
        "requests": measure_requests(flags),
        "growth": measure_growth(flags, arguments.rounds),
    }
    write_result(arguments.out, "benchmarks.high_resolution", sys.argv[1:], found)
    print(table(found))


if __name__ == "__main__":
    main()

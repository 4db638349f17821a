"""What a request costs the front end: `python -m benchmarks.frontend -o benchmarks/results/frontend/NAME.json`.

A live server whose device costs as good as nothing is sent the same request again and again, over REST and over gRPC:
a photograph of 12 megapixels in 5 MB, as many bytes with hardly a pixel, and hardly a byte. The kernel says what each
thread took; py-spy, where there is one, who held the interpreter's lock, and for what. `--table FILE` prints the table
that stands in `docs/performance.md`.
"""

import argparse
import io
import json
import math
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks import machine
from benchmarks.results import markdown, write_result
from benchmarks.scenario import plan_for
from benchmarks.traffic import Outcome, run_plan
from benchmarks.vitals import children, thread_times
from tests.support.images import photographs
from tests.support.processes import LiveServer, live_server

RATE = 200  # requests per second that the figures are extrapolated to, in proportion
BYTES = 5_000_000
CLIENTS = 4
ENGINE, FRONTS = "engine", "front ends"
GROUPS = ("event loop", "headers and gRPC", "pixels and device")
SERVER = ("--backend", "fake", "--refiner", "none")  # the fake refiner would have everything refined
TRANSPORTS = {"rest": 0.0, "grpc": 1.0}  # share of requests over gRPC
IMAGES = {
    "photograph": "12 megapixels, 5 MB",
    "bytes": "64×64 pixels, 5 MB",
    "nothing": "64×64 pixels, 1 kB",
}
_SIZE = (3000, 4000)
_NOISE, _QUALITY = 8.0, 94  # of a telephone's photograph: 5 MB for 12 megapixels
_SMALL = 64
_SAMPLES_PER_S = 200

_PARTS: Sequence[tuple[str, tuple[str, ...]]] = (
    ("admission", ("server/engine/admission", "server/engine/quotas", "server/engine/uploads", "server/access/")),
    ("engine", ("server/engine/", "server/backends/")),
    ("resize", ("matting/geometry",)),
    ("decode", ("server/pipeline/decode", "server/pipeline/colour", "server/pipeline/header", "server/pipeline/conta")),
    ("encode", ("server/pipeline/encode", "server/pipeline/png", "matting/composition")),
    ("log and metrics", ("logging/", "server/observability/", "prometheus_client/")),
    ("pipeline", ("server/pipeline/",)),
    ("transport", ("server/api/", "uvicorn/", "starlette/", "fastapi/", "grpc/")),
)
"""By the innermost frame of a stack that is known: part, and what its files' names begin with below their root."""


class MeasurementError(Exception):
    """A request was not answered: there is no figure to write."""


def write_images(folder: Path, megabytes: float, size: tuple[int, int]) -> dict[str, str]:
    """The files that are sent; their paths by name."""
    photograph = Image.fromarray(photographs()["astronaut"]).resize(size[::-1], Image.Resampling.LANCZOS)
    noise = np.random.default_rng(4).normal(0, _NOISE, (*size, 3)).astype(np.float32)
    pixels = np.clip(np.rint(np.asarray(photograph) + noise), 0, 255).astype(np.uint8)
    small = _jpeg(pixels[:_SMALL, :_SMALL])
    files = {
        "photograph": _jpeg(pixels),
        "bytes": small + bytes(round(megabytes * 1e6) - len(small)),  # behind the end of an image anything may stand
        "nothing": small,
    }
    for name, data in files.items():
        (folder / f"{name}.jpg").write_bytes(data)
    return {name: str(folder / f"{name}.jpg") for name in files}


def measure(live: LiveServer, image: str, grpc_share: float, seconds: float, py_spy: str | None) -> dict[str, Any]:
    """Milliseconds per request, by process: of processor time by group of threads, of the lock by part."""

    def run(seed: int) -> Outcome:
        found = run_plan(plan_for(live, image, clients=CLIENTS, seconds=seconds, grpc_share=grpc_share, seed=seed))
        if bad := [each.outcome for each in found.exchanges if each.outcome != "ok"]:
            raise MeasurementError(f"{len(bad)} of {len(found.exchanges)} requests failed, the first with {bad[0]}")
        return found

    run(1)  # not counted
    fronts = children(live.process.pid)
    processes = {ENGINE: [live.process.pid], **({FRONTS: fronts} if fronts else {})}
    before = {name: _times(pids) for name, pids in processes.items()}
    found = run(2)
    requests, taken = len(found.exchanges), {}
    for name, pids in processes.items():
        spent = sorted(_times(pids).items())
        cpu_ms = {group: round(1e3 * (used - before[name][group]) / requests, 3) for group, used in spent}
        taken[name] = {"cpu_ms": cpu_ms}
        if py_spy is not None:
            taken[name]["lock_ms"] = _lock_ms(run, pids, py_spy, cpu_ms)
    return {
        "requests": requests,
        "requests_per_second": round(requests / found.wall_s, 2),
        "generator_cpu_percent": round(100 * found.cpu_share, 1),
        "processes": taken,
    }


def _times(pids: Sequence[int]) -> dict[str, float]:
    times = [thread_times(pid) for pid in pids]
    return {group: math.fsum(each.get(group, 0.0) for each in times) for group in GROUPS}


def _lock_ms(
    run: Callable[[int], Outcome], pids: Sequence[int], py_spy: str, cpu_ms: Mapping[str, float]
) -> dict[str, float]:
    """For how much of what their threads took processes held their locks, by part.

    Of a thread that waits for a processor it cannot be told whether it works. So samples are no measure of time, but
    those with the lock, of all in which the same threads had something to do, are a measure of share.
    """
    counts: dict[bool, dict[tuple[str, str], float]] = {}
    for locked in (False, True):
        found: Counter[tuple[str, str]] = Counter()
        with tempfile.TemporaryDirectory() as folder:
            files = {pid: Path(folder) / str(pid) for pid in pids}
            with _sampling(py_spy, files, locked=locked):
                requests = len(run(3 + locked).exchanges)
            for file in files.values():
                found.update(samples(file.read_text(encoding="utf-8")))
        counts[locked] = {key: count / requests for key, count in found.items()}
    active: defaultdict[str, float] = defaultdict(float)
    for (group, _), count in counts[False].items():
        active[group] += count
    held: defaultdict[str, float] = defaultdict(float)
    for (group, part), count in counts[True].items():
        held[part] += cpu_ms[group] * count / max(count, active[group])
    return {part: round(value, 3) for part, value in sorted(held.items())}


@contextmanager
def _sampling(py_spy: str, files: Mapping[int, Path], *, locked: bool) -> Iterator[None]:
    """Write down what the threads of processes are at while the context is open; or only of who holds the lock."""
    form = ("--nonblocking", "--threads", "--rate", str(_SAMPLES_PER_S), "--duration", "3600", "--format", "raw")
    command = [py_spy, "record", *form, *(["--gil"] if locked else [])]
    spies = [
        subprocess.Popen(
            [*command, "--output", str(file), "--pid", str(pid)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        for pid, file in files.items()
    ]
    try:
        yield
    finally:
        for spy in spies:
            spy.send_signal(signal.SIGINT)  # as from the keyboard: it writes what it has
        for spy in spies:
            spy.wait(60)


def samples(stacks: str) -> "Counter[tuple[str, str]]":
    """Samples by group of threads and part, from py-spy's raw stacks: frames, the innermost last, and a count."""
    found: Counter[tuple[str, str]] = Counter()
    for line in stacks.splitlines():
        stack, _, count = line.rpartition(" ")
        thread, *frames = stack.split(";")
        name = thread.rpartition(": ")[2]
        group = "headers and gRPC"
        if name == "MainThread":
            group = "event loop"
        elif name.startswith(("host", "device-")):
            group = "pixels and device"
        found[group, _part(frames) or group] += int(count)
    return found


def _part(frames: Sequence[str]) -> str | None:
    for frame in reversed(frames):
        for part, files in _PARTS:
            if any(name in frame for name in files):
                return part
    return None


def table(result: Mapping[str, Any]) -> str:
    """What a request takes, and what `RATE` of them a second would, as Markdown."""
    rows = []
    for row in result["cases"]:
        for name, taken in row["processes"].items():
            cpu, lock = taken["cpu_ms"], taken.get("lock_ms")
            figures = [cpu["event loop"], sum(lock.values()) if lock else None, cpu["pixels and device"]]
            told = (("–", "–") if each is None else (f"{each:.1f}", f"{RATE * each / 1e3:.2f}") for each in figures)
            rows.append((_case(row), _process(row, name), *(cell for pair in told for cell in pair)))
    at = f"{RATE}/s, cores"
    head = ["request", "process", "event loop, ms", at, "interpreter's lock, ms", at, "threads for pixels, ms", at]
    return markdown(head, rows)


def parts_table(result: Mapping[str, Any]) -> str:
    """Who holds the interpreter's lock for how many milliseconds per request, in one process alone, as Markdown."""
    found = {
        _case(row): row["processes"][ENGINE]["lock_ms"]
        for row in result["cases"]
        if row["frontends"] == 1 and "lock_ms" in row["processes"][ENGINE]
    }
    names = {part for lock in found.values() for part in lock}
    ranked = sorted(names, key=lambda part: -max(lock.get(part, 0.0) for lock in found.values()))
    rows = ([name, *(f"{lock.get(name, 0.0):.2f}" for lock in found.values())] for name in ranked)
    return markdown(["lock held, ms", *found], rows)


def _case(row: Mapping[str, Any]) -> str:
    return f"{IMAGES[row['image']]}, {row['transport']}"


def _process(row: Mapping[str, Any], name: str) -> str:
    return "the only one" if row["frontends"] == 1 else name.replace("front ends", f"{row['frontends']} front ends")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and write, or print the tables of what was measured."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.frontend", description=__doc__)
    parser.add_argument("-o", "--out", type=Path, help="where the JSON goes")
    parser.add_argument("--table", type=Path, metavar="FILE", help="print the tables of a result, and measure nothing")
    parser.add_argument("--seconds", type=float, default=15.0, help="length of one run")
    parser.add_argument(
        "--py-spy", default=shutil.which("py-spy"), help="its path; without it the lock is not measured"
    )
    parser.add_argument("--frontends", type=int, nargs="+", default=[1, 2], help="front ends of the servers")
    parser.add_argument("--quick", action="store_true", help="small images and short runs, to see that it works")
    arguments = parser.parse_args(argv)
    if arguments.table:
        result = json.loads(arguments.table.read_text(encoding="utf-8"))
        print(table(result), parts_table(result), sep="\n\n")
        return 0
    if arguments.out is None:
        parser.error("one of --out and --table is needed")
    described = machine.describe()  # first: the load average is to be that of the machine without us
    seconds, megabytes, size = (0.5, 0.1, (300, 400)) if arguments.quick else (arguments.seconds, BYTES / 1e6, _SIZE)
    cases: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        files = write_images(Path(folder), megabytes, size)
        for transport, grpc_share in TRANSPORTS.items():
            for name, path in files.items():
                size_bytes = Path(path).stat().st_size
                for count in arguments.frontends:
                    flags = (*SERVER, "--frontends", str(count))
                    with live_server(*flags) as live:  # each on its own: what one leaves behind is not the next one's
                        found = measure(live, path, grpc_share, seconds, arguments.py_spy or None)
                    case = {"image": name, "bytes": size_bytes, "transport": transport, "frontends": count}
                    cases.append({**case, **found})
    words = sys.argv[1:] if argv is None else list(argv)
    found = {"machine": described, "server": list(SERVER), "clients": CLIENTS, "rate": RATE, "cases": cases}
    write_result(arguments.out, "benchmarks.frontend", words, found)
    return 0


def _jpeg(pixels: Any) -> bytes:  # noqa: ANN401 - (H, W, 3) uint8
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "JPEG", quality=_QUALITY)
    return buffer.getvalue()


if __name__ == "__main__":
    raise SystemExit(main())

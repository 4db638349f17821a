"""One graph in one process: `measure` starts it, and it says how long its batches took and what memory it needed.

Kept free of torch and of this repository's heavier parts, so that the memory is ONNX Runtime's and the graph's.
"""

import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from benchmarks.load import summarise_ms
from model_export.sample_inputs import subject

MEGABYTES_PER_MIB = 1.048576
SERVED = {"session.intra_op.allow_spinning": "0", "session.inter_op.allow_spinning": "0"}
_LEVELS = {
    "none": onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
}
_ROOT = Path(__file__).parents[1]


@dataclass(frozen=True, slots=True)
class SessionSettings:
    """How ONNX Runtime runs a graph on the CPU; the defaults are those of `server.backends.ort`.

    Attributes:
        threads: Inside one operator.
        level: Of graph optimisation: none, basic, extended, all.
        memory_pattern: Plan one buffer per batch size.
        arena: Keep freed memory for the next tensors.
        entries: Session configuration entries, over `SERVED`.
    """

    threads: int = 2
    level: str = "all"
    memory_pattern: bool = False
    arena: bool = True
    entries: Mapping[str, str] = field(default_factory=dict)

    def options(self) -> onnxruntime.SessionOptions:
        """As ONNX Runtime takes them."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = self.threads, 1
        options.graph_optimization_level = _LEVELS[self.level]
        options.enable_mem_pattern, options.enable_cpu_mem_arena = self.memory_pattern, self.arena
        options.log_severity_level = 3
        for key, value in (SERVED | dict(self.entries)).items():
            options.add_session_config_entry(key, value)
        return options


@dataclass(frozen=True, slots=True)
class Case:
    """One thing to measure.

    Attributes:
        name: Of the row.
        graph: ONNX file with the matte contract.
        settings: How it is run.
        batch: Images at once.
    """

    name: str
    graph: Path
    settings: SessionSettings = field(default_factory=SessionSettings)
    batch: int = 1


@dataclass(frozen=True, slots=True)
class Sample:
    """What one process found.

    Attributes:
        seconds: Of each batch after the first.
        cpu_seconds: Of all threads, for each of those batches: what other load on the machine hardly changes.
        load_s: Until the session could be used.
        ready_mib: Resident once loaded and run once.
        peak_mib: Highest resident memory of the whole process, loading included.
    """

    seconds: list[float]
    cpu_seconds: list[float]
    load_s: float
    ready_mib: float
    peak_mib: float


def run(case: Case, runs: int) -> Sample:
    """Measure a case in a process of its own."""
    order = {**asdict(case), "graph": str(case.graph), "runs": runs}
    command = [sys.executable, "-m", "benchmarks.inference", json.dumps(order)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=_ROOT)
    if done.returncode:
        raise RuntimeError(f"{case.name}: expected a measurement, found status {done.returncode}: {done.stderr[-500:]}")
    return Sample(**json.loads(done.stdout))


def run_in_turn(cases: Sequence[Case], rounds: int, runs: int) -> list[dict[str, Any]]:
    """Measure cases A B C A B C …, so that a machine whose speed drifts treats them alike.

    Args:
        cases: The first is what the others are compared with.
        rounds: Processes of each case.
        runs: Batches that count in each process.

    Returns:
        For each case `time` (milliseconds of an image) and `cpu_ms` (its median processor time), `ratio` and
        `cpu_ratio` (medians over the rounds of each over the first case's in the same round), `load_s`, `ready_mib`
        and `peak_mib` (medians).
    """
    samples: list[list[Sample]] = [[] for _ in cases]
    for turn in range(rounds):
        for case, found in zip(cases, samples, strict=True):
            print(f"round {turn + 1} of {rounds}: {case.name}", file=sys.stderr, flush=True)
            found.append(run(case, runs))
    return [_summary(case, found, cases[0], samples[0]) for case, found in zip(cases, samples, strict=True)]


def _summary(case: Case, found: list[Sample], base: Case, of_base: list[Sample]) -> dict[str, Any]:
    each = [second / case.batch for sample in found for second in sample.seconds]
    rounds = list(zip(found, of_base, strict=True))
    share = base.batch / case.batch
    ratios = [share * median(sample.seconds) / median(other.seconds) for sample, other in rounds]
    cpu_ratios = [share * median(sample.cpu_seconds) / median(other.cpu_seconds) for sample, other in rounds]
    return {
        "time": summarise_ms(each),
        "ratio": round(median(ratios), 3),
        "cpu_ms": round(median(second for sample in found for second in sample.cpu_seconds) / case.batch * 1000, 2),
        "cpu_ratio": round(median(cpu_ratios), 3),
        "load_s": round(median(sample.load_s for sample in found), 3),
        "ready_mib": round(median(sample.ready_mib for sample in found), 1),
        "peak_mib": round(median(sample.peak_mib for sample in found), 1),
    }


def images(size: Sequence[int], batch: int) -> NDArray[np.uint8]:
    """A drawn subject, at another place in each image of the batch."""
    return np.stack([subject(size[0], size[1], shift=16 * index) for index in range(batch)])


def alpha_of(graph: Path, pictures: NDArray[np.uint8], settings: SessionSettings | None = None) -> NDArray[np.float32]:
    """What a graph answers, image by image; runs in this process."""
    options = (settings or SessionSettings()).options()
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    alphas = [session.run(["alpha"], {"image": picture[None]})[0] for picture in pictures]
    return np.concatenate(alphas)


def _resident(name: str) -> float:
    """MiB; `VmRSS` is now, `VmHWM` the highest since the process began."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return round(next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024, 1)


def _measure(order: dict[str, Any]) -> Sample:
    settings = SessionSettings(**order["settings"])
    started = time.perf_counter()
    session = onnxruntime.InferenceSession(order["graph"], settings.options(), providers=["CPUExecutionProvider"])
    load_s = time.perf_counter() - started
    feed = {"image": images(session.get_inputs()[0].shape[1:3], order["batch"])}
    session.run(["alpha"], feed)
    ready = _resident("VmRSS")
    seconds, cpu_seconds = [], []
    for _ in range(order["runs"]):
        started, cpu_started = time.perf_counter(), time.process_time()
        session.run(["alpha"], feed)
        seconds.append(time.perf_counter() - started)
        cpu_seconds.append(time.process_time() - cpu_started)
    return Sample(seconds, cpu_seconds, load_s, ready, _resident("VmHWM"))


if __name__ == "__main__":
    print(json.dumps(asdict(_measure(json.loads(sys.argv[1])))))

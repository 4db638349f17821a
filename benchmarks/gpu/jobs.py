"""Sections that are commands of the repository: `tests` (`pytest -m gpu`), `train` (the refiner), `train_matte`."""

import csv
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from benchmarks.gpu.subjects import EMBEDDED_WEIGHTS, ROOT, Context

Words: TypeAlias = Sequence[str]

_KERNEL_TESTS = ("tests/parity/test_fused_kernels.py", "tests/parity/test_fused_network.py")
_LAST = 4000  # characters of a command's output that are kept
_BATCH, _WORKERS = 64, 15
_MATTE_PHASES = "256x64:0.6,384x32:1"


def run_tests(context: Context) -> None:
    """The tests that need a GPU, and those of our kernels, which are compiled where there is one."""
    # Warnings are errors in our own environment; what other versions warn of says nothing about a GPU.
    pytest = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "default"]
    pytest += ["--collect-only"] if context.dry else []
    # By file: others may not be importable on a bare machine.
    files = [path for path in sorted(ROOT.glob("tests/**/test_*.py")) if "mark.gpu" in path.read_text("utf-8")]
    marked = [*pytest, "-m", "gpu", *(str(path.relative_to(ROOT)) for path in files)]
    context.report.measure({"name": "pytest -m gpu"}, lambda: _ran(marked, limit_s=300))
    kernels = [*pytest, "-m", "not gpu and not slow", *_KERNEL_TESTS]
    context.report.measure({"name": "pytest of the kernels"}, lambda: _ran(kernels, limit_s=300))


@dataclass(frozen=True, slots=True)
class _Training:
    """A network's training as commands of `python -m training`.

    Attributes:
        folder: Where it works.
        of: The words by which the commands know the network: none for the matte network.
        result: Name of the measurement, which begins with "train"; those of evaluation and curve end as it does.
        weights: File of the trained weights, without the optimiser's state, which is three times as large.
        options: Of the training, with its budget.
        score: Options of the evaluation.
    """

    folder: Path
    of: Words
    result: str
    weights: str
    options: Words
    score: Words


def train_refiner(context: Context) -> None:
    """Train the refiner on procedural data, on the GPU, with as many processes for the data as there are cores."""
    folder, workers = context.folder / "refiner", ("--workers", str(_WORKERS), "--threads", "1")
    init = () if context.init is None else ("--init", str(context.init))
    options: Words = ("--batch", str(_BATCH), *workers, "--device", "cuda", "--bf16", *_budget(context), *init)
    score: Words = ("--threads", "8")
    if context.dry:
        options, score = ("--batch", "2", "--window", "48", "--steps", "2"), ("--count", "1", "--size", "48")
    _train(context, _Training(folder, ("refiner",), "train", "refiner.safetensors", options, score))


def train_matte(context: Context) -> None:
    """Train the embedded matte network from what is committed, on images that the GPU puts together."""
    folder, init = context.folder / "matte", ("--init", str(context.init or EMBEDDED_WEIGHTS))
    images = ("--set", "rich", "--recomposed", "6000", "--workers", str(_WORKERS))
    recipe = ("--phases", _MATTE_PHASES, "--rate", "1.5e-3", "--seed", "51", "--device", "cuda", "--bf16")
    options: Words = (*recipe, *images, *init, *_budget(context))
    score: Words = ("--count", "200", "--workers", "8")
    if context.dry:
        options = ("--phases", "64x4:1", "--set", "rich", "--recomposed", "4", *init, "--steps", "1")
        score = ("--count", "1", "--size", "64")
    score = ("--out", str(folder / "report"), *score)
    _train(context, _Training(folder, (), "train matte", "matte.safetensors", options, score))


def _budget(context: Context) -> tuple[str, str]:
    return "--hours", str(context.minutes / 60)


def _train(context: Context, training: _Training) -> None:
    folder, program = training.folder, ("-m", "training")
    trained = folder / training.weights
    train = (*program, *training.of, "train", *training.options, "--out", str(folder))
    command = f"python {' '.join(train)}"
    weights = (*program, *training.of, "weights", str(folder / "last.safetensors"), "--out", str(trained))
    score = (*program, *training.of, "evaluate", str(trained), *training.score)
    curve = (*program, "curve", str(folder / "log.csv"), "--out", str(folder / "curve.png"))

    def run() -> dict[str, Any]:
        found = _ran(train, limit_s=60 * context.minutes + 120)
        _ran((*weights, "--command", command), limit_s=60)
        shutil.copy(trained, context.out / training.weights)
        return {**found, "command": command, **_progress(folder / "log.csv")}

    if context.report.measure({"name": training.result}, run) is None:
        return
    what = training.result.removeprefix("train")
    context.report.measure({"name": f"evaluate{what}"}, lambda: _ran(score, limit_s=240))
    if not context.dry:
        context.report.measure({"name": f"curve{what}"}, lambda: _ran(curve, limit_s=60))
    _keep(folder, context.out)


def _keep(folder: Path, out: Path) -> None:
    for name in ("log.csv", "curve.png", "report/evaluation.json"):
        if (folder / name).exists():
            shutil.copy(folder / name, out / f"{folder.name}-{Path(name).name}")
    shutil.rmtree(folder)


def _ran(words: Words, limit_s: float) -> dict[str, Any]:
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, *words], cwd=ROOT, capture_output=True, text=True, check=False, timeout=limit_s
    )
    output = (done.stdout + done.stderr)[-_LAST:]
    if done.returncode:
        raise RuntimeError(f"status {done.returncode}: …{output[-1500:]}".replace("\n", " ¶ "))
    return {"seconds": round(time.monotonic() - began, 1), "output": output.splitlines()[-12:]}


def _progress(log: Path) -> dict[str, Any]:
    with log.open(newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows:
        return {"log_rows": 0}
    last = {name: float(value) for name, value in rows[-1].items()}
    return {
        "log_rows": len(rows),
        "last": last,
        "steps_per_second": round(last["step"] / max(last["seconds"], 1e-9), 2),
    }

"""Sections that are commands of the repository: `tests` (`pytest -m gpu`), `train` (the refiner), `train_matte`."""

import csv
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu.subjects import EMBEDDED_WEIGHTS, ROOT, Context

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


def train_refiner(context: Context) -> None:
    """Train the refiner on procedural data, on the GPU, with as many processes for the data as there are cores."""
    folder = context.folder / "refiner"
    minutes = context.minutes
    options = ["--batch", str(_BATCH), "--workers", str(_WORKERS), "--threads", "1", "--device", "cuda", "--bf16"]
    budget = ["--hours", str(minutes / 60), *(["--init", str(context.init)] if context.init is not None else [])]
    if context.dry:
        options, budget = ["--batch", "2", "--window", "48", "--device", "cpu"], ["--steps", "2"]
    train = ["-m", "training", "refiner", "train", *options, *budget, "--out", str(folder)]
    weights = ["-m", "training", "refiner", "weights", str(folder / "last.safetensors")]
    score = ["-m", "training", "refiner", "evaluate", str(folder / "refiner.safetensors")]
    score += ["--count", "1", "--size", "48"] if context.dry else ["--threads", "8"]
    command = f"python {' '.join(train)}"
    curve = ["-m", "training", "curve", str(folder / "log.csv"), "--out", str(folder / "curve.png")]

    def run() -> dict[str, Any]:
        found = _ran(train, limit_s=60 * minutes + 90)
        _ran([*weights, "--out", str(folder / "refiner.safetensors"), "--command", command], limit_s=60)
        # Compact: the optimiser's state is three times the weights, and is left behind.
        shutil.copy(folder / "refiner.safetensors", context.out / "refiner.safetensors")
        return {**found, "command": command, **_progress(folder / "log.csv")}

    if context.report.measure({"name": "train"}, run) is None:
        return
    context.report.measure({"name": "evaluate"}, lambda: _ran(score, limit_s=240))
    if not context.dry:
        context.report.measure({"name": "curve"}, lambda: _ran(curve, limit_s=60))
    _keep(folder, context.out)


def train_matte(context: Context) -> None:
    """Train the embedded matte network from what is committed, on images that the GPU puts together."""
    folder, minutes = context.folder / "matte", context.minutes
    init = context.init or EMBEDDED_WEIGHTS
    options = ["--device", "cuda", "--bf16", "--set", "rich", "--recomposed", "6000", "--workers", str(_WORKERS)]
    options += ["--phases", _MATTE_PHASES, "--rate", "1.5e-3", "--seed", "51", "--init", str(init)]
    budget = ["--hours", str(minutes / 60)]
    if context.dry:
        options = ["--phases", "64x4:1", "--set", "rich", "--recomposed", "4", "--init", str(init)]
        budget = ["--steps", "1"]
    train = ["-m", "training", "train", *options, *budget, "--out", str(folder)]
    weights = ["-m", "training", "weights", str(folder / "last.safetensors")]
    score = ["-m", "training", "evaluate", str(folder / "matte.safetensors"), "--out", str(folder / "report")]
    score += ["--count", "1", "--size", "64"] if context.dry else ["--count", "200", "--workers", "8"]
    curve = ["-m", "training", "curve", str(folder / "log.csv"), "--out", str(folder / "curve.png")]
    command = f"python {' '.join(train)}"

    def run() -> dict[str, Any]:
        found = _ran(train, limit_s=60 * minutes + 120)
        _ran([*weights, "--out", str(folder / "matte.safetensors"), "--command", command], limit_s=60)
        shutil.copy(folder / "matte.safetensors", context.out / "matte.safetensors")
        return {**found, "command": command, **_progress(folder / "log.csv")}

    if context.report.measure({"name": "train matte"}, run) is None:
        return
    context.report.measure({"name": "evaluate matte"}, lambda: _ran(score, limit_s=240))
    if not context.dry:
        context.report.measure({"name": "curve matte"}, lambda: _ran(curve, limit_s=60))
    _keep(folder, context.out)


def _keep(folder: Path, out: Path) -> None:
    for name in ("log.csv", "curve.png", "report/evaluation.json"):
        if (folder / name).exists():
            shutil.copy(folder / name, out / f"{folder.name}-{Path(name).name}")
    shutil.rmtree(folder)


def _ran(words: Sequence[str], limit_s: float) -> dict[str, Any]:
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

"""One small training from nothing, and how good its network is on held-out images."""

import json
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from tqdm import tqdm

from training.checkpoint import ema_weights
from training.config import TrainingConfig
from training.data.pool import PoolSource
from training.data.sets import SETS
from training.evaluate import evaluate, means
from training.lean import LeanBiRefNet
from training.loop import Cadence, Run

HELD_OUT = ("heldout-easy", "heldout-hard")
FIGURES = ("mae", "iou", "boundary_iou", "mba")


@dataclass(frozen=True)
class Plan:
    """What all trials of a comparison have in common.

    Attributes:
        pool: Where their images come from (`training.data.pool`).
        size: Side of the images, in training and in evaluation.
        count: Held-out images of each set.
        seeds: One trial each of every variant.
    """

    pool: Path
    size: int
    count: int
    seeds: tuple[int, ...]


def run_trial(config: TrainingConfig, plan: Plan, seed: int) -> dict[str, Any]:
    """Train a network from nothing and measure its average.

    Returns:
        `steps`, `seconds` of running time, and `sets`: the `FIGURES` of each held-out set.
    """
    config = replace(config, seed=seed)
    with tempfile.TemporaryDirectory() as folder:
        run = Run(config, Path(folder), Cadence(workers=0), source=PoolSource((plan.pool,), seed))
        run.train()
        network = LeanBiRefNet(config.network)
        network.load_state_dict(ema_weights(run.checkpoint))
    sets = {}
    for name in HELD_OUT:
        table = means(evaluate(network, SETS[name], plan.size, plan.count))
        sets[name] = {figure: round(table[figure], 5) for figure in FIGURES}
    return {"steps": run.progress.step, "seconds": round(run.progress.elapsed, 1), "sets": sets}


def run_trials(variants: Mapping[str, TrainingConfig], plan: Plan, out: Path, about: Mapping[str, Any]) -> list[Any]:
    """Every variant with every seed, seed by seed; what `out` holds already is not run again.

    Args:
        variants: By name.
        plan: Common to all.
        out: JSON with `about` and `trials`, rewritten after each trial.
        about: What else the file says; a file that says something else is not continued.

    Raises:
        ValueError: `out` is of another comparison.
    """
    trials: list[Any] = []
    if out.exists():
        found = json.loads(out.read_text())
        if found["about"] != about:
            raise ValueError(f"{out} is of another comparison ({found['about']}): remove it or choose another file")
        trials = found["trials"]
    done = {(trial["variant"], trial["seed"]) for trial in trials}
    todo = [(name, seed) for seed in plan.seeds for name in variants if (name, seed) not in done]
    for name, seed in tqdm(todo, unit="trial"):
        begin = time.perf_counter()
        trials.append({"variant": name, "seed": seed, **run_trial(variants[name], plan, seed)})
        trials[-1]["wall_seconds"] = round(time.perf_counter() - begin, 1)
        out.parent.mkdir(parents=True, exist_ok=True)
        unfinished = out.with_suffix(".part")
        unfinished.write_text(json.dumps({"about": dict(about), "trials": trials}, indent=1) + "\n")
        unfinished.replace(out)
    return trials


def as_table(trials: Iterable[Mapping[str, Any]], sets: Iterable[str] = HELD_OUT) -> str:
    """Markdown: a row for each variant, mean ± standard deviation over its seeds (no ± for a single one)."""
    by_variant: dict[str, list[Mapping[str, Any]]] = {}
    for trial in trials:
        by_variant.setdefault(trial["variant"], []).append(trial)
    columns = [(name, figure) for name in sets for figure in FIGURES]
    lines = [
        "| variant | seeds | steps | " + " | ".join(f"{name}: {figure}" for name, figure in columns) + " |",
        "|---|---:|---:|" + "---:|" * len(columns),
    ]
    for variant, rows in by_variant.items():
        steps = round(mean(row["steps"] for row in rows))
        cells = [_cell([row["sets"][name][figure] for row in rows]) for name, figure in columns]
        lines.append(f"| {variant} | {len(rows)} | {steps} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def as_differences(trials: Iterable[Mapping[str, Any]], sets: Iterable[str] = HELD_OUT) -> str:
    """Markdown: what every other variant's error and IoU are above those of the first one with the same seed.

    Trials of one seed saw the same images from the same beginning, so that differences vary less than their figures.
    """
    every = list(trials)
    first = {trial["seed"]: trial for trial in every if trial["variant"] == every[0]["variant"]}
    others: dict[str, list[Mapping[str, Any]]] = {}
    for trial in every:
        if trial["variant"] != every[0]["variant"] and trial["seed"] in first:
            others.setdefault(trial["variant"], []).append(trial)
    columns = [(name, figure) for name in sets for figure in ("iou", "mae")]
    lines = [
        f"| against {every[0]['variant']} | " + " | ".join(f"{name}: {figure}" for name, figure in columns) + " |",
        "|---|" + "---:|" * len(columns),
    ]
    for variant, rows in others.items():
        pairs = [(row["sets"], first[row["seed"]]["sets"]) for row in rows]
        cells = [_cell([own[name][key] - other[name][key] for own, other in pairs], "+") for name, key in columns]
        lines.append(f"| {variant} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(values: list[float], sign: str = "") -> str:
    return f"{mean(values):{sign}.3f}" + (f" ± {stdev(values):.3f}" if len(values) > 1 else "")

"""How the embedded model runs best on a CPU: `python -m benchmarks.cpu --out benchmarks/results/cpu/NAME.json`.

ONNX Runtime's settings and other precisions, each in processes of its own and in turn with the others; quality on
held-out procedural photographs stands beside every speed. `--table FILE` prints the table of `docs/export.md`.
"""

import argparse
import hashlib
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from artifact import open_artifact
from benchmarks import machine, precisions
from benchmarks.inference import MEGABYTES_PER_MIB, Case, SessionSettings, alpha_of, run_in_turn
from benchmarks.results import markdown, write_result
from matting.quality import iou, mean_absolute_error
from server import default_model
from training.data.sets import SETS

QUALITY_SETS = ("heldout-easy", "heldout", "heldout-hard")


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to run the model; what is not named is as the server has it."""

    name: str
    settings: SessionSettings = SessionSettings()  # noqa: RUF009  frozen
    convert: Callable[[Path, Path], None] | None = None
    batch: int = 1


def _entry(key: str) -> SessionSettings:
    return SessionSettings(entries={key: "1"})


SERVED = "as served"
VARIANTS = (
    Variant(SERVED),
    Variant("batch of 2", batch=2),
    Variant("1 thread", SessionSettings(threads=1)),
    Variant("threads spin", _entry("session.intra_op.allow_spinning")),
    Variant("memory pattern", SessionSettings(memory_pattern=True)),
    Variant("no arena", SessionSettings(arena=False)),
    Variant("graph optimisation: none", SessionSettings(level="none")),
    Variant("graph optimisation: basic", SessionSettings(level="basic")),
    Variant("graph optimisation: extended", SessionSettings(level="extended")),
    Variant("graph optimised beforehand", SessionSettings(level="none"), precisions.optimised),
    Variant("denormals are zero", _entry("session.set_denormal_as_zero")),
    Variant("no prepacked weights", _entry("session.disable_prepacking")),
    Variant("approximate GELU", _entry("optimization.enable_gelu_approximation")),
    Variant("fp16", convert=precisions.half),
    Variant("int8 products, dynamic", convert=precisions.dynamic_int8),
    Variant("int8 products, static", convert=precisions.static_int8(*precisions.PRODUCTS)),
    Variant("int8 products and convolutions", convert=precisions.static_int8(*precisions.PRODUCTS, "Conv")),
)


class Quality:
    """Held-out photographs with their mattes, and the served model's answers to them."""

    def __init__(self, side: int, count: int) -> None:
        self._sets = {name: [SETS[name].item(index, side) for index in range(count)] for name in QUALITY_SETS}
        self._served: dict[str, NDArray[np.float32]] = {}
        self.count = count

    def measure(self, case: Case) -> dict[str, Any]:
        """Error against the truth by set, and against the first case that was measured, over all sets."""
        sets, worst, means = {}, [], []
        for name, items in self._sets.items():
            alphas = alpha_of(case.graph, np.stack([image for image, _ in items]), case.settings)
            difference = np.abs(alphas - self._served.setdefault(name, alphas))
            worst.append(float(difference.max()))
            means.append(float(difference.mean()))
            pairs = [(alpha, truth) for alpha, (_, truth) in zip(alphas, items, strict=True)]
            sets[name] = {
                "mean_absolute_error": round(float(np.mean([mean_absolute_error(*pair) for pair in pairs])), 5),
                "iou": round(float(np.mean([iou(*pair) for pair in pairs])), 5),
            }
        return {
            "images_per_set": self.count,
            "sets": sets,
            "max_alpha_difference": max(worst),
            "mean_alpha_difference": float(np.mean(means)),
        }


def measure(graph: Path, variants: Sequence[Variant], effort: "Effort") -> list[dict[str, Any]]:
    """The row of every variant; the first is what the others are compared with."""
    with tempfile.TemporaryDirectory(prefix="birefnet-cpu-") as scratch:
        cases = [_case(variant, graph, Path(scratch)) for variant in variants]
        timings = run_in_turn(cases, effort.rounds, effort.runs)
        quality = Quality(effort.side, effort.images)
        return [
            {
                "variant": case.name,
                "batch": case.batch,
                "file_mb": round(case.graph.stat().st_size / 1e6, 2),
                **timing,
                "quality": quality.measure(case),
            }
            for case, timing in zip(cases, timings, strict=True)
        ]


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured: processes, batches in each, held-out images of each set, and their side in pixels."""

    rounds: int
    runs: int
    images: int
    side: int


def _case(variant: Variant, graph: Path, folder: Path) -> Case:
    path = graph
    if variant.convert is not None:
        path = folder / f"{variant.name.replace(' ', '-')}.onnx"
        variant.convert(graph, path)
    return Case(variant.name, path, variant.settings, variant.batch)


def table(result: dict[str, Any]) -> str:
    """The Markdown table of a result; quality against the truth is that on the mixed set."""
    speed = ("ms/image", "ratio", "CPU, ms", "CPU, ratio", "ready, MB", "peak, MB", "load, s")
    quality = ("MAE", "IoU", "max \\|Δα\\|", "mean \\|Δα\\|")
    return markdown(("variant", *speed, *quality), (_cells(row) for row in result["variants"]))


def _cells(row: dict[str, Any]) -> list[str]:
    quality = row["quality"]
    return [
        row["variant"],
        f"{row['time']['median_ms']:.1f}",
        f"{row['ratio']:.2f}",
        f"{row['cpu_ms']:.1f}",
        f"{row['cpu_ratio']:.2f}",
        f"{row['ready_mib'] * MEGABYTES_PER_MIB:.0f}",
        f"{row['peak_mib'] * MEGABYTES_PER_MIB:.0f}",
        f"{row['load_s']:.2f}",
        f"{quality['sets']['heldout']['mean_absolute_error']:.4f}",
        f"{quality['sets']['heldout']['iou']:.4f}",
        f"{quality['max_alpha_difference']:.0e}",
        f"{quality['mean_alpha_difference']:.0e}",
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and write, or print the table of what was measured."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cpu", description=__doc__)
    parser.add_argument("-o", "--out", type=Path, help="where the JSON goes")
    parser.add_argument("--table", type=Path, metavar="FILE", help="print the table of a result, and measure nothing")
    parser.add_argument("--rounds", type=int, default=7, help="processes of each variant")
    parser.add_argument("--runs", type=int, default=10, help="batches that count in each process")
    parser.add_argument("--images", type=int, default=50, help="held-out photographs of each set")
    arguments = parser.parse_args(argv)
    if arguments.table:
        print(table(json.loads(arguments.table.read_text(encoding="utf-8"))))
        return 0
    if arguments.out is None:
        parser.error("one of --out and --table is needed")
    described = machine.describe("onnx")
    artifact = open_artifact(default_model.directory())
    graph = artifact.file("model")
    size = artifact.manifest.input_size
    effort = Effort(arguments.rounds, arguments.runs, arguments.images, size[0])
    model = {
        "name": artifact.manifest.name,
        "graph_sha256": hashlib.sha256(graph.read_bytes()).hexdigest(),
        "size": list(size),
    }
    rows = measure(graph, VARIANTS, effort)
    words = sys.argv[1:] if argv is None else list(argv)
    write_result(arguments.out, "benchmarks.cpu", words, {"machine": described, "model": model, "variants": rows})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""What each exact rewrite saves: `python -m benchmarks.folds --out benchmarks/results/export/folds-NAME.json`.

Every network is exported once as it is and once more after each rewrite, on top of those before it. Multiplications,
activations and nodes are read off the graphs; time and memory are measured in ONNX Runtime, one process a graph, the
graphs in turn; and what the graphs answer is compared. `--table FILE` prints the table of `docs/export.md` from a
result.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from benchmarks.graph_cost import graph_cost
from benchmarks.graphs import Subject, folded_graphs
from benchmarks.inference import MEGABYTES_PER_MIB, Case, alpha_of, images, run_in_turn
from benchmarks.networks import Runner, run
from benchmarks.results import markdown

DEFAULT = ("embedded:384", "swin_v1_t:1024", "swin_v1_l:1024")
TITLES = {
    "unfolded": "as trained",
    "batch norms": "batch normalisations into convolutions",
    "tail": "last 1×1 convolution before the last upsampling",
    "image patches": "the two convolutions over the image as one",
    "laterals": "laterals before upsampling",
    "pooled branch": "pooled branch as a bias",
    "summed branches": "branches summed, not concatenated",
    "sampling": "offsets and modulation in one convolution",
    "attention": "attention biases and masks as constants",
}


def measure(subject: Subject, graphs: Path, rounds: int, runs: int) -> dict[str, Any]:
    """The row of every stage of one network; no round leaves time and memory out."""
    found = folded_graphs(subject, graphs)
    rows = [_cost(stage, path) for stage, path in found]
    if rounds:
        measured = run_in_turn([Case(stage, path) for stage, path in found], rounds, runs)
        picture = images(subject.size, 1)
        alphas = [alpha_of(path, picture) for _, path in found]
        rows = [
            row | timing | {"max_alpha_difference": float(np.abs(alpha - alphas[0]).max())}
            for row, timing, alpha in zip(rows, measured, alphas, strict=True)
        ]
    return {"network": subject.network, "size": list(subject.size), "stages": rows}


def _cost(stage: str, path: Path) -> dict[str, Any]:
    cost = graph_cost(onnx.load(path))
    return {
        "stage": stage,
        "nodes": cost.nodes,
        "macs": cost.macs,
        "activation_bytes": cost.activation_bytes,
        "peak_activation_bytes": cost.peak_bytes,
    }


def table(result: dict[str, Any]) -> str:
    """The Markdown tables of a result, one for each network."""
    return "\n\n".join(_table(network) for network in result["networks"])


def _table(network: dict[str, Any]) -> str:
    title = f"`{network['network']}` at {network['size'][0]}×{network['size'][1]}, cumulative"
    head = ("GMAC", "activations, GB", "peak, MB", "nodes", "time, ms", "CPU, ms", "memory, MB", "max \\|Δα\\|")
    return markdown((title, *head), (_cells(row) for row in network["stages"]))


def _cells(row: dict[str, Any]) -> list[str]:
    timed = ["—", "—", "—", "—"]
    if "time" in row:
        timed = [
            f"{row['time']['median_ms']:.0f}",
            f"{row['cpu_ms']:.0f}",
            f"{row['peak_mib'] * MEGABYTES_PER_MIB:.0f}",
            f"{row['max_alpha_difference']:.0e}",
        ]
    return [
        TITLES[row["stage"]],
        f"{row['macs'] / 1e9:.2f}",
        f"{row['activation_bytes'] / 1e9:.2f}",
        f"{row['peak_activation_bytes'] / 1e6:.0f}",
        str(row["nodes"]),
        *timed,
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and write, or print the table of what was measured; `--rounds 0` measures no time."""
    return run(Runner("benchmarks.folds", __doc__, DEFAULT, 3, measure, table), argv)


if __name__ == "__main__":
    raise SystemExit(main())

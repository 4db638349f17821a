"""The export against two others, side by side: `python -m benchmarks.export --out benchmarks/results/export/NAME.json`.

Three graphs of each network: as it is exported (folded, native deformable convolutions), unfolded, and folded with each
deformable convolution taken apart into gathers. Each runs in processes of its own, in turn with the others.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.graphs import Subject, compared_graphs
from benchmarks.inference import MEGABYTES_PER_MIB, Case, alpha_of, images, run_in_turn
from benchmarks.networks import Runner, run
from benchmarks.results import markdown

DEFAULT = ("embedded:384", "swin_v1_t:512", "swin_v1_t:1024")


def measure(subject: Subject, graphs: Path, rounds: int, runs: int) -> dict[str, Any]:
    """One network's rows; ratios are to the first, the export."""
    found = compared_graphs(subject, graphs)
    timings = run_in_turn([Case(name, path) for name, path in found], rounds, runs)
    picture = images(subject.size, 1)
    alphas = [alpha_of(path, picture) for _, path in found]
    rows = [
        {
            "export": name,
            **timing,
            "peak_ratio": round(timing["peak_mib"] / timings[0]["peak_mib"], 3),
            "max_alpha_difference": float(np.abs(alpha - alphas[0]).max()),
        }
        for (name, _), timing, alpha in zip(found, timings, alphas, strict=True)
    ]
    return {"network": subject.network, "size": list(subject.size), "exports": rows}


def table(result: dict[str, Any]) -> str:
    """The Markdown table of a result."""
    head = ("ms/image", "ratio", "CPU, ratio", "peak memory, MB", "ratio", "load, s", "max \\|Δα\\|")
    rows = (
        (
            f"`{network['network']}` at {network['size'][0]}×{network['size'][1]}, {row['export']}",
            f"{row['time']['median_ms']:.0f}",
            f"{row['ratio']:.2f}",
            f"{row['cpu_ratio']:.2f}",
            f"{row['peak_mib'] * MEGABYTES_PER_MIB:.0f}",
            f"{row['peak_ratio']:.2f}",
            f"{row['load_s']:.2f}",
            f"{row['max_alpha_difference']:.0e}",
        )
        for network in result["networks"]
        for row in network["exports"]
    )
    return markdown(("network and graph", *head), rows)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and write, or print the table of what was measured."""
    return run(Runner("benchmarks.export", __doc__, DEFAULT, 5, measure, table), argv)


if __name__ == "__main__":
    raise SystemExit(main())

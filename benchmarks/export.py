"""The export against two others, side by side: `python -m benchmarks.export --out benchmarks/results/export/NAME.json`.

Three graphs of each network: as it is exported (folded, native deformable convolutions), unfolded, and folded with each
deformable convolution taken apart into gathers. Each runs in processes of its own, in turn with the others.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import machine
from benchmarks.graphs import Subject, compared_graphs
from benchmarks.inference import MEGABYTES_PER_MIB, Case, alpha_of, images, run_in_turn
from benchmarks.results import markdown, write_result

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
    """Measure and write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.export", description=__doc__)
    parser.add_argument("-o", "--out", type=Path, help="where the JSON goes")
    parser.add_argument("--table", type=Path, metavar="FILE", help="print the table of a result, and measure nothing")
    parser.add_argument("--networks", nargs="+", type=Subject.parse, default=[Subject.parse(name) for name in DEFAULT])
    parser.add_argument("--graphs", type=Path, help="folder in which exported graphs are kept for the next run")
    parser.add_argument("--rounds", type=int, default=5, help="processes of each graph")
    parser.add_argument("--runs", type=int, default=3, help="batches that count in each process")
    arguments = parser.parse_args(argv)
    if arguments.table:
        print(table(json.loads(arguments.table.read_text(encoding="utf-8"))))
        return 0
    if arguments.out is None:
        parser.error("one of --out and --table is needed")
    described = machine.describe("torch", "onnx", "onnxscript")
    with tempfile.TemporaryDirectory(prefix="birefnet-export-benchmark-") as scratch:
        graphs = arguments.graphs or Path(scratch)
        networks = [measure(name, graphs, arguments.rounds, arguments.runs) for name in arguments.networks]
    words = sys.argv[1:] if argv is None else list(argv)
    write_result(arguments.out, "benchmarks.export", words, {"machine": described, "networks": networks})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

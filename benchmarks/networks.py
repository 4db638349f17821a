"""The command line of the runners that measure several networks, one after the other."""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.graphs import Subject
from benchmarks.results import write_result


@dataclass(frozen=True, slots=True)
class Runner:
    """What differs from one runner to the next.

    Attributes:
        module: As `python -m` takes it.
        description: What it measures.
        default: The networks that it measures unless told otherwise.
        rounds: Processes of each graph, unless told otherwise.
        measure: Subject, folder of graphs, rounds and runs to the figures of one network.
        table: The Markdown table of a result.
    """

    module: str
    description: str | None
    default: Sequence[str]
    rounds: int
    measure: Callable[[Subject, Path, int, int], dict[str, Any]]
    table: Callable[[dict[str, Any]], str]


def run(runner: Runner, argv: Sequence[str] | None) -> int:
    """Measure and write, or print the table of what was measured."""
    parser = argparse.ArgumentParser(prog=f"python -m {runner.module}", description=runner.description)
    default = [Subject.parse(name) for name in runner.default]
    parser.add_argument("-o", "--out", type=Path, help="where the JSON goes")
    parser.add_argument("--table", type=Path, metavar="FILE", help="print the table of a result, and measure nothing")
    parser.add_argument("--networks", nargs="+", type=Subject.parse, default=default)
    parser.add_argument("--graphs", type=Path, help="folder in which exported graphs are kept for the next run")
    parser.add_argument("--rounds", type=int, default=runner.rounds, help="processes of each graph")
    parser.add_argument("--runs", type=int, default=3, help="batches that count in each process")
    arguments = parser.parse_args(argv)
    if arguments.table:
        print(runner.table(json.loads(arguments.table.read_text(encoding="utf-8"))))
        return 0
    if arguments.out is None:
        parser.error("one of --out and --table is needed")
    described = machine.describe("torch", "onnx", "onnxscript")
    with tempfile.TemporaryDirectory(prefix="birefnet-benchmark-") as scratch:
        graphs = arguments.graphs or Path(scratch)
        networks = [runner.measure(name, graphs, arguments.rounds, arguments.runs) for name in arguments.networks]
    words = sys.argv[1:] if argv is None else list(argv)
    write_result(arguments.out, runner.module, words, {"machine": described, "networks": networks})
    return 0

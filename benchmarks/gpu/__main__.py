"""One command for a bare machine with a GPU: `python -m benchmarks.gpu -o FILE [--section NAME …]`.

Sections are independent of each other, and a failure in one loses no figure of another: the file is written anew after
every row. A lent machine's calls end after minutes, so each section says how long it takes, and none is begun that
would not end within `--limit`. Methodology: `docs/performance.md`.
"""

import argparse
import importlib
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.gpu.clock import Clock
from benchmarks.gpu.machine import ceilings, describe_gpu
from benchmarks.gpu.report import Report
from benchmarks.gpu.subjects import Context

_CEILINGS = {"tflops": 788.0, "gigabytes_per_second": 4300.0}  # until they are measured


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the measurement.

    Attributes:
        where: Module of this package and function in it, which measures and adds rows. Imported when it is begun, so
            that what a bare machine lacks costs the sections that need it, and no other.
        seconds: About how long it takes on an H200, compilation included; an estimate until it was measured.
    """

    where: tuple[str, str]
    seconds: float

    def run(self, context: Context) -> None:
        """Measure."""
        module, function = self.where
        getattr(importlib.import_module(f"benchmarks.gpu.{module}"), function)(context)


SECTIONS: Mapping[str, Section] = {
    "tests": Section(("jobs", "run_tests"), 200),
    "kernels": Section(("kernels", "measure_kernels"), 120),
    "parity": Section(("parity", "measure_parity"), 150),
    "throughput": Section(("throughput", "measure_throughput"), 210),
    "parts": Section(("parts", "measure_parts"), 90),
    "server": Section(("live", "measure_server"), 360),
    "finish": Section(("finishing", "measure_finish"), 40),
    "official": Section(("official", "measure_official"), 420),
    "train": Section(("jobs", "train_refiner"), 120),  # and its minutes
    "train_matte": Section(("jobs", "train_matte"), 240),  # and its minutes
}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, and write the result after every row."""
    arguments = _parser().parse_args(argv)
    if arguments.list:
        for name, section in SECTIONS.items():
            print(f"{name:12s} {section.seconds:5.0f} s")
        return 0
    if arguments.out is None:
        raise SystemExit("python -m benchmarks.gpu: one of --out and --list is needed")
    if not arguments.dry_run and not torch.cuda.is_available():
        raise SystemExit("python -m benchmarks.gpu: expected a GPU that torch sees, found none: see --dry-run")
    device = torch.device("cpu" if arguments.dry_run else "cuda:0")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False  # as in the torch backend
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    torch.backends.cudnn.benchmark = device.type == "cuda"
    words = sys.argv[1:] if argv is None else list(argv)
    report = Report(arguments.out, words, describe_gpu(device))
    with tempfile.TemporaryDirectory(prefix="birefnet-gpu-") as scratch:
        _measure(arguments, report, device, arguments.folder or Path(scratch))
    return 0


def _measure(arguments: argparse.Namespace, report: Report, device: torch.device, folder: Path) -> None:
    clock = Clock(device, runs=2, seconds=0.5, warm_up=1) if arguments.dry_run else Clock(device)
    found = dict(_CEILINGS)
    with report.section("ceilings"):
        measured = report.measure({"name": "ceilings"}, lambda: ceilings(device, clock))
        found = measured or found
    context = Context(
        report,
        device,
        clock,
        arguments.dry_run,
        folder,
        arguments.out.parent,
        arguments.minutes,
        arguments.init,
        arguments.official,
        not arguments.no_tuning,
        arguments.artifact,
        found,
    )
    for name in arguments.section or SECTIONS:
        needed = SECTIONS[name].seconds + (60 * context.minutes if name.startswith("train") else 0)
        if not arguments.dry_run and report.elapsed_s + needed > arguments.limit:
            report.skip(
                name, f"it takes about {needed:.0f} s, and {report.elapsed_s:.0f} of {arguments.limit:.0f} s are gone"
            )
            continue
        with report.section(name):
            SECTIONS[name].run(context)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("-o", "--out", type=Path, help="where the JSON goes")
    parser.add_argument("--section", nargs="+", choices=SECTIONS, help="in this order; all of them unless named")
    parser.add_argument("--list", action="store_true", help="print the sections and about how long each takes")
    parser.add_argument("--dry-run", action="store_true", help="rehearse on the CPU with tiny networks")
    parser.add_argument("--limit", type=float, default=570.0, help="seconds of this call (default 570)")
    parser.add_argument("--folder", type=Path, help="where artifacts and checkpoints go, kept for the next call")
    parser.add_argument("--minutes", type=float, default=5.0, help="of each training (default 5)")
    parser.add_argument(
        "--init",
        type=Path,
        help="weights that training goes on from (train_matte: the package's)",
    )
    parser.add_argument("--official", type=Path, help="checkout of github.com/ZhengPeng7/BiRefNet")
    parser.add_argument("--artifact", type=Path, help="exported with --precision fp16, for its row of the parity")
    parser.add_argument("--no-tuning", action="store_true", help="take the launches of kernels that are shipped")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())

"""Hold a live server against what it promises under load and faults.

`python -m benchmarks.faults -o benchmarks/results/load/NAME.json` runs everything, in some twenty minutes; `--only`
takes scenarios by name, `--quick` runs each in seconds, with clients too few to prove anything but the runner.
Methodology: `benchmarks/README.md`.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.interruptions import abandoned, drain
from benchmarks.overloads import overload, soak
from benchmarks.results import markdown, write_result
from benchmarks.saturation import encoding
from benchmarks.scenario import QUICK, Report, Scale

FAKE = ("--backend", "fake", "--max-batch", "4", "--fake-latency-s", "0.1")
EMBEDDED: tuple[str, ...] = ()

SCENARIOS: Mapping[str, Callable[[Path, Scale], Report]] = {
    "overload-fake": partial(overload, FAKE),
    "overload": partial(overload, EMBEDDED),
    "abandoned": abandoned,
    "encoding": encoding,
    "drain": drain,
    "soak": partial(soak, EMBEDDED),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run scenarios and write what they found, or print the table of a result; 1 when a promise was not kept."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults", description=__doc__)
    parser.add_argument("-o", "--out", type=Path, help="where the JSON goes")
    parser.add_argument("--table", type=Path, metavar="FILE", help="print the table of a result, and measure nothing")
    parser.add_argument("--only", nargs="+", choices=SCENARIOS, default=list(SCENARIOS), metavar="SCENARIO")
    parser.add_argument("--quick", action="store_true", help="seconds instead of minutes")
    arguments = parser.parse_args(argv)
    if arguments.table:
        print(table(json.loads(arguments.table.read_text(encoding="utf-8"))))
        return 0
    described = machine.describe()  # first: the load average is to be that of the machine without us
    reports = []
    with tempfile.TemporaryDirectory(prefix="birefnet-faults-") as scratch:
        for name in arguments.only:
            report = SCENARIOS[name](Path(scratch), QUICK if arguments.quick else Scale())
            reports.append({**report.as_json(), "name": name})
            _say(name, report)
    if arguments.out is not None:
        words = sys.argv[1:] if argv is None else list(argv)
        write_result(arguments.out, "benchmarks.faults", words, {"machine": described, "scenarios": reports})
    return 0 if all(report["passed"] for report in reports) else 1


def table(result: Mapping[str, Any]) -> str:
    """Promises and what was found, as Markdown."""
    rows = [
        (
            f"`{scenario['name']}`: {criterion['promise']}",
            f"{criterion['limit']:g} {criterion['unit']}",
            f"{criterion['found']:.4g}",
            "kept" if criterion["passed"] else "**not kept**",
        )
        for scenario in result["scenarios"]
        for criterion in scenario["criteria"]
    ]
    return markdown(("scenario", "limit", "found", ""), rows)


def _say(name: str, report: Report) -> None:
    for criterion in report.criteria:
        verdict = "kept    " if criterion.passed else "NOT KEPT"
        print(
            f"{name:14} {verdict} {criterion.promise}: {criterion.found:g} {criterion.unit} (limit {criterion.limit:g})"
        )
    print(json.dumps(report.figures, indent=1), flush=True)


if __name__ == "__main__":
    raise SystemExit(main())

"""Which signal scales this server best: `python -m benchmarks.autoscale -o benchmarks/results/autoscale/sweep.json`.

A seeded discrete-event simulation (`benchmarks.autoscaling`) of pods with measured service times under the real rules
of HorizontalPodAutoscaler v2 and KEDA. `--table FILE` prints the tables of `docs/autoscaling.md`, `--plots DIR` draws
its pictures.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.autoscaling import signals
from benchmarks.autoscaling.fleet import Outcome, Setup, simulate
from benchmarks.autoscaling.hpa import Behaviour, KedaOptions, Policy, Rules
from benchmarks.autoscaling.loads import BURST, DAY, SPARSE, STEP
from benchmarks.autoscaling.pod import Profile, profiles
from benchmarks.results import markdown, write_result

CHOSEN = signals.pressure_and_busy(0.5)
"""The signal of the manifests; a test holds them against it."""

BEHAVIOUR = Behaviour(
    up=Rules((Policy("pods", 4), Policy("percent", 100))),
    down=Rules((Policy("percent", 25, 60.0),), 300.0),
)
"""The pace of the manifests: up at once, down by a quarter a minute after five minutes."""

_OUTAGE = (590.0, 1200.0)  # Prometheus is away as the step comes

Runs = list[tuple[str, Setup]]


def setups() -> dict[str, Runs]:
    """All runs: of every table the variants' names and what they simulate."""
    pods = {profile.name: profile for profile in profiles()}
    return {
        "sweep": _sweep(pods["cpu"]),
        "gpu": _sweep(pods["gpu"]),
        "speeds": _speeds(pods),
        "pace": _paces(pods["gpu"]),
        "outage": _outages(pods["gpu"]),
        "zero": _zero(pods["gpu"]),
    }


def _sweep(pod: Profile) -> Runs:
    return [("", Setup(pod, load, signal)) for load in (DAY, BURST, STEP) for signal in signals.SWEEP]


def _speeds(pods: Mapping[str, Profile]) -> Runs:
    """One target on two kinds of card: what does it promise?"""
    tried = (signals.queue(4), signals.pressure(0.5), CHOSEN)
    return [("", Setup(pods[pod], STEP, signal)) for pod in ("gpu", "gpu-fast") for signal in tried]


def _paces(pod: Profile) -> Runs:
    def pace(window_s: float) -> Behaviour:
        return replace(BEHAVIOUR, down=replace(BEHAVIOUR.down, window_s=window_s))

    named = {"Kubernetes' defaults": Behaviour(), **{f"ours, down after {w:g} s": pace(w) for w in (60, 300, 600)}}
    named["ours, never below 2"] = replace(BEHAVIOUR, least=2)
    return [(name, Setup(pod, load, CHOSEN, each)) for load in (DAY, BURST, STEP) for name, each in named.items()]


def _outages(pod: Profile) -> Runs:
    named = {"no outage": None, "outage, no fallback": KedaOptions(), "outage, fallback 6": KedaOptions(fallback=6)}
    return [
        (name, Setup(pod, STEP, CHOSEN, BEHAVIOUR, keda, None if keda is None else _OUTAGE))
        for name, keda in named.items()
    ]


def _zero(pod: Profile) -> Runs:
    named = {"one pod stays": None, "to zero after 300 s": KedaOptions(cooldown_s=300.0)}
    return [(name, Setup(pod, SPARSE, CHOSEN, BEHAVIOUR, keda)) for name, keda in named.items()]


def run(table: str, index: int, seed: int) -> dict[str, Any]:
    """One row of a table. By number, because signals are functions, which do not travel between processes."""
    name, setup = setups()[table][index]
    row: dict[str, Any] = {"variant": name, "profile": setup.profile.name, "load": setup.load.name}
    row |= {"signal": setup.signal.name, "target": setup.signal.target, "unit": setup.signal.unit}
    return {**row, **simulate(replace(setup, seed=seed)).figures()}


def run_tables(tables: Sequence[str], processes: int, seed: int) -> dict[str, list[dict[str, Any]]]:
    """The rows of these tables."""
    counts = {table: len(setups()[table]) for table in tables}
    with ProcessPoolExecutor(processes) as pool:
        jobs = {table: [pool.submit(run, table, i, seed) for i in range(count)] for table, count in counts.items()}
        return {table: [job.result() for job in of_table] for table, of_table in jobs.items()}


def timelines() -> dict[str, Outcome]:
    """Replicas under the step, by signal, on the pod whose service times are measured."""
    pod = {profile.name: profile for profile in profiles()}["cpu"]
    tried = (signals.cpu(0.7), signals.device(0.7), signals.queue(4), signals.pressure(0.5), CHOSEN)
    return {f"{each.name}, target {each.target:g}": simulate(Setup(pod, STEP, each)) for each in tried}


_COLUMNS = ("refused, %", "no pod", "p50, s", "p99, s", "pod-hours", "most pods")


def table(result: Mapping[str, Any], name: str) -> str:
    """One table of a result in Markdown."""
    head = ("pod, load, signal", *_COLUMNS)
    return markdown(head, (_cells(row) for row in result["tables"][name]))


def _cells(row: Mapping[str, Any]) -> list[str]:
    label = f"{row['profile']}, {row['load']}, {row['signal']} {row['target']:g}"
    label += " s" if row["unit"] == "s" else ""
    return [
        label + (f", {row['variant']}" if row["variant"] else ""),
        f"{100 * row['refused_share']:.2f}",
        str(row["unserved"]),
        _seconds(row["p50_s"]),
        _seconds(row["p99_s"]),
        f"{row['pod_hours']:.1f}",
        str(row["most_pods"]),
    ]


def _seconds(value: float | None) -> str:
    """Of a quantile; a dash where nobody was answered."""
    return "–" if value is None else f"{value:.2f}"


def main(argv: Sequence[str] | None = None) -> int:
    """Simulate and write; draw; or print tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.autoscale", description=__doc__)
    parser.add_argument("-o", "--out", type=Path, help="where the JSON goes")
    parser.add_argument("--plots", type=Path, metavar="DIR", help="draw the pictures from the result --table names")
    parser.add_argument("--table", type=Path, metavar="FILE", help="print the tables of a result, and simulate nothing")
    parser.add_argument("--tables", nargs="+", default=list(setups()), choices=list(setups()), help="all of them")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args(argv)
    if arguments.table is not None:
        result = json.loads(arguments.table.read_text(encoding="utf-8"))
        print("\n\n".join(table(result, name) for name in result["tables"]))
    if arguments.plots is not None:
        from benchmarks.autoscaling.plots import plot_costs, plot_timelines

        if arguments.table is None:
            parser.error("--plots: expected --table FILE with it")
        plot_costs(
            [*result["tables"]["sweep"], *result["tables"].get("gpu", [])], arguments.plots / "autoscaling-costs.png"
        )
        plot_timelines(timelines(), arguments.plots / "autoscaling-step.png")
    if arguments.out is not None:
        words = sys.argv[1:] if argv is None else list(argv)
        found = {
            "seed": arguments.seed,
            "profiles": {
                pod.name: {"per_s": round(pod.per_s, 2), "start_s": pod.start_s, "source": pod.source}
                for pod in profiles()
            },
            "tables": run_tables(arguments.tables, arguments.processes, arguments.seed),
        }
        write_result(arguments.out, "benchmarks.autoscale", words, found)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""The pictures of `docs/autoscaling.md`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.figure import Figure

from benchmarks.autoscaling.fleet import Outcome

_COLOURS = {
    "CPU %": "#9467bd",
    "GPU %": "#8c564b",
    "queue": "#ff7f0e",
    "pressure": "#1f77b4",
    "pressure + busy": "#2ca02c",
}


def plot_costs(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """What each signal costs and what it refuses, one panel per profile and load."""
    panels = sorted({(row["profile"], row["load"]) for row in rows})
    profiles, loads = sorted({panel[0] for panel in panels}), ("day", "burst", "step")
    figure, axes = pyplot.subplots(len(profiles), len(loads), figsize=(11, 3.2 * len(profiles)), squeeze=False)
    for i, profile in enumerate(profiles):
        for j, load in enumerate(loads):
            axis = axes[i][j]
            for name, colour in _COLOURS.items():
                chosen = [r for r in rows if (r["profile"], r["load"], r["signal"]) == (profile, load, name)]
                x, y = [r["pod_hours"] for r in chosen], [100 * r["refused_share"] for r in chosen]
                axis.plot(x, y, "o-", color=colour, label=name, alpha=0.8, markersize=5)
            axis.set_title(f"{profile}, {load}", fontsize=10)
            axis.set_yscale("symlog", linthresh=0.1)
            axis.set_ylim(-0.02, 100)
            axis.grid(alpha=0.3)
            if j == 0:
                axis.set_ylabel("refused, %")
            if i == len(profiles) - 1:
                axis.set_xlabel("pod-hours")
    axes[0][0].legend(fontsize=8)
    _save(figure, path)


def plot_timelines(outcomes: Mapping[str, Outcome], path: Path) -> None:
    """Replicas over time under one load, one panel per signal."""
    figure, axes = pyplot.subplots(len(outcomes), 1, figsize=(9, 2.0 * len(outcomes)), sharex=True)
    for axis, (name, outcome) in zip(axes, outcomes.items(), strict=True):
        minutes = [entry[0] / 60 for entry in outcome.timeline]
        axis.plot(minutes, [entry[1] for entry in outcome.timeline], color="#888888", lw=1, label="load, pods' worth")
        axis.step(minutes, [entry[2] for entry in outcome.timeline], color="#1f77b4", where="post", label="pods")
        axis.step(minutes, [entry[3] for entry in outcome.timeline], "--", color="#2ca02c", where="post", label="ready")
        axis.set_title(name, fontsize=9)
        axis.set_ylim(0, 21)
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=8, ncols=3, loc="upper right")
    axes[-1].set_xlabel("minutes")
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    figure.tight_layout()
    figure.savefig(path, dpi=80, metadata={"Software": None})
    pyplot.close(figure)

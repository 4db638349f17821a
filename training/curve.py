"""The curve of a run: loss, error and learning rate against running time, from its log."""

import csv
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

_SECOND = {"mae": "mean absolute error", "gain": "share of the mask's error that is gone"}

Row = dict[str, str]


def draw(logs: Sequence[Path], picture: Path) -> None:
    """Write a PNG of loss, error and rate in `logs`, the sizes of phases and the beginnings of further runs marked.

    Args:
        logs: The log.csv of a run, or of several that went on from each other. A refiner's has the share of the coarse
            mask's error that is gone instead of the error.
        picture: The PNG.

    Raises:
        ValueError: A log has no rows yet.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot  # slow to import, and only this needs it

    rows, minutes = _joined(logs)
    second = next(name for name in ("gain", "mae") if name in rows[0])
    figure, (axes, below) = pyplot.subplots(
        2, 1, figsize=(7, 4.2), sharex=True, height_ratios=(4, 1), layout="constrained"
    )
    below.plot(minutes, [float(row["rate"]) for row in rows], color="tab:green")
    below.set(xlabel="running time, minutes", ylabel="rate", ylim=(0, None))
    axes.plot(minutes, [float(row["loss"]) for row in rows], color="tab:blue", label="loss")
    axes.set(ylabel="loss (x 0.01)" if "size" in rows[0] else "loss")
    errors = axes.twinx()
    errors.plot(minutes, [float(row[second]) for row in rows], color="tab:orange", label=_SECOND[second])
    errors.set(ylabel=_SECOND[second], ylim=(0, None))
    for (before, row), minute in zip(pairwise(rows), minutes[1:], strict=True):
        further = int(row["step"]) <= int(before["step"])
        if row.get("size") != before.get("size") or further:
            axes.axvline(minute, color="grey", linewidth=0.8, linestyle=":")
            text = f" {row['size']}²" if "size" in row else " further run"
            axes.text(minute, axes.get_ylim()[1], text, va="top", fontsize=8, color="grey")
    figure.legend(loc="upper right", bbox_to_anchor=(0.88, 0.95), fontsize=8)
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, dpi=110)
    pyplot.close(figure)


def draw_beside(log: Path) -> None:
    """Write `curve.png` beside a log, or nothing while the log is without rows."""
    with log.open() as file:
        begun = len(file.readlines()) > 1
    if begun:
        draw([log], log.parent / "curve.png")


def _joined(logs: Sequence[Path]) -> tuple[list[Row], list[float]]:
    """The rows of all logs, and the running time of each in minutes since the first run began."""
    rows: list[Row] = []
    minutes: list[float] = []
    for log in logs:
        with log.open() as file:
            own = list(csv.DictReader(file))
        if not own:
            raise ValueError(f"{log} has no rows yet: a run writes them with its first checkpoint")
        begin = minutes[-1] if minutes else 0.0
        rows += own
        minutes += [begin + float(row["seconds"]) / 60 for row in own]
    return rows, minutes

"""The curve of a run: loss and error against running time, from its log."""

import csv
from pathlib import Path


def draw(log: Path, picture: Path) -> None:
    """Write a PNG of the loss and the mean absolute error in `log` (a run's log.csv), the sizes of its phases marked.

    Raises:
        ValueError: The log has no rows yet.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot  # slow to import, and only this needs it

    with log.open() as file:
        rows = list(csv.DictReader(file))
    if not rows:
        raise ValueError(f"{log} has no rows yet: a run writes them with its first checkpoint")
    minutes = [float(row["seconds"]) / 60 for row in rows]
    figure, axes = pyplot.subplots(figsize=(7, 3.2), layout="constrained")
    axes.plot(minutes, [float(row["loss"]) for row in rows], color="tab:blue", label="loss")
    axes.set(xlabel="running time, minutes", ylabel="loss (x 0.01)")
    errors = axes.twinx()
    errors.plot(minutes, [float(row["mae"]) for row in rows], color="tab:orange", label="mean absolute error")
    errors.set(ylabel="mean absolute error", ylim=(0, None))
    for index in range(1, len(rows)):
        if rows[index]["size"] != rows[index - 1]["size"]:
            axes.axvline(minutes[index], color="grey", linewidth=0.8, linestyle=":")
            axes.text(
                minutes[index], axes.get_ylim()[1], f" {rows[index]['size']}²", va="top", fontsize=8, color="grey"
            )
    figure.legend(loc="upper right", bbox_to_anchor=(0.88, 0.95), fontsize=8)
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, dpi=110)
    pyplot.close(figure)

"""An evaluation as text, JSON, CSV and HTML."""

import csv
import html
import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from training.evaluate import Figures, means

Results = Mapping[str, list[Figures]]

COLUMNS: dict[str, tuple[str, bool]] = {
    "mae": ("MAE", False),
    "mse": ("MSE", False),
    "sad": ("SAD", False),
    "grad": ("Grad", False),
    "conn": ("Conn", False),
    "band": ("band MAE", False),
    "iou": ("IoU", True),
    "pooled_iou": ("pooled IoU", True),
    "boundary_iou": ("BIoU", True),
    "mba": ("mBA", True),
    "s": ("S", True),
    "weighted_f": ("wF", True),
    "e_max": ("E max", True),
    "e_mean": ("E mean", True),
    "e_adaptive": ("E adaptive", True),
    "hce": ("HCE", False),
}
"""Every figure: its heading, and whether more is better."""

_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Evaluation</title>
<style>
body {{ font: 14px/1.5 system-ui, sans-serif; margin: 2rem; }}
table {{ border-collapse: collapse; }}
th, td {{ border-bottom: 1px solid #ccc; padding: .3rem .6rem; text-align: right; }}
th:first-child, td:first-child {{ text-align: left; }}
dt {{ font-weight: 600; }} dd {{ margin: 0 0 .4rem; }}
</style>
<h1>Evaluation</h1>
<dl>{about}</dl>
<table><thead><tr><th>set</th><th>images</th>{heads}</tr></thead><tbody>{rows}</tbody></table>
<p>Means over the images; mBA over those with a boundary, pooled IoU over all their pixels. SAD, Grad and Conn in
thousands, at the working size. ↓ less is better, ↑ more is.</p>
</html>
"""


def as_text(results: Results) -> str:
    """The table with a row for each figure and a column for each set, narrow enough for a terminal."""
    table = {name: means(figures) for name, figures in results.items()}
    width = max(10, *(len(name) for name in table))
    lines = [" " * 13 + "".join(f"  {name:>{width}}" for name in table)]
    lines += [
        f"{_heading(key):13s}" + "".join(f"  {_number(row[key]):>{width}}" for row in table.values()) for key in COLUMNS
    ]
    return "\n".join([*lines, f"{'images':13s}" + "".join(f"  {len(each):>{width}}" for each in results.values())])


def write(folder: Path, results: Results, about: Mapping[str, object]) -> None:
    """Write the report's three files.

    `evaluation.json` has what was evaluated and the means (null where no image has a figure), `evaluation.csv` every
    image, `evaluation.html` the table.
    """
    folder.mkdir(parents=True, exist_ok=True)
    table = {name: means(figures) for name, figures in results.items()}
    summary = {
        name: {key: None if math.isnan(value) else value for key, value in row.items()} | {"images": len(results[name])}
        for name, row in table.items()
    }
    (folder / "evaluation.json").write_text(json.dumps({**about, "sets": summary}, indent=2) + "\n")
    with (folder / "evaluation.csv").open("w", newline="") as file:
        names = [key for key in COLUMNS if key != "pooled_iou"]
        writer = csv.DictWriter(file, ["set", "index", *names], extrasaction="ignore")
        writer.writeheader()
        for name, figures in results.items():
            for index, one in enumerate(figures):
                values = {key: _number(value, 5) for key, value in asdict(one).items() if value is not None}
                writer.writerow({"set": name, "index": index, **values})
    (folder / "evaluation.html").write_text(_page(results, table, about), encoding="utf-8")


def _page(results: Results, table: Mapping[str, Mapping[str, float]], about: Mapping[str, object]) -> str:
    rows = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{len(results[name])}</td>"
        + "".join(f"<td>{_number(row[key])}</td>" for key in COLUMNS)
        + "</tr>\n"
        for name, row in table.items()
    )
    return _PAGE.format(
        about="".join(
            f"<dt>{html.escape(key)}</dt><dd>{html.escape(str(value))}</dd>\n" for key, value in about.items()
        ),
        heads="".join(f"<th>{_heading(key)}</th>" for key in COLUMNS),
        rows=rows,
    )


def _heading(key: str) -> str:
    heading, more = COLUMNS[key]
    return f"{heading} {'↑' if more else '↓'}"


def _number(value: float, digits: int = 4) -> str:
    return "-" if math.isnan(value) else str(value) if isinstance(value, int) else f"{value:.{digits}f}"

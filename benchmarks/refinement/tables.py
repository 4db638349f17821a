"""The Markdown of a result, for `docs/refinement.md`."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.results import markdown

Found = Mapping[str, Any]

HEAD = ("coarse matte", "colours", "method", "IoU", "mBA", "SAD in the band", "gradient", "work", "CPU, s")


def table(result: Mapping[str, Any]) -> str:
    """Means, the worst case of each image against upsampling, photographs, and the aims."""
    rows = result["rows"]
    parts = [markdown(HEAD, _means(rows)), _worst(rows)]
    if result["photographs"]:
        parts.append(_photographs(result["photographs"]))
    parts.append(
        markdown(
            ("aim", "found", "met"),
            ((aim["aim"], aim["found"], "yes" if aim["met"] else "**no**") for aim in result["aims"]),
        )
    )
    return "\n\n".join(parts)


def _means(rows: Sequence[Found]) -> list[list[str]]:
    """One row for every coarse matte, difficulty of colours and method: means over the images."""
    groups: dict[tuple[str, str, str], list[Found]] = {}
    for row in rows:
        groups.setdefault((row["coarse"], row["colours"], row["method"]), []).append(row)
    return [[*names, *_cells(group)] for names, group in sorted(groups.items(), key=lambda item: _order(*item[0]))]


def _order(coarse: str, colours: str, method: str) -> tuple[int, str, int]:
    kinds, methods = (
        ("area", "network", "perturbed"),
        ("upsampled", "guided filter", "single pass", "full", "ours", "refine=on"),
    )
    return kinds.index(coarse), colours, methods.index(method)


def _cells(group: Sequence[Found]) -> list[str]:
    def mean(name: str) -> float:
        return float(np.mean([row[name] for row in group]))

    return [
        f"{mean('iou'):.4f}",
        f"{mean('mba'):.4f}",
        f"{mean('band_sad'):.2f}",
        f"{mean('gradient'):.2f}",
        f"{mean('work'):.0f}",
        f"{mean('seconds'):.1f}",
    ]


def _worst(rows: Sequence[Found]) -> str:
    """SAD in the band of `ours` against that of upsampling, image by image."""
    by_key = {(row["scene"], row["coarse"], row["method"]): row for row in rows}
    scenes = list(dict.fromkeys(row["scene"] for row in rows))
    kinds = [kind for kind in ("area", "network", "perturbed") if any(row["coarse"] == kind for row in rows)]
    lines = []
    for scene in scenes:
        changes = []
        for kind in kinds:
            ours, up = by_key.get((scene, kind, "ours")), by_key.get((scene, kind, "upsampled"))
            changes.append(f"{ours['band_sad'] / up['band_sad'] - 1:+.1%}" if ours and up else "-")
        lines.append([scene, *changes])
    return markdown(("SAD in the band, ours against upsampled", *kinds), lines)


def _photographs(photographs: Sequence[Found]) -> str:
    return markdown(
        ("photograph", "SAD in the band, upsampled", "refined", "change"),
        (
            [
                row["photograph"],
                f"{row['upsampled']:.3f}",
                f"{row['refined']:.3f}",
                f"{row['refined'] / row['upsampled'] - 1:+.1%}",
            ]
            for row in photographs
        ),
    )

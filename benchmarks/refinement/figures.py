"""The figures of one matte, and the aims they are held against."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.refinement.scenes import Plane
from matting.quality import gradient_error, iou, mean_boundary_accuracy, sum_absolute_difference

_UNDECIDED = 1.0 / 255.0
_REACH = 2


@dataclass(frozen=True, slots=True)
class Figures:
    """One matte against its truth.

    Attributes:
        iou: Of the regions, in [0, 1].
        mba: Mean boundary accuracy, in [0, 1].
        band_sad: Sum of absolute differences in the truth's band, in thousands of pixels.
        gradient: Gradient error, in thousands.
    """

    iou: float
    mba: float
    band_sad: float
    gradient: float


@dataclass(slots=True)
class Row:
    """One method on one coarse matte of one scene.

    Attributes:
        scene: Its name.
        size: (height, width).
        colours: easy or hard.
        coarse: Which coarse matte.
        method: What made the matte of it.
        figures: Of the matte.
        work: Multiply-adds of the refiner's network in 10⁹.
        seconds: Processor time.
        stages: mBA after each stage, where it was asked for.
    """

    scene: str
    size: tuple[int, int]
    colours: str
    coarse: str
    method: str
    figures: Figures
    work: float = 0.0
    seconds: float = 0.0
    stages: list[float] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Rounded to what can be told apart."""
        figures = {name: round(value, 5) for name, value in asdict(self.figures).items()}
        return {
            "scene": self.scene,
            "size": list(self.size),
            "colours": self.colours,
            "coarse": self.coarse,
            "method": self.method,
            **figures,
            "work": round(self.work, 3),
            "seconds": round(self.seconds, 2),
            "stages": [round(value, 5) for value in self.stages],
        }


def band_of(truth: Plane, coarse: tuple[int, int]) -> NDArray[np.bool_]:
    """Where a coarse matte cannot be right: undecided pixels and the contour, widened by two pixels of the coarse one.

    Args:
        truth: (H, W) in [0, 1].
        coarse: (h, w) of the coarse matte.
    """
    undecided = (truth > _UNDECIDED) & (truth < 1 - _UNDECIDED)
    contour = cv2.morphologyEx((truth >= 0.5).astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8))
    reach = int(np.ceil(_REACH * max(truth.shape[0] / coarse[0], truth.shape[1] / coarse[1])))
    side = 2 * reach + 1
    widened = cv2.dilate(cv2.bitwise_or(undecided.view(np.uint8), contour), np.ones((side, side), np.uint8))
    return np.asarray(widened, dtype=np.bool_)


def measure(alpha: Plane, truth: Plane, band: NDArray[np.bool_]) -> Figures:
    """The figures of one matte; mBA is 1 where the truth has no boundary to miss."""
    accuracy = mean_boundary_accuracy(alpha, truth)
    return Figures(
        iou(alpha, truth),
        1.0 if accuracy is None else accuracy,
        sum_absolute_difference(alpha, truth, band),
        gradient_error(alpha, truth),
    )


@dataclass(frozen=True, slots=True)
class Aim:
    """What was aimed at and what was found."""

    aim: str
    found: str
    met: bool


Found = Mapping[str, Any]


def aims(rows: Sequence[Found], photographs: Sequence[Found]) -> list[Aim]:
    """The aims of issue 5, against rows as `Row.as_json` writes them; without those of methods that did not run."""
    found = _Rows(rows)
    checks = [_less_sad(found), _harmless(found, "area"), _accuracy(found), *_as_good(found), *_rising(found)]
    if photographs:
        worse = [p["photograph"] for p in photographs if p["refined"] > p["upsampled"]]
        said = f"{len(photographs) - len(worse)} of {len(photographs)}"
        checks.append(
            Aim("photographs' mattes, reduced 4 times and refined: not worse than upsampled", said, not worse)
        )
    return [check for check in checks if check is not None]


class _Rows:
    """Rows by coarse matte and scene."""

    def __init__(self, rows: Sequence[Found]) -> None:
        self._rows = {(row["coarse"], row["scene"], row["method"]): row for row in rows}

    def pairs(self, coarse: str, one: str, other: str, colours: str = "") -> list[tuple[Found, Found]]:
        """What two methods made of the same coarse mattes."""
        return [
            (row, self._rows[kind, scene, other])
            for (kind, scene, method), row in self._rows.items()
            if kind == coarse and method == one and (kind, scene, other) in self._rows
            if colours in ("", row["colours"])
        ]


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))


def _less_sad(rows: _Rows) -> Aim | None:
    pairs = rows.pairs("area", "ours", "upsampled", "easy")
    if not pairs:
        return None
    change = _mean(ours["band_sad"] / up["band_sad"] - 1 for ours, up in pairs)
    return Aim("area-averaged truth, easy colours: SAD in the band -35 %", f"{change:+.1%}", change <= -0.35)


def _harmless(rows: _Rows, coarse: str) -> Aim | None:
    pairs = rows.pairs(coarse, "ours", "upsampled")
    if not pairs:
        return None
    worst = max(ours["band_sad"] / up["band_sad"] - 1 for ours, up in pairs)
    said = f"the worst image {worst:+.1%}"
    return Aim("area-averaged truth: SAD in the band never more than by upsampling", said, worst <= 0)


def _accuracy(rows: _Rows) -> Aim | None:
    pairs = rows.pairs("perturbed", "ours", "upsampled")
    if not pairs:
        return None
    gain = 100 * _mean(ours["mba"] - up["mba"] for ours, up in pairs)
    return Aim("perturbed truth: mBA +15 points", f"{gain:+.1f}", gain >= 15)


def _as_good(rows: _Rows) -> list[Aim | None]:
    found: list[Aim | None] = []
    for coarse, method in (("area", "ours"), ("network", "ours"), ("network", "refine=on"), ("perturbed", "ours")):
        pairs = rows.pairs(coarse, method, "full")
        if not pairs:
            continue
        about = coarse if method == "ours" else f"{coarse}, {method}"
        lost = {name: 100 * _mean(full[name] - ours[name] for ours, full in pairs) for name in ("iou", "mba")}
        said = f"IoU {-lost['iou']:+.2f}, mBA {-lost['mba']:+.2f}"
        found.append(Aim(f"{about}: IoU and mBA within 1 point of full", said, max(lost.values()) <= 1))
        share = _mean(ours["work"] / full["work"] for ours, full in pairs)
        found.append(Aim(f"{about}: at most 35 % of the work of full", f"{share:.1%}", share <= 0.35))
    return found


def _rising(rows: _Rows) -> list[Aim | None]:
    found: list[Aim | None] = []
    for method in ("full", "ours"):
        staged = [row["stages"] for row, _ in rows.pairs("perturbed", method, "upsampled") if row["stages"]]
        for count in sorted({len(stages) for stages in staged}):
            means = [_mean(column) for column in zip(*(s for s in staged if len(s) == count), strict=True)]
            said = " → ".join(f"{100 * value:.1f}" for value in means)
            rises = all(later > earlier for earlier, later in itertools.pairwise(means))
            found.append(Aim(f"perturbed truth, {method}, {count - 1} stages: mBA rises at every stage", said, rises))
    for method in ("full", "ours"):
        pairs = rows.pairs("perturbed", "single pass", method)
        if pairs:
            gap = 100 * _mean(staged["mba"] - single["mba"] for single, staged in pairs)
            found.append(Aim(f"perturbed truth: a single pass is worse than {method}", f"mBA {-gap:+.1f}", gap > 0))
    return found

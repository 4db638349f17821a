"""How many clicks a person would need to correct a region."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from matting.quality.error import Plane, check_same_shape
from matting.quality.overlap import REGION

Bits = NDArray[np.uint8]
_CROSS = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))


def human_correction_efforts(alpha: Plane, truth: Plane, relax: int = 5, tolerance: float = 2.0) -> int:
    """HCE: clicks that correct a region by hand (Qin et al., DIS5K, ECCV 2022), 0 or more.

    Wrong regions thinner than about twice `relax` pixels are forgiven, but the skeleton of the true region must not be
    broken. What is left is corrected along its boundary with what is right, by as many points as a polygon within
    `tolerance` needs (Ramer, Douglas, Peucker), and by one click for a component that touches nothing right.

    Args:
        alpha: (H, W) the matte in question.
        truth: (H, W) what it should be.
        relax: The paper's γ, erosions by a 3 x 3 cross.
        tolerance: The paper's ε, in pixels.

    Returns:
        Points and clicks together, for false positives and false negatives.
    """
    check_same_shape(alpha, truth)
    from skimage.morphology import skeletonize  # here: it comes with [train]

    found, wanted = alpha >= REGION, truth >= REGION
    skeleton: NDArray[np.bool_] = skeletonize(wanted)  # type: ignore[no-untyped-call]
    right, extra, missing = found & wanted, found & ~wanted, wanted & ~found
    core = np.asarray(cv2.erode((found | wanted).view(np.uint8), _CROSS, iterations=relax), dtype=np.uint8)
    extra_left = _relaxed(extra.view(np.uint8), core, wanted.view(np.uint8), relax)
    missing_left = _relaxed(missing.view(np.uint8), core, found.view(np.uint8), relax)
    missing_left |= (skeleton & ~right).view(np.uint8)
    beside_extra = right.view(np.uint8) | missing_left
    beside_missing = 1 - (right.view(np.uint8) | extra_left | missing_left)
    return _efforts(extra_left, beside_extra, tolerance) + _efforts(missing_left, beside_missing, tolerance)


def _relaxed(wrong: Bits, core: Bits, other: Bits, relax: int) -> Bits:
    """What of a wrong region is not thin: it survives the erosion, and grows back within what is not `other`."""
    kept = wrong & core
    for _ in range(relax):
        kept = np.asarray(cv2.dilate(kept, _CROSS), dtype=np.uint8) & (1 - other)
    return kept & wrong


@dataclass(slots=True)
class _Shores:
    """The parts of contours that lie beside something right, each pixel once, and the components that have none."""

    lines: list[NDArray[np.int32]]
    islands: int


def _efforts(wrong: Bits, beside: Bits, tolerance: float) -> int:
    shores = _shores(wrong, np.asarray(cv2.dilate(beside, _CROSS), dtype=np.uint8))
    return shores.islands + sum(len(cv2.approxPolyDP(line, tolerance, False)) for line in shores.lines)


def _shores(wrong: Bits, beside: Bits) -> _Shores:
    contours, _ = cv2.findContours(wrong, cv2.RETR_TREE, cv2.CHAIN_APPROX_NONE)
    count, labels = cv2.connectedComponents(wrong, connectivity=8)
    alone = np.ones(count, np.bool_)
    alone[0] = False
    free = beside.astype(np.bool_)
    lines: list[NDArray[np.int32]] = []
    for contour in contours:
        runs = _runs(np.asarray(contour[:, 0, :], dtype=np.int32), free)
        for run in runs:
            alone[labels[run[:, 1], run[:, 0]]] = False
        lines += _closed(runs)
    return _Shores(lines, int(alone.sum()))


def _runs(points: NDArray[np.int32], free: NDArray[np.bool_]) -> list[NDArray[np.int32]]:
    """Cut a contour, (N, 2) of x and y, where it leaves what is free; what a run passes is free no longer."""
    runs: list[NDArray[np.int32]] = []
    start: int | None = None
    for index, (x, y) in enumerate(points.tolist()):
        if free[y, x]:
            free[y, x] = False
            start = index if start is None else start
        elif start is not None:
            runs.append(points[start:index])
            start = None
    return runs if start is None else [*runs, points[start:]]


def _closed(runs: Sequence[NDArray[np.int32]]) -> list[NDArray[np.int32]]:
    """Join the last run to the first where they meet at the contour's arbitrary start.

    The first one backwards, as in the published code: its order has no reason, but changes the figure.
    """
    if len(runs) < 2 or np.abs(runs[0][0] - runs[-1][-1]).max() > 1:
        return list(runs)
    return [*runs[1:-1], np.concatenate([runs[-1], runs[0][::-1]])]

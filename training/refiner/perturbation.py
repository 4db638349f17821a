"""Masks with the errors of a segmentation network, made of a true one.

Source: CRM, section A.4 of the reference, after CascadePSP: vertices are dropped from the contours, then random windows
are dilated or eroded until the mask overlaps the truth as little as is asked for.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from training.data.shapes import Rng

Binary = NDArray[np.uint8]

_SHORTEST = 10
_RUN = 0.1
_KEPT = 0.1
_ROUNDS = 250
_WINDOWS = 4
_SPECK = 0.25


def overlap(mask: Binary, truth: Binary) -> float:
    """Intersection over union of two masks of 0 and 1; 1 where both are empty."""
    union = int(np.count_nonzero(mask | truth))
    return int(np.count_nonzero(mask & truth)) / union if union else 1.0


def _thinned(rng: Rng, contour: NDArray[np.int32]) -> NDArray[np.int32]:
    """A contour without a run of a tenth of its vertices, and with a tenth of the others.

    The run is one of the tenth whose ends lie nearest to each other: a bay or a limb, rather than a side.
    """
    count = len(contour)
    run = max(1, int(count * _RUN))
    gaps = np.linalg.norm(contour - np.roll(contour, -run, axis=0), axis=-1).reshape(-1)
    nearest = np.argsort(gaps)[: max(1, int(count * _RUN))]
    start = int(rng.choice(nearest))
    kept = np.roll(contour, -start, axis=0)[run:]
    wanted = max(3, int(len(kept) * _KEPT))
    chosen = np.sort(rng.choice(len(kept), min(wanted, len(kept)), replace=False))
    return kept[chosen]


def simplify(rng: Rng, mask: Binary) -> Binary:
    """The mask refilled from its thinned contours, holes included; contours of fewer than 10 pixels are left out."""
    contours, hierarchy = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    drawn = np.zeros_like(mask)
    if hierarchy is None:
        return drawn
    outer = hierarchy[0, :, 3] < 0
    for wanted, value in ((True, 1), (False, 0)):
        for contour, is_outer in zip(contours, outer, strict=True):
            if is_outer == wanted and len(contour) >= _SHORTEST:
                cv2.fillPoly(drawn, [_thinned(rng, np.asarray(contour, np.int32))], value)
    return drawn


def _kernel(rng: Rng) -> Binary:
    """A rectangle, an ellipse, or half an ellipse lying or standing, 3 to 9 pixels wide."""
    side = int(rng.integers(3, 10))
    shape = int(rng.integers(4))
    if shape == 0:
        return np.ones((side, side), np.uint8)
    kernel = np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)), np.uint8)
    if shape == 2:
        kernel[: side // 2] = 0
    elif shape == 3:
        kernel[:, : side // 2] = 0
    return kernel


def _window(rng: Rng, shape: tuple[int, int]) -> tuple[slice, slice]:
    spans = []
    for length in shape:
        first, second = sorted(int(v) for v in rng.integers(0, length, 2))
        spans.append(slice(first, second + 1))
    return spans[0], spans[1]


def _erode_or_dilate(rng: Rng, mask: Binary) -> None:
    """One random change of one random window, in place."""
    view = mask[_window(rng, mask.shape)]
    if rng.uniform() < _SPECK:
        view[view.shape[0] // 2, view.shape[1] // 2] = rng.integers(2)
    change = cv2.dilate if rng.uniform() < 0.5 else cv2.erode
    view[...] = change(view, _kernel(rng))


def perturb(rng: Rng, truth: Binary, target: float) -> Binary:
    """A mask whose IoU with the truth has just fallen below `target`.

    Args:
        rng: Decides everything.
        truth: (H, W) uint8 of 0 and 1.
        target: In (0, 1]; CRM draws it from U(0.8, 1).

    Returns:
        (H, W) uint8 of 0 and 1. The truth itself where nothing of it can be changed, and a mask above the target where
        250 rounds were not enough.
    """
    simple = simplify(rng, truth)
    mask = simple if overlap(simple, truth) >= target else truth.copy()
    for _ in range(_ROUNDS):
        if overlap(mask, truth) < target:
            break
        for _ in range(_WINDOWS):
            _erode_or_dilate(rng, mask)
    return mask

"""What a coarse mask says of itself: where it hides detail between its pixels, and where its means can be relied on.

A refiner is asked for what the coarse mask could not resolve, and for nothing else:

- **hidden**: an edge, a hair or a hole that is finer than the mask's grid shows in it as a change within a pixel or
  two. A change over five or more was resolved: a veil, defocus, or a network that is not sure. Sharpening it would
  invent an edge.
- **measured**: a mask with grey pixels along its contour says how much of each pixel is foreground, and a finer matte
  whose mean over that pixel is another one contradicts it. A mask of 0 and 1 says no such thing.

Both are found on the mask's own grid, from ranges and means of small windows; nothing of them has a scale of alpha.
"""

from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from matting.geometry import restore
from matting.refinement.band import FULL, near_contour, uncertain
from matting.refinement.options import BandOptions
from matting.refinement.sampling import strips

_NEAR, _FAR = 3, 7
"""Sides of the windows: a change over two of the mask's pixels is compared with one over six."""

_AROUND = 63
"""Side of the window in which the edges are judged together: wider than the band on both sides."""

_GREY = 0.25
"""Mean of 4 α (1 - α) along the contour of a mask that measures: 2/3 along an edge of area means, 0 where it was
thresholded."""

_BINARY = 0.02
"""The same mean below which a whole mask is taken to be thresholded."""

_FLAT = 1.0 / 255.0


_REACH = _AROUND // 2 + _FAR // 2 + _FAR // 2 + 2


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a mask says of itself, on its own grid.

    Attributes:
        mask: (h, w) float32 in [0, 1].
        hidden: (h, w) uint8: 255 where all of a change may count, 0 where the mask has resolved what is there.
        measured: (h, w) uint8: 255 where its values are means of areas, 0 where it is 0 or 1 all around.
        thresholded: Whether it is 0 or 1 nearly everywhere, so that its very shape is in doubt.
    """

    mask: NDArray[np.float32] = field(repr=False)
    hidden: NDArray[np.uint8] = field(repr=False)
    measured: NDArray[np.uint8] = field(repr=False)
    thresholded: bool


def find_evidence(mask: NDArray[np.float32], options: BandOptions) -> Evidence:
    """Look at a mask, by strips.

    Args:
        mask: (h, w) float32 in [0, 1].
        options: What is sharp and what is soft.
    """
    hidden, measured = np.empty(mask.shape, np.uint8), np.empty(mask.shape, np.uint8)
    greys = edges = 0.0
    for rows in strips(len(mask)):
        top = max(0, rows.start - _REACH)
        part, inner = mask[top : rows.stop + _REACH], slice(rows.start - top, rows.stop - top)
        edge = np.maximum(near_contour(part, 1), uncertain(part, options.uncertain)).astype(np.float32)
        grey = 4 * part * (1 - part)
        hidden[rows] = _hidden(part, edge, options)[inner]
        measured[rows] = _levels(_mean(grey, edge, _AROUND) / _GREY)[inner]
        greys += float(grey[inner].sum(dtype=np.float64))
        edges += float(edge[inner].sum(dtype=np.float64))
    return Evidence(mask, hidden, measured, greys < _BINARY * edges)


def _hidden(mask: NDArray[np.float32], edge: NDArray[np.float32], options: BandOptions) -> NDArray[np.uint8]:
    if options.everywhere or options.sharp <= 0:
        return np.full(mask.shape, FULL, np.uint8)
    near, far = (_range(mask, side) for side in (_NEAR, _FAR))
    changing = np.where(far > options.uncertain, edge, np.float32(0))  # the middle of a veil is undecided, and no edge
    # Beside an edge the change lies within the larger window only: it is looked for nearby.
    near, far = _dilated(near, _FAR), _dilated(far, _FAR)
    share = _mean(np.asarray(near / np.maximum(far, _FLAT), np.float32), changing, _AROUND)
    return _levels((share - np.float32(options.soft)) / np.float32(options.sharp - options.soft))


def contradiction(evidence: Evidence, alpha: NDArray[np.float32]) -> NDArray[np.float32]:
    """What a finer matte's means over the mask's pixels lack of what was measured there, (h, w) float32.

    Args:
        evidence: Of the mask.
        alpha: (H, W) float32, the finer matte.
    """
    size = evidence.mask.shape[0], evidence.mask.shape[1]
    found = evidence.mask - restore(alpha, size)
    found *= evidence.measured
    found /= np.float32(FULL)
    return found


def _levels(share: NDArray[np.float32]) -> NDArray[np.uint8]:
    return np.asarray(np.rint(FULL * np.clip(share, 0.0, 1.0)), np.uint8)


def _mean(plane: NDArray[np.float32], weight: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """Of a window around every pixel, by weight; 0 where there is none."""
    total, count = (cv2.blur(each, (side, side), borderType=cv2.BORDER_CONSTANT) for each in (plane * weight, weight))
    return np.asarray(total / np.maximum(count, np.float32(1e-6)), np.float32)


def _range(mask: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    return np.asarray(cv2.morphologyEx(mask, cv2.MORPH_GRADIENT, np.ones((side, side), np.uint8)), np.float32)


def _dilated(plane: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    return np.asarray(cv2.dilate(plane, np.ones((side, side), np.uint8)), np.float32)

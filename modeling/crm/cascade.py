"""Multi-resolution refinement as CRM publishes it: four stages, each decoded at full size everywhere.

Source: CRM, section A.5 of the reference. Every stage takes the original image, reduced, and the mask as the stage
before left it, soft; only the encoder's input grows. Low scales repair regions, high scales boundaries, so that order
and feedback matter. Two things differ from the published code, neither in what a stage computes: the image is reduced
by area, without aliasing, and it is extended by replication to a multiple of 64 instead of by reflection by 32.

Memory is bounded: the encoder runs in tiles whose halo makes them exact, and each tile is decoded in pieces.
`matting.refinement` is what the server runs; this is what it is measured against.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from modeling.crm.config import ALIGNMENT
from modeling.crm.network import CRM
from modeling.crm.receptive_field import halo

Plane = NDArray[np.float32]
SCHEDULE = (0.125, 0.25, 0.5, 1.0)
SINGLE_PASS = (1.0,)


@dataclass(frozen=True)
class CascadeOptions:
    """How to run the stages.

    Attributes:
        scales: Of the stages; each one over a power of two.
        tile: Side of the encoder's tiles, with their halo, a multiple of 8; None encodes every stage whole.
        queries: Most target pixels decoded at once.
    """

    scales: tuple[float, ...] = SCHEDULE
    tile: int | None = 512
    queries: int = 16 * 224 * 224


@dataclass(frozen=True)
class _Span:
    """A stretch of a stage's canvas along one axis: what is encoded, and what of it is kept."""

    start: int
    stop: int
    kept_start: int
    kept_stop: int


@torch.no_grad()
def stages(
    network: CRM, image: NDArray[np.uint8], coarse: Plane, options: CascadeOptions | None = None
) -> Iterator[Plane]:
    """The matte after every stage.

    Args:
        network: In evaluation mode.
        image: (H, W, 3) uint8 RGB.
        coarse: (H, W) float32 in [0, 1], soft, at the image's size.
        options: The schedule and what bounds the memory.

    Yields:
        (H, W) float32 in [0, 1]. An empty coarse mask stays empty.

    Raises:
        ValueError: Image and mask have different sizes, or the tile has no room within its halo.
    """
    options = options or CascadeOptions()
    if image.shape[:2] != coarse.shape:
        raise ValueError(f"expected image and mask of one size, found {image.shape[:2]} and {coarse.shape}")
    height, width = coarse.shape
    coarsest = ALIGNMENT * round(1 / min(options.scales))
    margins = ((0, -height % coarsest), (0, -width % coarsest))
    image = np.pad(image, (*margins, (0, 0)), mode="edge")
    mask = np.pad(coarse, margins, mode="edge")
    for scale in options.scales:
        mask = _stage(network, image, mask, scale, options) if coarse.any() else mask
        yield mask[:height, :width]


def cascade(network: CRM, image: NDArray[np.uint8], coarse: Plane, options: CascadeOptions | None = None) -> Plane:
    """The matte after the last stage; see `stages`."""
    *_, last = stages(network, image, coarse, options)
    return last


def _stage(network: CRM, image: NDArray[np.uint8], mask: Plane, scale: float, options: CascadeOptions) -> Plane:
    """One stage: encoder at `scale`, decoder at full size."""
    factor = round(1 / scale)
    size = (mask.shape[0] // factor, mask.shape[1] // factor)
    small_image, small_mask = (_reduced(each, size) for each in (image, mask))
    frame = torch.tensor([0.0, 0.0, *size])
    refined = np.empty_like(mask)
    rows, columns = (_spans(length, options.tile, halo(network.config)) for length in size)
    for row in rows:
        for column in columns:
            part = np.s_[row.start : row.stop, column.start : column.stop]
            planes = torch.from_numpy(small_image[part]).permute(2, 0, 1)[None] / 255.0
            own = frame + torch.tensor([row.start, column.start, 0.0, 0.0])
            latent = network.encode(planes, torch.from_numpy(small_mask[part])[None], own[None])
            target = ((row.stop - row.start) * factor, (column.stop - column.start) * factor)
            left, right = column.kept_start * factor, column.kept_stop * factor
            step = max(1, options.queries // (right - left))
            for top in range(row.kept_start * factor, row.kept_stop * factor, step):
                bottom = min(top + step, row.kept_stop * factor)
                window = (
                    slice(top - row.start * factor, bottom - row.start * factor),
                    slice(left - column.start * factor, right - column.start * factor),
                )
                here = np.s_[top:bottom, left:right]
                logits = network.decode(latent, torch.from_numpy(mask[here])[None], target, window)
                refined[here] = torch.sigmoid(logits)[0].numpy()
    return refined


def _reduced(array: NDArray, size: tuple[int, int]) -> NDArray:
    if array.shape[:2] == size:
        return array
    return np.asarray(cv2.resize(array, (size[1], size[0]), interpolation=cv2.INTER_AREA))


def _spans(length: int, tile: int | None, margin: int) -> list[_Span]:
    """Tiles along one axis; an outer side needs no halo, and all begin at multiples of 8."""
    if tile is None or length <= tile:
        return [_Span(0, length, 0, length)]
    step = (tile - 2 * margin) // ALIGNMENT * ALIGNMENT
    if step <= 0:
        raise ValueError(f"expected tiles wider than both halos of {margin}, found {tile}")
    spans, kept = [], 0
    while kept < length:
        start = max(0, kept - margin)
        stop = min(length, start + tile)
        end = length if stop == length else stop - margin
        spans.append(_Span(start, stop, kept, end))
        kept = end
    return spans

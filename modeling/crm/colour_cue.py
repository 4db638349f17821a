"""Colour cues: what the colours around a pixel, weighed by the mask, say about its alpha.

With F and B the mean colours of foreground and background in a box around the pixel, each pixel weighed by the square
of how much the mask gives it to that side,

    q = ((I - B) . (F - B) + e m) / (|F - B|^2 + e)

is the alpha that the compositing equation I = q F + (1 - q) B gives in the sense of least squares, with the mask m as
a prior where both colours are alike: the estimate that matting by propagation of colours begins with, and what a small
network can hardly compute by itself, as it is a quotient of products. The cues are q; |F - B|, which says how much q
can be trusted; and |I - q F - (1 - q) B|, which says how badly it fits. q is also offered to the decoder, pixel by
pixel: see `modeling.crm.network`. Nothing of this is part of the published CRM.
"""

import functools
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

CELL = 2
CUES = 3
PHASES = 4
_PRIOR = 4e-3
_NOISE = 1e-3
_ABSENT = 1e-4


@dataclass(frozen=True)
class ColourCues:
    """What the colours say, of each box width.

    Attributes:
        planes: (B, 3 boxes + 1, H, W): the mask and every cue.
        alphas: (B, boxes, H, W): q, in [0, 1].
    """

    planes: Tensor
    alphas: Tensor


def cue_channels(boxes: tuple[int, ...]) -> int:
    """Channels of the cues at stride 2, where the four pixels of a cell are channels (`torch.pixel_unshuffle`)."""
    return PHASES * (CUES * len(boxes) + 1) if boxes else 0


def colour_cues(image: Tensor, mask: Tensor, boxes: tuple[int, ...]) -> ColourCues:
    """The cues of each box width.

    Args:
        image: (B, 3, H, W) float in [0, 1], H and W multiples of 8.
        mask: (B, 1, H, W) float in [0, 1].
        boxes: Odd widths of the boxes, in cells of 2x2 pixels.
    """
    front, back = mask.square(), (1 - mask).square()
    sums = F.avg_pool2d(torch.cat([front, back, front * image, back * image], dim=1), CELL)
    planes, alphas = [mask * 2 - 1], []
    for box in boxes:
        means = box_means(sums, box)
        weights, colours = means[:, :2] + _ABSENT, means[:, 2:]
        mean = torch.cat([colours[:, :3] / weights[:, :1], colours[:, 3:] / weights[:, 1:]], dim=1)
        mean = F.interpolate(mean, size=image.shape[2:], mode="bilinear", align_corners=False)
        alpha, trust = _cues(image, mask, mean[:, :3], mean[:, 3:])
        planes += [2 * alpha - 1, trust]
        alphas.append(alpha.clamp(0, 1))
    return ColourCues(torch.cat(planes, dim=1), torch.cat(alphas, dim=1))


def box_means(planes: Tensor, box: int) -> Tensor:
    """Means over the part of a square box that lies within, (B, C, h, w), as `torch.nn.functional.avg_pool2d`'s.

    By sums of shifted planes: ONNX Runtime's pooling adds up every box anew, which for large ones took most of a tile's
    time. Here every pixel is added up in the same order, wherever in a tile it lies.

    Args:
        planes: (B, C, h, w).
        box: Odd width.
    """
    if box == 1:
        return planes
    height, width, margin = planes.shape[2], planes.shape[3], box // 2
    sums = F.pad(planes, (margin, margin, margin, margin))
    for axis in (2, 3):
        sums = _run_sums(sums, axis, box)
    return sums / _counts(height, box, planes)[:, None] / _counts(width, box, planes)


def _run_sums(planes: Tensor, axis: int, length: int) -> Tensor:
    """Sums of every run of so many along an axis: of runs of one, two, four, ..., as the length's binary digits say."""
    count = planes.shape[axis] - length + 1
    parts, first, size = [], 0, 1
    while True:
        if length & size:
            parts.append(planes.narrow(axis, first, count))
            first += size
        if 2 * size > length:
            return functools.reduce(torch.add, parts)
        doubled = planes.shape[axis] - size
        planes = planes.narrow(axis, 0, doubled) + planes.narrow(axis, size, doubled)
        size *= 2


def _counts(length: int, box: int, like: Tensor) -> Tensor:
    """How many cells of an axis lie in the box around each, (length,)."""
    at = torch.arange(length, device=like.device)
    return ((at + box // 2).clamp(max=length - 1) - (at - box // 2).clamp(min=0) + 1).to(like.dtype)


def _cues(image: Tensor, mask: Tensor, front: Tensor, back: Tensor) -> tuple[Tensor, Tensor]:
    """q, and how much it can be trusted: the contrast of both colours, and the distance that q leaves."""
    axis = front - back
    contrast = axis.square().sum(1, keepdim=True)
    offset = image - back
    alpha = (((offset * axis).sum(1, keepdim=True) + _PRIOR * mask) / (contrast + _PRIOR)).clamp(-0.5, 1.5)
    misfit = (offset - alpha * axis).square().sum(1, keepdim=True)
    return alpha, torch.sqrt(torch.cat([contrast, misfit], dim=1) + _NOISE)

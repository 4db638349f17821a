"""Procedural photographs in memory, and boxes around their subjects."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from modeling.refine_mask import crop_regions
from training.data.stream import Source

REGION = 0.5
_MARGIN = 0.05
_JITTER = 0.05


@dataclass(frozen=True)
class Photographs:
    """Some photographs of one size.

    Attributes:
        images: (N, S, S, 3) uint8.
        alphas: (N, 1, S, S) float32 in [0, 1].
    """

    images: Tensor
    alphas: Tensor


def photographs(source: Source, count: int, size: int) -> Photographs:
    """The first photographs of a source."""
    pairs = [source.item(index, size) for index in range(count)]
    images = torch.from_numpy(np.stack([image for image, _ in pairs]))
    return Photographs(images, torch.from_numpy(np.stack([alpha for _, alpha in pairs]))[:, None])


def prompts(alphas: Tensor, generator: torch.Generator) -> Tensor:
    """A box around each subject, as a person draws it: 5 % larger, each edge off by up to 5 % of the subject's side.

    Args:
        alphas: (N, 1, S, S); where nothing reaches one half, the box is the whole image.
        generator: Decides the errors.

    Returns:
        (N, 4) x0, y0, x1, y1 in pixels, edges, within the image.
    """
    size = alphas.shape[3]
    boxes = []
    for alpha in alphas[:, 0]:
        region = alpha >= REGION
        rows, columns = region.any(dim=1).nonzero()[:, 0], region.any(dim=0).nonzero()[:, 0]
        if len(rows) == 0:
            boxes.append(torch.tensor([0.0, 0.0, size, size]))
        else:
            boxes.append(torch.stack((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)).float())
    tight = torch.stack(boxes)
    sides = (tight[:, 2:] - tight[:, :2]).repeat(1, 2)
    outwards = torch.tensor([-1.0, -1.0, 1.0, 1.0]) * _MARGIN
    errors = (2 * torch.rand(len(tight), 4, generator=generator) - 1) * _JITTER
    return (tight + sides * (outwards + errors)).clamp(0, size)


def truths(alphas: Tensor, boxes: Tensor, size: int) -> Tensor:
    """The true masks within the boxes, (N, 1, size, size) of 0 and 1."""
    return (crop_regions(alphas, boxes, torch.arange(len(boxes)), size) >= REGION).float()

"""How the segmenter learns, and whether its fine stages are worth having."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from matting.quality import boundary_iou, iou, mean_boundary_accuracy
from modeling.refine_mask import BoxSegmenter, SegmenterConfig, compose
from modeling.refine_mask.segmenter import STRIDE
from training.data.sets import SETS
from training.data.stream import normalised
from training.instances.samples import Photographs, photographs, prompts, truths
from training.losses.refine_mask import StageRule, staged

_SIDE = 112
_PLAIN = 1
_CHUNK = 20
_BOXES_SEED = 11


@dataclass(frozen=True)
class InstanceTraining:
    """What decides the outcome.

    Attributes:
        steps: Updates.
        batch: Photographs of each, one box in each photograph.
        pool: Photographs in memory.
        size: Of a photograph.
        rate: Peak learning rate, with a warm-up of 20 steps and half a cosine down to 0.
        seed: Of weights and order.
        rule: How the stages are supervised.
    """

    steps: int = 1000
    batch: int = 8
    pool: int = 1000
    size: int = 128
    rate: float = 3e-3
    seed: int = 7
    rule: StageRule = field(default_factory=StageRule)


@dataclass(frozen=True)
class Comparison:
    """Means over held-out photographs, of the composed masks and of the 28-pixel ones upsampled."""

    composed: dict[str, float]
    upsampled: dict[str, float]


def train_segmenter(
    config: SegmenterConfig, options: InstanceTraining, report: Callable[[int, float], None] | None = None
) -> BoxSegmenter:
    """A segmenter trained on procedural photographs: RefineMask's rule on the stages, and the semantic head's loss.

    The semantic head's truth is the union of all subjects; its weight is 1, as the last stage's.
    """
    with torch.random.fork_rng():
        torch.manual_seed(options.seed)
        network = BoxSegmenter(config).train()
    generator = torch.Generator().manual_seed(options.seed)
    pool = photographs(SETS["train"], options.pool, options.size)
    optimizer = torch.optim.AdamW(network.parameters(), lr=options.rate)
    for step in range(options.steps):
        turn = 0.5 * (1 + math.cos(math.pi * step / options.steps))
        for group in optimizer.param_groups:
            group["lr"] = options.rate * min(1.0, (step + 1) / 20) * turn
        image, alpha = _drawn(pool, options.batch, generator)
        boxes = prompts(alpha, generator)
        stages, foreground = network(normalised(image), boxes, torch.arange(len(boxes)))
        loss = staged(stages, truths(alpha, boxes, _SIDE), options.rule)
        loss = loss + F.binary_cross_entropy_with_logits(foreground, F.avg_pool2d(alpha, STRIDE))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()
        if report:
            report(step + 1, loss.item())
    return network.eval()


def _drawn(pool: Photographs, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    chosen = torch.randint(len(pool.images), (count,), generator=generator)
    image, alpha = pool.images[chosen], pool.alphas[chosen]
    if torch.rand(1, generator=generator) < 0.5:
        image, alpha = image.flip(2), alpha.flip(3)
    return image, alpha


@torch.no_grad()
def compare(network: BoxSegmenter, count: int, size: int) -> Comparison:
    """What the fine stages add on held-out photographs: IoU, boundary IoU and mean boundary accuracy at 112 pixels."""
    held_out = photographs(SETS["heldout"], count, size)
    boxes = prompts(held_out.alphas, torch.Generator().manual_seed(_BOXES_SEED))
    wanted = truths(held_out.alphas, boxes, _SIDE)
    composed, upsampled = [], []
    for first in range(0, count, _CHUNK):
        part = slice(first, first + _CHUNK)
        stages, _ = network.eval()(normalised(held_out.images[part]), boxes[part], torch.arange(len(boxes[part])))
        composed.append(compose(stages))
        upsampled.append(F.interpolate(stages[_PLAIN], size=(_SIDE, _SIDE), mode="bilinear", align_corners=True))
    return Comparison(_means(torch.cat(composed), wanted), _means(torch.cat(upsampled), wanted))


def _means(logits: Tensor, wanted: Tensor) -> dict[str, float]:
    pairs = [((mask[0] >= 0).float().numpy(), truth[0].numpy()) for mask, truth in zip(logits, wanted, strict=True)]
    accuracies = [mean_boundary_accuracy(*pair) for pair in pairs]
    return {
        "IoU": float(np.mean([iou(*pair) for pair in pairs])),
        "boundary IoU": float(np.mean([boundary_iou(*pair) for pair in pairs])),
        "mBA": float(np.mean([each for each in accuracies if each is not None])),
    }

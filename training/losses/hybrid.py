"""BiRefNet's hybrid loss: a weighted sum of terms on every prediction.

Source: the official `loss.py` and `train.py` as described in `shared/reference/birefnet.md` section 4.1. Predictions
are logits of shape (B, 1, h, w); targets are soft alphas of shape (B, 1, H, W) in [0, 1]. Every term is 0, or at its
minimum, at the truth.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from training.losses.contour import contour
from training.losses.overlap import iou
from training.losses.pixels import mae
from training.losses.similarity import ssim
from training.losses.structure import structure


@dataclass(frozen=True)
class LossWeights:
    """Weights of the terms of one prediction, and of what the whole network has once.

    Attributes:
        bce: Binary cross-entropy.
        iou: Soft IoU.
        ssim: (1 - SSIM) / 2.
        mae: Absolute error.
        gradient: Gradient supervision of the whole network.
        structure: F3Net's structure loss.
        contour: Active contour loss.
        refine_mask: RefineMask's rule on the side outputs of the whole network.
        classification: Cross-entropy of the auxiliary classes, where the network has the head and the data names them.
    """

    bce: float = 30.0
    iou: float = 0.5
    ssim: float = 10.0
    mae: float = 0.0
    gradient: float = 1.0
    structure: float = 0.0
    contour: float = 0.0
    refine_mask: float = 0.0
    classification: float = 5.0


PRESETS: dict[str, LossWeights] = {
    "dis": LossWeights(),
    "general": LossWeights(mae=100.0),
    "matting": LossWeights(iou=0.0, mae=100.0),
}


def hybrid(logits: Tensor, target: Tensor, weights: LossWeights, mean_over_batch: bool = False) -> dict[str, Tensor]:
    """The weighted terms of one prediction, upsampled to the target (bilinear, align_corners=True).

    SSIM enters as (1 - SSIM) / 2. Terms of weight zero are left out. Everything is computed in float32.
    """
    logits = logits.float()
    if logits.shape[-2:] != target.shape[-2:]:
        logits = F.interpolate(logits, size=target.shape[-2:], mode="bilinear", align_corners=True)
    target = target.float().clamp(0.0, 1.0)
    probability = torch.sigmoid(logits)
    terms: dict[str, Tensor] = {}
    if weights.bce:
        # Cross-entropy from logits: the same value, without the loss of gradient where the sigmoid saturates.
        terms["bce"] = weights.bce * F.binary_cross_entropy_with_logits(logits, target)
    if weights.iou:
        terms["iou"] = weights.iou * iou(probability, target, mean_over_batch)
    if weights.ssim:
        terms["ssim"] = weights.ssim * (1.0 - ssim(probability, target)) / 2.0
    if weights.mae:
        terms["mae"] = weights.mae * mae(probability, target)
    if weights.structure:
        terms["structure"] = weights.structure * structure(logits, target)
    if weights.contour:
        terms["contour"] = weights.contour * contour(probability, target)
    return terms


def multi_stage(
    outputs: tuple[Sequence[Tensor], Tensor],
    target: Tensor,
    weights: LossWeights,
    side_stride: int = 1,
    mean_over_batch: bool = False,
) -> dict[str, Tensor]:
    """The hybrid loss summed over the side outputs and the final one, without level weights, as the official code does.

    Args:
        outputs: (side logits at any resolution, final logits).
        target: (B, 1, H, W) soft alphas.
        weights: the terms' weights.
        side_stride: 1 compares side outputs at full resolution (official); a larger divisor of H and W compares them
            with the target averaged over squares of that side, which for maps at strides 8 to 32 says the same for a
            fraction of the time.
        mean_over_batch: see `iou`.
    """
    sides, final = outputs
    coarse = F.avg_pool2d(target, side_stride) if side_stride > 1 else target
    totals = hybrid(final, target, weights, mean_over_batch)
    for logits in sides:
        for name, value in hybrid(logits, coarse, weights, mean_over_batch).items():
            totals[name] = totals[name] + value
    return totals

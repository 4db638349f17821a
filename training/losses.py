"""BiRefNet's training losses: a weighted hybrid on every prediction, and gradient supervision.

Source: the official `loss.py` and `train.py` as described in `shared/reference/birefnet.md` section 4.1. Predictions
are logits of shape (B, 1, h, w); targets are soft alphas of shape (B, 1, H, W) in [0, 1]. Every term is 0, or at its
minimum, at the truth.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class LossWeights:
    """Weights of the terms of one prediction; `gradient` weighs the gradient supervision of the whole network."""

    bce: float = 30.0
    iou: float = 0.5
    ssim: float = 10.0
    mae: float = 0.0
    gradient: float = 1.0


PRESETS: dict[str, LossWeights] = {
    "dis": LossWeights(),
    "general": LossWeights(mae=100.0),
    "matting": LossWeights(iou=0.0, mae=100.0),
}


def bce(probability: Tensor, target: Tensor) -> Tensor:
    """Mean binary cross-entropy, minimal (but not zero) at a soft truth."""
    return F.binary_cross_entropy(probability, target)


def iou(probability: Tensor, target: Tensor, mean_over_batch: bool = False) -> Tensor:
    """Soft IoU loss: the sum over the batch of 1 - sum(g p) / (sum g + sum p - sum(g p)).

    Summed over the batch as the official code does; `mean_over_batch` divides by its size, so that the weight does
    not depend on it. Zero at a binary truth; at a soft one g p < g and the loss stays above zero. An empty target
    with an empty prediction gives 0.
    """
    dims = (1, 2, 3)
    both = (probability * target).sum(dims)
    union = target.sum(dims) + probability.sum(dims) - both
    loss = (1.0 - (both + 1e-6) / (union + 1e-6)).sum()
    return loss / len(target) if mean_over_batch else loss


def _gaussian_band(length: int, like: Tensor, side: int = 11, sigma: float = 1.5) -> Tensor:
    """The (length, length) matrix that convolves a line with the Gaussian window and zero padding.

    As a matrix product the separable window costs a tenth of what one-channel convolutions cost on a CPU.
    """
    axis = torch.arange(length, dtype=like.dtype, device=like.device)
    distance = axis[:, None] - axis[None, :]
    reach = torch.arange(side, dtype=like.dtype, device=like.device) - side // 2
    weights = torch.exp(-(distance**2) / (2.0 * sigma**2)) / torch.exp(-(reach**2) / (2.0 * sigma**2)).sum()
    return torch.where(distance.abs() <= side // 2, weights, torch.zeros_like(weights))


def ssim(first: Tensor, second: Tensor) -> Tensor:
    """Mean structural similarity (Wang et al. 2004): 11x11 Gaussian, sigma 1.5, C1 .01^2, C2 .03^2, zero padding."""
    down, across = _gaussian_band(first.shape[-2], first), _gaussian_band(first.shape[-1], first)
    # The second's own windows apart: for a fixed target they cost nothing in the backward pass.
    mean1, square1, product = (down @ torch.cat([first, first * first, first * second]) @ across).chunk(3)
    mean2, square2 = (down @ torch.cat([second, second * second]) @ across).chunk(2)
    variance1, variance2, covariance = square1 - mean1**2, square2 - mean2**2, product - mean1 * mean2
    c1, c2 = 0.01**2, 0.03**2
    score = (
        (2 * mean1 * mean2 + c1) * (2 * covariance + c2) / ((mean1**2 + mean2**2 + c1) * (variance1 + variance2 + c2))
    )
    return score.mean()


def mae(probability: Tensor, target: Tensor) -> Tensor:
    """Mean absolute error."""
    return (probability - target).abs().mean()


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
        with the target averaged over squares of
            that side, which for maps at strides 8 to 32 says the same for a fraction of the time.
        mean_over_batch: see `iou`.
    """
    sides, final = outputs
    coarse = F.avg_pool2d(target, side_stride) if side_stride > 1 else target
    totals = hybrid(final, target, weights, mean_over_batch)
    for logits in sides:
        for name, value in hybrid(logits, coarse, weights, mean_over_batch).items():
            totals[name] = totals[name] + value
    return totals


def gradient_supervision(predictions: Sequence[Tensor], labels: Sequence[Tensor]) -> Tensor:
    """Binary cross-entropy of predicted gradient maps (logits) against labels in [0, 1], summed over levels.

    A label is sigmoid(Laplacian of the image x side output): the network makes it; no gradient flows into it.
    """
    if len(predictions) != len(labels):
        raise ValueError(f"expected a label for each gradient prediction, found {len(labels)} for {len(predictions)}")
    losses = []
    for prediction, label in zip(predictions, labels, strict=True):
        logits = prediction.float()
        if logits.shape[-2:] != label.shape[-2:]:
            logits = F.interpolate(logits, size=label.shape[-2:], mode="bilinear", align_corners=True)
        losses.append(F.binary_cross_entropy_with_logits(logits, label.detach().float()))
    return torch.stack(losses).sum()

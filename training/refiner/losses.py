"""CRM's losses on a refined matte, and one that counts harm.

Source: CRM, section A.4 of the reference. Predictions are logits, targets soft alphas, both (B, H, W) or, without the
gradient term, (B, N). Every term is 0 at the truth.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from training.losses.refine_mask import mean_over

_FLAT = 1e-4


@dataclass(frozen=True)
class RefinerWeights:
    """Weights of the terms.

    CRM's own are 1, 0.5, 0.5, 2 and 0. Here the truth is soft, absolute error is what mattes are judged by, and no
    pixel may become worse than in the mask that came in.
    """

    cross_entropy: float = 1.0
    absolute: float = 2.0
    square: float = 0.5
    gradient: float = 1.0
    harm: float = 1.0


CRM_WEIGHTS = RefinerWeights(1.0, 0.5, 0.5, 2.0, 0.0)


def cross_entropy(logits: Tensor, truth: Tensor, region: Tensor | None = None) -> Tensor:
    """Mean binary cross-entropy less the truth's own entropy: the same gradient, and 0 at the truth."""
    clamped = truth.clamp(1e-6, 1 - 1e-6)
    entropy = -(clamped * clamped.log() + (1 - clamped) * torch.log1p(-clamped))
    if region is None:
        return F.binary_cross_entropy_with_logits(logits, clamped) - entropy.mean()
    return mean_over(F.binary_cross_entropy_with_logits(logits, clamped, reduction="none") - entropy, region)


def gradient_magnitude(alpha: Tensor) -> Tensor:
    """G of (B, H, W): Sobel of the 3x3 mean, / 4, as sqrt(gx^2 + gy^2 + 1e-4), over the pixels with whole windows.

    The constant keeps the square root's gradient finite where a mask is constant.
    """
    smooth = F.avg_pool2d(alpha[:, None], 3, 1)
    down = smooth[:, :, 2:] - smooth[:, :, :-2]
    across = smooth[:, :, :, 2:] - smooth[:, :, :, :-2]
    gy = (down[..., :-2] + 2 * down[..., 1:-1] + down[..., 2:]) / 4
    gx = (across[:, :, :-2] + 2 * across[:, :, 1:-1] + across[:, :, 2:]) / 4
    return torch.sqrt(gx.square() + gy.square() + _FLAT)[:, 0]


def gradient(alpha: Tensor, truth: Tensor, region: Tensor | None = None) -> Tensor:
    """Mean |G(alpha) - G(truth)|."""
    difference = (gradient_magnitude(alpha) - gradient_magnitude(truth)).abs()
    return _mean(difference, None if region is None else region[:, 2:-2, 2:-2])


def harm(alpha: Tensor, mask: Tensor, truth: Tensor, region: Tensor | None = None) -> Tensor:
    """Mean of how much farther from the truth each pixel is than it was in the mask."""
    return _mean(F.relu((alpha - truth).abs() - (mask - truth).abs()), region)


def refiner_loss(
    logits: Tensor, mask: Tensor, truth: Tensor, weights: RefinerWeights, region: Tensor | None = None
) -> Tensor:
    """The weighted sum; the gradient term needs a grid and is left out for points.

    Args:
        logits: (B, H, W), or (B, N) of points.
        mask: What came in, of that shape, in [0, 1].
        truth: Likewise.
        weights: Of the terms.
        region: Likewise, bool: which pixels count (`training.losses.refine_mask`); None for all.
    """
    alpha = torch.sigmoid(logits)
    difference = alpha - truth
    total = weights.cross_entropy * cross_entropy(logits, truth, region)
    total = total + weights.absolute * _mean(difference.abs(), region)
    total = total + weights.square * _mean(difference.square(), region)
    if weights.harm:
        total = total + weights.harm * harm(alpha, mask, truth, region)
    if weights.gradient and logits.ndim == 3:
        total = total + weights.gradient * gradient(alpha, truth, region)
    return total


def _mean(values: Tensor, region: Tensor | None) -> Tensor:
    return values.mean() if region is None else mean_over(values, region)

"""RefineMask's training rule: finer stages learn only where the coarser prediction, or the truth, has its boundary.

Source: Zhang et al., CVPR 2021, section 3.3; `shared/reference/refinement.md` C.2 and C.3. There the stages are masks
of 14, 28, 56 and 112 pixels of single instances. The rule is the same for any maps whose size doubles, BiRefNet's side
outputs among them, and for a refiner whose coarser prediction is the mask it is given.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from modeling.refine_mask import boundary

_UNDECIDED = 4.0 / 255.0


@dataclass(frozen=True)
class StageRule:
    """How stages are supervised.

    Attributes:
        weights: Of the stages, the coarsest first; the paper's are those of four.
        plain: How many of the first are supervised everywhere.
        width: Of the boundary in training, in pixels of the coarser stage.
        composed_width: Of the boundary in which a finer stage replaces the coarser one, as at inference.
        whole_images: Beyond the border the mask goes on; else there is background, as beyond an instance's box.
    """

    weights: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0)
    plain: int = 2
    width: int = 2
    composed_width: int = 1
    whole_images: bool = False


SIDE_OUTPUTS = StageRule((0.5, 0.75, 1.0), plain=1, whole_images=True)
"""For BiRefNet's side outputs at strides 32, 16 and 8."""


def supervised_region(coarse: Tensor, truth: Tensor, rule: StageRule) -> Tensor:
    """R = f_up(B_P or B_G), at twice the size: where the next stage is supervised.

    Args:
        coarse: (N, 1, H, W) logits of the composed prediction.
        truth: (N, 1, H, W) in [0, 1], at the same size.
        rule: Of it `width` and `whole_images`.

    Returns:
        (N, 1, 2 H, 2 W) bool.
    """
    found = _boundary(coarse >= 0, rule.width, rule.whole_images)
    wanted = _boundary(truth >= 0.5, rule.width, rule.whole_images)
    return _doubled((found | wanted).float()) >= 0.5


def staged(logits: Sequence[Tensor], truth: Tensor, rule: StageRule) -> Tensor:
    """The weighted sum over the stages of cross-entropy, mean over all pixels or over those of R.

    The mean is one over all images, and what is carried to the next stage is composed as at inference:
    M'ᵏ = Mᵏ within the boundary of M'ᵏ⁻¹, and f_up(M'ᵏ⁻¹) elsewhere. The last stages may be hollow away from
    boundaries; `modeling.refine_mask.compose` puts them together.

    Args:
        logits: (N, 1, H, W) of each stage, the coarsest first; sizes double.
        truth: (N, 1, H', W') in [0, 1], at the size of the last stage or a multiple of it.
        rule: The rule.

    Raises:
        ValueError: The numbers of stages and weights differ, or a size is not twice the one before.
    """
    if len(logits) != len(rule.weights) or not 0 < rule.plain <= len(logits):
        raise ValueError(
            f"expected {len(rule.weights)} stages, the first {rule.plain} of them plain, found {len(logits)}"
        )
    losses = []
    composed = logits[0].detach()
    before = composed
    for index, (finer, weight) in enumerate(zip(logits, rule.weights, strict=True)):
        if index and tuple(finer.shape[2:]) != tuple(2 * side for side in logits[index - 1].shape[2:]):
            raise ValueError(
                f"expected stage {index} at twice {tuple(logits[index - 1].shape[2:])}, found {tuple(finer.shape[2:])}"
            )
        wanted = _reduced(truth, finer)
        entropy = F.binary_cross_entropy_with_logits(finer.float(), wanted, reduction="none")
        if index < rule.plain:
            composed = finer.detach()
            losses.append(weight * entropy.mean())
        else:
            coarse_truth = _reduced(truth, before)
            region = supervised_region(composed, coarse_truth, rule)
            losses.append(weight * mean_over(entropy, region))
            refined = _doubled(_boundary(composed >= 0, rule.composed_width, rule.whole_images).float()) >= 0.5
            composed = torch.where(refined, finer.detach(), _doubled(composed))
        before = finer
    return torch.stack(losses).sum()


def refined_region(mask: Tensor, truth: Tensor, width: int) -> Tensor:
    """The region for a refiner of alpha mattes: near either contour, or undecided in either (C.6).

    Hair has no contour at a coarse size, so that what is neither 0 nor 1 belongs to it.

    Args:
        mask: (B, H, W) the coarser prediction in [0, 1], at the size of the truth.
        truth: (B, H, W) in [0, 1].
        width: Within how many pixels of a contour, along rows and columns.

    Returns:
        (B, H, W) bool.
    """
    regions = [_near_contour(each >= 0.5, width) for each in (mask, truth)]
    regions += [(each > _UNDECIDED) & (each < 1 - _UNDECIDED) for each in (mask, truth)]
    return torch.stack(regions).any(dim=0)


def mean_over(values: Tensor, region: Tensor) -> Tensor:
    """The mean of what lies in the region (of the same shape); 0 where nothing does."""
    return (values * region).sum() / region.sum().clamp(min=1)


def _near_contour(mask: Tensor, width: int) -> Tensor:
    side = 2 * width + 1
    levels = mask.float()[:, None]
    return ((F.max_pool2d(levels, side, 1, width) + F.max_pool2d(-levels, side, 1, width)) > 0)[:, 0]


def _boundary(mask: Tensor, width: int, whole_images: bool) -> Tensor:
    if not whole_images:
        return boundary(mask, width)
    repeated = F.pad(mask.float(), (width, width, width, width), mode="replicate") > 0.5
    return boundary(repeated, width)[..., width:-width, width:-width]


def _reduced(truth: Tensor, like: Tensor) -> Tensor:
    return F.adaptive_avg_pool2d(truth.float(), (like.shape[2], like.shape[3]))


def _doubled(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)

"""How the masks of RefineMask's stages become one: the finer only where the coarser has its boundary.

Batches of logits, for training and for the network itself; images have `matting.refinement`.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

_SHARE = 0.1
_FIRST_COMPOSED = 1


def boundary(mask: Tensor, width: int) -> Tensor:
    """Which pixels lie at the contour, as the published code finds them.

    A pixel does if more than a tenth of its window of 2 width + 1 pixels squared has the other label; what lies beyond
    the border is background. That is within `width` pixels of a straight edge; sharp corners are trimmed.

    Args:
        mask: (N, 1, S, S) bool.
        width: 2 in training, 1 else.

    Returns:
        (N, 1, S, S) bool.
    """
    side = 2 * width + 1
    share = F.avg_pool2d(mask.float(), side, stride=1, padding=width)  # counts the padding, which is 0
    other = torch.where(mask, 1 - share, share)
    return other > _SHARE + 1e-6  # a count over an odd square is never this near to a tenth of it


def compose(logits: Sequence[Tensor], width: int = 1) -> Tensor:
    """One mask of all stages: M'ᵏ = f(B) Mᵏ + (1 - f(B)) f(M'ᵏ⁻¹), B the boundary of M'ᵏ⁻¹, f the doubling of size.

    The first stage is left out, as in the paper: M' begins with the second, 28 x 28.

    Args:
        logits: Of the stages, (N, 1, S, S) each, S doubling from one to the next.
        width: Of the boundary.

    Returns:
        (N, 1, S, S) logits at the size of the last stage.

    Raises:
        ValueError: There are fewer than two stages.
    """
    if len(logits) <= _FIRST_COMPOSED:
        raise ValueError(f"expected the logits of at least {_FIRST_COMPOSED + 1} stages, found {len(logits)}")
    composed = logits[_FIRST_COMPOSED]
    for finer in logits[_FIRST_COMPOSED + 1 :]:
        refined = _doubled(boundary(composed >= 0, width).float()) >= 0.5
        composed = torch.where(refined, finer, _doubled(composed))
    return composed


def _doubled(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)

"""The structure loss: pixels near a contour weigh more. An option of BiRefNet's code, of weight 0 in every preset."""

from torch import Tensor
from torch.nn import functional as F

_WINDOW = 31
_EMPHASIS = 5.0


def structure(logits: Tensor, target: Tensor) -> Tensor:
    """Weighted BCE plus weighted IoU loss, mean over the batch (Wei et al., "F3Net", AAAI 2020, eq. 7 to 9).

    A pixel weighs w = 1 + 5 |mean of the target over its 31x31 window - target|, windows padded with 0. Then
    sum(w BCE) / sum(w), and 1 - (sum(w g p) + 1) / (sum(w (g + p)) - sum(w g p) + 1). Zero at a binary truth.

    Args:
        logits: (B, 1, H, W).
        target: (B, 1, H, W) in [0, 1].
    """
    dims = (1, 2, 3)
    weight = 1 + _EMPHASIS * (F.avg_pool2d(target, _WINDOW, 1, _WINDOW // 2) - target).abs()
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    pixels = (weight * entropy).sum(dims) / weight.sum(dims)
    probability = logits.sigmoid()
    both = (weight * probability * target).sum(dims)
    union = (weight * (probability + target)).sum(dims) - both
    return (pixels + 1 - (both + 1) / (union + 1)).mean()

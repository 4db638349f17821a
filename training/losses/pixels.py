"""Losses of single pixels. Source: BiRefNet's official `loss.py`, `shared/reference/birefnet.md` section 4.1."""

from torch import Tensor
from torch.nn import functional as F


def bce(probability: Tensor, target: Tensor) -> Tensor:
    """Mean binary cross-entropy, minimal (but not zero) at a soft truth."""
    return F.binary_cross_entropy(probability, target)


def mae(probability: Tensor, target: Tensor) -> Tensor:
    """Mean absolute error."""
    return (probability - target).abs().mean()

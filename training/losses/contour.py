"""The contour loss: how long the contour is, and what lies on its wrong side."""

import torch
from torch import Tensor

_FLAT = 1e-8


def contour(probability: Tensor, target: Tensor, length_weight: float = 10.0, published: bool = False) -> Tensor:
    """Active contour loss (Chen et al., "Learning active contour models", CVPR 2019; an option of BiRefNet's code).

    Region: mean of p (g - 1)^2 + (1 - p) g^2. Length: mean of sqrt(dx^2 + dy^2), forward differences. The published
    sum `length_weight * length(p) + region` is not least at the truth: an empty matte is better than a disc of less
    than 2 `length_weight` pixels of radius. Here |length(p) - length(g)| takes its place, so that the loss is 0 at a
    binary truth; `published` gives the sum as it was printed.

    Args:
        probability: (B, 1, H, W) in [0, 1].
        target: (B, 1, H, W) in [0, 1].
        length_weight: BiRefNet's code has 10.
        published: Leave the truth's own length in.
    """
    region = (probability * (target - 1) ** 2 + (1 - probability) * target**2).mean()
    length = _length(probability)
    if not published:
        length = (length - _length(target)).abs()
    return length_weight * length + region


def _length(plane: Tensor) -> Tensor:
    down = plane[..., 1:, :-1] - plane[..., :-1, :-1]
    across = plane[..., :-1, 1:] - plane[..., :-1, :-1]
    # The constant keeps the square root's gradient finite where the plane is flat.
    return torch.sqrt(down.square() + across.square() + _FLAT).mean()

"""Boundary maps of alpha mattes that a gradient passes through."""

from torch import Tensor
from torch.nn import functional as F

RADIUS = 2


def soft_boundary(alpha: Tensor, radius: int = RADIUS) -> Tensor:
    """The soft morphological gradient: largest less smallest alpha within a square of `radius` (reference D.4).

    Of a binary matte, 1 within `radius` pixels of the contour on both sides and 0 elsewhere. The published loss takes a
    log-softmax over the one channel of a boundary head, which is 0 everywhere and has no gradient (D.3); this has one.

    Args:
        alpha: (B, 1, H, W) in [0, 1].
        radius: In pixels.

    Returns:
        (B, 1, H, W) in [0, 1].

    Raises:
        ValueError: Alpha is not in [0, 1]: the inverse network means nothing beyond what it was trained on.
    """
    check_range(alpha, "alpha")
    side = 2 * radius + 1
    return F.max_pool2d(alpha, side, 1, radius) + F.max_pool2d(-alpha, side, 1, radius)


def check_range(values: Tensor, name: str) -> None:
    """Refuse what is not in [0, 1], not-a-number included.

    Raises:
        ValueError: Says what was found.
    """
    low, high = (float(each) for each in values.detach().aminmax())
    if not (low >= 0.0 and high <= 1.0):
        raise ValueError(f"InverseForm: expected {name} in [0, 1], found values from {low:g} to {high:g}")

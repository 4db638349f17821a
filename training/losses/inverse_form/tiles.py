"""Boundary maps cut into tiles, so that a transformation is asked for where it is nearly one and the same."""

import torch
from torch import Tensor
from torch.nn import functional as F


def cut(maps: Tensor, side: int) -> Tensor:
    """(B, C, H, W) to (B n, C, side, side): row by row; what is lacking at the lower and right border is 0."""
    height, width = maps.shape[2:]
    padded = F.pad(maps, (0, -width % side, 0, -height % side))
    tiles = padded.unfold(2, side, side).unfold(3, side, side)
    return tiles.permute(0, 2, 3, 1, 4, 5).reshape(-1, maps.shape[1], side, side)


def with_boundary(truth: Tensor, minimum_share: float) -> Tensor:
    """Which of (N, 1, S, S) true boundary tiles have enough of a boundary for a transformation to be defined.

    Returns:
        (N,) bool: the mean of the tile is at least `minimum_share`.
    """
    return truth.mean(dim=(1, 2, 3)) >= minimum_share


def grid(count: int, like: Tensor) -> Tensor:
    """Centres of `count` pixels in [-1, 1], as (count, count, 3) homogeneous points (x, y, 1)."""
    axis = (torch.arange(count, dtype=like.dtype, device=like.device) + 0.5) * (2.0 / count) - 1.0
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return torch.stack((x, y, torch.ones_like(x)), dim=-1)

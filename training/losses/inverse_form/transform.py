"""Affine transformations of a tile, as six parameters whose zero is the identity.

A tile's coordinates are x and y in [-1, 1]. The parameters are scaled so that 1 is a shift of an eighth of the tile's
side (8 of 64 pixels), or a change of 0.2 in the linear part: none of them outweighs the others in a norm.
"""

import torch
from torch import Tensor

PARAMETERS = 6
SHIFT = 0.25
LINEAR = 0.2


def matrices(parameters: Tensor) -> Tensor:
    """(N, 6) parameters, a matrix' first two rows less the identity's, to (N, 3, 3) homogeneous matrices."""
    scale = parameters.new_tensor([LINEAR, LINEAR, SHIFT])
    rows = parameters.view(-1, 2, 3) * scale
    last = torch.zeros_like(rows[:, :1])
    return torch.cat((rows, last), dim=1) + torch.eye(3, dtype=parameters.dtype, device=parameters.device)


def shift_of(x: float, y: float, side: int) -> Tensor:
    """The parameters (1, 6) of a shift by whole or broken pixels of a tile of `side`."""
    unit = 2.0 / side / SHIFT
    return torch.tensor([[0.0, 0.0, x * unit, 0.0, 0.0, y * unit]])

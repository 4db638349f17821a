"""Copies of a network that cost no memory: new modules around the same tensors."""

import copy
import itertools
from typing import TypeVar

import torch
from torch import nn

M = TypeVar("M", bound=nn.Module)


def with_shared_tensors(network: M) -> M:
    """A copy whose modules are new and whose tensors are the given network's own.

    Replacing a module or a parameter of the copy leaves the original alone; writing into a tensor does not.

    Raises:
        ValueError: The network is in training mode, where folded layers would mean something else.
    """
    if network.training:
        raise ValueError("expected a network in evaluation mode, found one in training mode")
    memo: dict[int, torch.Tensor] = {
        id(tensor): tensor for tensor in itertools.chain(network.parameters(), network.buffers())
    }
    return copy.deepcopy(network, memo)


def frozen(tensor: torch.Tensor) -> nn.Parameter:
    """A parameter that is not trained."""
    return nn.Parameter(tensor.detach().contiguous(), requires_grad=False)


def pointwise(weight: torch.Tensor, bias: torch.Tensor | None) -> nn.Conv2d:
    """The 1x1 convolution with a weight (O, I, 1, 1) and a bias (O,) or none."""
    result = nn.Conv2d(weight.shape[1], weight.shape[0], 1, bias=bias is not None, device="meta")
    result.weight = frozen(weight)
    if bias is not None:
        result.bias = frozen(bias)
    return result.eval()

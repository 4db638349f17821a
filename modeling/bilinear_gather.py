"""Reading feature maps between pixels: a weighted sum of four rows of a table, and its gradients.

The sum is an embedding bag of four entries, which torch runs several times faster on a CPU than `grid_sample`. Its own
gradient of the table is slow, so that is a second embedding bag here, over the samples sorted by the pixel they read.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

# From a sample's first row of the table to the four it reads.
Steps = tuple[int, int, int, int]


def bilinear_gather(table: Tensor, rows: Tensor, columns: Tensor, factors: Tensor) -> Tensor:
    """Sample maps at fractional positions; differentiable (once) in every argument.

    Args:
        table: (B, H + 3, W + 3, C): (H, W) maps in a border of zeros, one above and left, two below and right.
        rows: (B, ...) vertical positions in pixels of the (H, W) map; anything outside it reads zeros.
        columns: Horizontal positions, the same shape.
        factors: What each sample is multiplied by, the same shape.

    Returns:
        (samples, C) in the order of the flattened positions.
    """
    batch, height, width, channels = table.shape
    rows, columns = rows.clamp(-1.0, height - 3.0), columns.clamp(-1.0, width - 3.0)
    top, left = rows.detach().floor(), columns.detach().floor()
    across = columns - left
    lower = factors * (rows - top)
    upper = factors - lower
    lower_right, upper_right = lower * across, upper * across
    weights = torch.stack((upper - upper_right, upper_right, lower - lower_right, lower_right), dim=-1)
    image = torch.arange(batch, dtype=torch.int32, device=table.device) * (height * width)
    first = ((top + 1.0) * width + (left + 1.0)).to(torch.int32)
    # Undefined positions (NaN) give undefined samples, but must not read outside the table.
    first = first.clamp_(0, (height - 1) * width - 2) + image.view(-1, *(1 for _ in rows.shape[1:]))
    steps = (0, 1, width, width + 1)
    return _FourRows.apply(table.reshape(-1, channels), first.reshape(-1), weights.reshape(-1, 4), steps)


class _FourRows(torch.autograd.Function):
    """For each sample, the sum of four weighted rows of the table at fixed steps from its first."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, first: Tensor, weights: Tensor, steps: Steps) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(table, first, weights)
        ctx.steps = steps
        return F.embedding_bag(_entries(first, steps), table, mode="sum", per_sample_weights=weights)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None, Tensor | None, None]:  # noqa: ANN401
        table, first, weights = ctx.saved_tensors
        gradient = gradient.contiguous()
        for_table = for_weights = None
        if ctx.needs_input_grad[0]:
            for_table = _table_gradient(gradient, first, weights, ctx.steps, len(table))
        if ctx.needs_input_grad[2]:
            for_weights = _weights_gradient(gradient, table, first, weights, ctx.steps)
        return for_table, None, for_weights, None


def _entries(first: Tensor, steps: Steps) -> Tensor:
    return first[:, None] + torch.tensor(steps, dtype=first.dtype, device=first.device)


def _weights_gradient(gradient: Tensor, table: Tensor, first: Tensor, weights: Tensor, steps: Steps) -> Tensor:
    with torch.enable_grad():
        leaf = weights.detach().requires_grad_()
        sampled = F.embedding_bag(_entries(first, steps), table.detach(), mode="sum", per_sample_weights=leaf)
    return torch.autograd.grad(sampled, leaf, gradient)[0]


def _table_gradient(gradient: Tensor, first: Tensor, weights: Tensor, steps: Steps, count: int) -> Tensor:
    """(count, C): each sample's gradient added to the four rows it read, weighted."""
    sorted_first, order = first.sort()
    cells = torch.arange(count, dtype=first.dtype, device=first.device)
    starts = torch.searchsorted(sorted_first, cells, out_int32=True)
    order = order.to(first.dtype)
    by_cell = weights.index_select(0, order).t().contiguous()
    total = gradient.new_zeros(count, gradient.shape[1])
    for step, corner in zip(steps, by_cell, strict=True):
        part = F.embedding_bag(order, gradient, starts, mode="sum", per_sample_weights=corner)
        total[step:] += part[: count - step]
    return total

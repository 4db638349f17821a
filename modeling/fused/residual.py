"""The step between two halves of a transformer block: add to the residual stream, and normalise, in one pass."""

import torch
import triton
from torch import Tensor, nn

from modeling.folding.sharing import frozen
from modeling.fused.kernels import add_layer_norm_kernel
from modeling.fused.launches import Launch, Launches, Task

_ELEMENTS = 4096  # of a program: enough bytes under way for a memory-bound kernel


def add_and_normalise(
    x: Tensor, delta: Tensor | None, norm: "ResidualNorm", dtype: torch.dtype, launches: Launches | None = None
) -> Tensor:
    """Add `delta` to the residual stream `x`, in place, and give its layer normalisation.

    Args:
        x: (..., C) fp32, contiguous: trained Swin networks have channels that half precision could not add to.
        delta: (..., C) of any type, or None to add nothing.
        norm: Weight, bias, epsilon.
        dtype: Of the result.
        launches: Of this GPU.

    Returns:
        (..., C).

    Raises:
        ValueError: `x` is not fp32 or not contiguous, or `delta` is of another shape.
    """
    if x.dtype != torch.float32 or not x.is_contiguous() or (delta is not None and delta.shape != x.shape):
        found = f"{x.dtype} {tuple(x.shape)} and {'nothing' if delta is None else tuple(delta.shape)}"
        raise ValueError(f"expected contiguous fp32 and a delta of its shape, found {found}")
    channels = x.shape[-1]
    rows = x.numel() // channels
    y = torch.empty_like(x, dtype=dtype)
    block = triton.next_power_of_2(channels)
    block_rows = max(1, _ELEMENTS // block)
    added = x if delta is None else delta.contiguous()

    def call(launch: Launch) -> None:
        add_layer_norm_kernel[(triton.cdiv(rows, block_rows),)](
            x,
            added,
            norm.weight,
            norm.bias,
            y,
            rows,
            norm.epsilon,
            channels=channels,
            add=delta is not None,
            block_channels=block,
            **launch.arguments(),
        )

    moved = (x, y) if delta is None else (x, delta, x, y)
    size = sum(each.numel() * each.element_size() for each in moved)
    task = Task("add_layer_norm", (str(dtype), channels, delta is not None), flops=0, bytes=size)
    # One candidate: it adds in place, so that it cannot be tried twice.
    (launches or Launches()).run(task, [Launch((("block_rows", block_rows),))], call)
    return y


class ResidualNorm(nn.Module):
    """What `add_and_normalise` needs of a layer normalisation, in fp32."""

    def __init__(self, original: nn.LayerNorm) -> None:
        super().__init__()
        self.weight, self.bias = frozen(original.weight.float()), frozen(original.bias.float())
        self.epsilon = float(original.eps)

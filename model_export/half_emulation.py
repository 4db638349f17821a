"""Half precision as a GPU computes it, on a CPU: every operator rounds what it gives, and accumulates in fp32.

Torch's own half-precision kernels on a CPU take ten times as long as its fp32 ones; ONNX Runtime's CPU provider
computes most of a half-precision graph in fp32 without rounding in between, so it shows less error than there will be.
"""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

_IN_FP32 = frozenset(
    f"aten::{name}"
    for name in (
        "convolution",
        "mm",
        "bmm",
        "addmm",
        "baddbmm",
        "native_layer_norm",
        "native_batch_norm",
        "upsample_bilinear2d",
        "_softmax",
        "gelu",
        "mean.dim",
        "_adaptive_avg_pool2d",
        "sigmoid",
    )
)
"""Operators that GPUs accumulate, or interpolate, in fp32. Elementwise ones round alike wherever they are computed."""


class HalfEmulation(TorchDispatchMode):
    """While it is entered, half-precision operators are computed in fp32 and rounded."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        kwargs = kwargs or {}
        if func.name() not in _IN_FP32 or not _all_half((args, kwargs)):
            return func(*args, **kwargs)
        args, kwargs = tree_map_only(torch.Tensor, lambda tensor: tensor.float(), (args, kwargs))
        return tree_map_only(torch.Tensor, _rounded, func(*args, **kwargs))


def _rounded(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.half() if tensor.dtype == torch.float32 else tensor


def _all_half(arguments: Any) -> bool:  # noqa: ANN401  nested arguments
    found: list[torch.dtype] = []
    tree_map_only(torch.Tensor, lambda tensor: found.append(tensor.dtype), arguments)
    return bool(found) and all(dtype == torch.float16 for dtype in found)

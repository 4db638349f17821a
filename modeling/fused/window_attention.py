"""Window attention as one kernel, from the projected map to the attended one.

Windows are found by index: there is no padded, rolled or partitioned copy of the map, no mask for each window (120 MB
in fp16 per shifted block of Swin-L's first stage, per image of 1024x1024) and no matrix of scores (240 MB).
"""

import torch
import triton
from torch import Tensor, nn
from torch.nn import functional as F

from modeling.birefnet.window_attention import BLOCKED
from modeling.folding.attention import ConstantWindowAttention
from modeling.folding.sharing import frozen
from modeling.fused.kernels import window_attention_kernel
from modeling.fused.launches import Launch, Launches, Task

_SMALLEST = 16


def fused_window_attention(
    qkv: Tensor, qkv_bias: Tensor, position_bias: Tensor, window: int, shift: int, launches: Launches | None = None
) -> Tensor:
    """What `WindowAttention` computes between its two projections.

    Args:
        qkv: (B, H, W, 3 C), projected, bias included.
        qkv_bias: (3 C,), what the tokens beyond the map's border project to: they are zero before.
        position_bias: (heads, N, N), N = window^2, heads a divisor of C.
        window: Side of a window, in tokens.
        shift: By how many tokens the windows are moved up and left; 0 for none.
        launches: Of this GPU.

    Returns:
        (B, H, W, C), of the type of `qkv`.

    Raises:
        ValueError: Shapes do not fit each other.
    """
    batch, height, width, triple = qkv.shape
    heads, tokens = position_bias.shape[0], window * window
    if triple % (3 * heads) or tuple(position_bias.shape[1:]) != (tokens, tokens) or qkv_bias.shape != (triple,):
        raise ValueError(
            f"expected (B, H, W, 3 C), (3 C,) and (heads, {tokens}, {tokens}), "
            f"found {tuple(qkv.shape)}, {tuple(qkv_bias.shape)} and {tuple(position_bias.shape)}"
        )
    head_channels = triple // 3 // heads
    down, across = -(-height // window), -(-width // window)
    qkv, position_bias = qkv.contiguous(), position_bias.contiguous()
    y = qkv.new_empty((batch, height, width, triple // 3))

    def call(launch: Launch) -> None:
        parts = triton.cdiv(tokens, dict(launch.blocks)["block_queries"])
        window_attention_kernel[(batch * down * across * parts, heads)](
            qkv,
            qkv_bias,
            position_bias,
            y,
            height,
            width,
            down,
            across,
            heads,
            head_channels**-0.5,
            window=window,
            shift=shift,
            head_channels=head_channels,
            blocked=BLOCKED,
            block_channels=max(_SMALLEST, triton.next_power_of_2(head_channels)),
            precision="ieee",
            **launch.arguments(),
        )

    task = Task(
        "window_attention",
        (str(qkv.dtype), window, shift > 0, head_channels),
        flops=4 * batch * down * across * heads * tokens * tokens * head_channels,
        bytes=sum(each.numel() * each.element_size() for each in (qkv, position_bias, y)),
    )
    (launches or Launches()).run(task, _candidates(tokens), call)
    return y


def _candidates(tokens: int) -> list[Launch]:
    def launch(queries: int, keys: int, warps: int) -> Launch:
        return Launch((("block_queries", queries), ("block_keys", keys)), warps)

    if tokens <= 64:
        return [launch(64, 64, 4), launch(64, 32, 4), launch(32, 64, 2), launch(16, 64, 1)]
    # 144 tokens are 160 in blocks of 32 or 16, 192 in blocks of 64, and 256 in one.
    shapes = ((64, 32, 4), (32, 32, 2), (16, 64, 1), (16, 32, 1), (128, 32, 4), (64, 64, 4), (64, 16, 4))
    return [launch(*shape) for shape in shapes]


class FusedWindowAttention(nn.Module):
    """A `ConstantWindowAttention` on one kernel."""

    def __init__(self, original: ConstantWindowAttention, dtype: torch.dtype, launches: Launches) -> None:
        super().__init__()
        self.window, self.shift = original.window, original.shift
        self.qkv_weight, self.qkv_bias = frozen(original.qkv.weight.to(dtype)), frozen(original.qkv.bias.to(dtype))
        self.proj_weight, self.proj_bias = frozen(original.proj.weight.to(dtype)), frozen(original.proj.bias.to(dtype))
        self.position_bias = frozen(original.position_bias.to(dtype))
        self._launches = launches
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to (B, H, W, C)."""
        qkv = F.linear(x, self.qkv_weight, self.qkv_bias)
        attended = fused_window_attention(
            qkv, self.qkv_bias, self.position_bias, self.window, self.shift, self._launches
        )
        return F.linear(attended, self.proj_weight, self.proj_bias)

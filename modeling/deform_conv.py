"""Modulated deformable convolution (DCNv2, Zhu et al. 2019) in plain torch, with torchvision's semantics."""

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from modeling.bilinear_gather import bilinear_gather

# Floats sampled at once: all taps of a 7x7 kernel over a big map would be the stock kernels' giant im2col buffer, and
# 16 MB stay below the size from which an allocator asks the system for fresh pages each time.
CHUNK_FLOATS = 1 << 22
# Samples a call may keep for its backward pass (256 MB); beyond, it samples again instead.
SAVED_FLOATS = 1 << 26

Pair = tuple[int, int]


class DeformConvOperator(Protocol):
    """The seam of `DeformableConv2d`: whatever computes a deformable convolution."""

    def __call__(  # noqa: PLR0913  a tensor operator
        self,
        x: Tensor,
        offset: Tensor,
        mask: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        *,
        stride: Pair,
        padding: Pair,
        dilation: Pair,
    ) -> Tensor:
        """See `deform_conv2d`."""


def deform_conv2d(  # noqa: PLR0913  a tensor operator
    x: Tensor,
    offset: Tensor,
    mask: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
) -> Tensor:
    """Convolve `x` with taps that are moved by `offset` and weighed by `mask`; differentiable in every tensor.

    The sample of tap t = i * kw + j at output (y, x) lies at (y * stride - padding + i * dilation + offset[2t],
    x * stride - padding + j * dilation + offset[2t + 1]) and is read bilinearly; each of its four neighbours counts as
    zero where it lies outside the map. Coordinates are fp32 (or fp64) whatever the type of the features, because half
    precision cannot hold a fraction of a pixel far from the origin. Memory beyond the operands and the result is
    bounded by `CHUNK_FLOATS` and, where a backward pass is to follow, `SAVED_FLOATS`.

    Args:
        x: (B, C, H, W) features.
        offset: (B, 2 kh kw, H', W') in pixels, (dy, dx) per tap.
        mask: (B, kh kw, H', W') factor of each sample.
        weight: (O, C, kh, kw).
        bias: (O,) or None.
        stride: Vertical, horizontal.
        padding: Vertical, horizontal, in pixels on either side.
        dilation: Vertical, horizontal.

    Returns:
        (B, O, H', W') in the type of the features.

    Raises:
        ValueError: Shapes do not fit each other.
    """
    height, width = _check_shapes(x, offset, mask, weight, (stride, padding, dilation))
    batch, channels = x.shape[:2]
    out_channels, _, *kernel = weight.shape
    taps = kernel[0] * kernel[1]
    precise = torch.float64 if x.dtype == torch.float64 else torch.float32
    origins = tuple(
        start.to(x.device, precise)
        for start in _tap_origins((kernel[0], kernel[1]), (height, width), (stride, padding, dilation))
    )
    # Rows of zeros around the map stand for everything outside it: one above and left, two below and right.
    table = F.pad(x.permute(0, 2, 3, 1).to(precise), (0, 0, 1, 2, 1, 2))
    # (B, H', W', taps, ...): one sample's numbers lie together.
    moves = offset.to(precise).unflatten(1, (taps, 2)).permute(0, 3, 4, 1, 2)
    factors = mask.to(precise).permute(0, 2, 3, 1)
    matrix = weight.permute(0, 2, 3, 1).reshape(out_channels, taps * channels)

    def convolve(images: slice, lines: slice) -> Tensor:
        rows = origins[0][lines] + moves[images, lines, ..., 0]
        columns = origins[1] + moves[images, lines, ..., 1]
        sampled = bilinear_gather(table[images], rows, columns, factors[images, lines])
        product = torch.matmul(matrix.to(sampled.dtype), sampled.reshape(-1, taps * channels).t())
        return product.reshape(out_channels, *rows.shape[:3]).transpose(0, 1)

    per_line = width * taps * channels
    again = torch.is_grad_enabled() and batch * height * per_line > SAVED_FLOATS
    strips = []
    for images in _chunks(batch, height * per_line):
        parts = [
            checkpoint(convolve, images, lines, use_reentrant=False) if again else convolve(images, lines)
            for lines in _chunks(height, per_line)
        ]
        strips.append(parts[0] if len(parts) == 1 else torch.cat(parts, dim=2))
    result = strips[0] if len(strips) == 1 else torch.cat(strips)
    if bias is not None:
        result = result + bias[:, None, None].to(result.dtype)
    return result.to(x.dtype).contiguous()


def _chunks(count: int, floats_each: int) -> Iterator[slice]:
    step = max(1, CHUNK_FLOATS // max(1, floats_each))
    return (slice(first, min(first + step, count)) for first in range(0, count, step))


def _check_shapes(x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, geometry: tuple[Pair, Pair, Pair]) -> Pair:
    stride, padding, dilation = geometry
    kernel = (weight.shape[2], weight.shape[3])
    taps = kernel[0] * kernel[1]
    height, width = (
        (size + 2 * pad - step * (side - 1) - 1) // move + 1
        for size, pad, step, side, move in zip(x.shape[2:], padding, dilation, kernel, stride, strict=True)
    )
    for name, tensor, expected in (
        ("weight", weight, (weight.shape[0], x.shape[1], *kernel)),
        ("offset", offset, (x.shape[0], 2 * taps, height, width)),
        ("mask", mask, (x.shape[0], taps, height, width)),
    ):
        if tuple(tensor.shape) != expected:
            raise ValueError(f"{name} must be {expected} for features of {tuple(x.shape)}, found {tuple(tensor.shape)}")
    return height, width


def _tap_origins(kernel: Pair, size: Pair, geometry: tuple[Pair, Pair, Pair]) -> tuple[Tensor, Tensor]:
    """Where each tap reads without an offset: rows (H', 1, K) and columns (W', K), in pixels of the input."""
    stride, padding, dilation = geometry
    taps = torch.arange(kernel[0] * kernel[1])
    down = (taps // kernel[1] * dilation[0])[None] + (torch.arange(size[0]) * stride[0] - padding[0])[:, None]
    across = (taps % kernel[1] * dilation[1])[None] + (torch.arange(size[1]) * stride[1] - padding[1])[:, None]
    return down[:, None], across


class DeformableConv2d(nn.Module):
    """A deformable convolution that predicts its own offsets and modulation from its input.

    `operator` is the seam: an exporter or a device with a faster kernel assigns another callable of the same
    signature, and the network need not know.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__()
        padding = kernel_size // 2
        self.padding = (padding, padding)
        self.operator: DeformConvOperator = deform_conv2d
        taps = kernel_size * kernel_size
        self.offset_conv = nn.Conv2d(in_channels, 2 * taps, kernel_size, padding=padding)
        self.modulator_conv = nn.Conv2d(in_channels, taps, kernel_size, padding=padding)
        self.regular_conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=padding, bias=False)
        for layer in (self.offset_conv, self.modulator_conv):
            nn.init.zeros_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) to (B, out, H, W)."""
        return self.operator(
            x,
            self.offset_conv(x),
            2.0 * torch.sigmoid(self.modulator_conv(x)),
            self.regular_conv.weight,
            self.regular_conv.bias,
            stride=(1, 1),
            padding=self.padding,
            dilation=(1, 1),
        )

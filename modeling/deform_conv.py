"""Modulated deformable convolution (DCNv2, Zhu et al. 2019) in plain torch, with torchvision's semantics."""

from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Samples held at once: all taps of a 7x7 kernel over a big map would be the stock kernels' giant im2col buffer.
COLUMN_BUDGET = 1 << 24


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
        stride: tuple[int, int],
        padding: tuple[int, int],
        dilation: tuple[int, int],
    ) -> Tensor:
        """See `deform_conv2d`."""


def deform_conv2d(  # noqa: PLR0913  a tensor operator
    x: Tensor,
    offset: Tensor,
    mask: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    dilation: tuple[int, int] = (1, 1),
) -> Tensor:
    """Convolve `x` with taps that are moved by `offset` and weighed by `mask`; differentiable in every tensor.

    The sample of tap t = i * kw + j at output (y, x) lies at (y * stride - padding + i * dilation + offset[2t],
    x * stride - padding + j * dilation + offset[2t + 1]) and is read bilinearly; each of its four neighbours counts as
    zero where it lies outside the map. Coordinates are fp32 (or fp64) whatever the type of the features, because half
    precision cannot hold a fraction of a pixel far from the origin.

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
    out_height, out_width = _check_shapes(x, offset, mask, weight, (stride, padding, dilation))
    batch, channels = x.shape[:2]
    out_channels, _, kernel_height, kernel_width = weight.shape
    taps = kernel_height * kernel_width
    rows, columns = _tap_positions(offset, (kernel_height, kernel_width), stride, padding, dilation)
    # grid_sample's own normalised coordinates, align_corners=False: defined for maps of one pixel too.
    grid = torch.stack(
        ((2.0 * columns + 1.0) / x.shape[3] - 1.0, (2.0 * rows + 1.0) / x.shape[2] - 1.0), dim=-1
    )  # (B, K, H', W', 2)
    features = x.to(grid.dtype)
    matrix = weight.reshape(out_channels, channels, taps)
    step = max(1, COLUMN_BUDGET // max(1, batch * channels * out_height * out_width))
    total = x.new_zeros((), dtype=grid.dtype)
    for first in range(0, taps, step):
        last = min(first + step, taps)
        sampled = F.grid_sample(
            features,
            grid[:, first:last].reshape(batch, (last - first) * out_height, out_width, 2),
            mode="bilinear",
            padding_mode="zeros",
            align_corners=False,
        ).reshape(batch, channels, last - first, out_height * out_width)
        sampled = sampled * mask[:, None, first:last].flatten(3).to(sampled.dtype)
        part = torch.matmul(
            matrix[:, :, first:last].reshape(out_channels, -1).to(sampled.dtype),
            sampled.reshape(batch, -1, out_height * out_width),
        )
        total = total + part
    if bias is not None:
        total = total + bias[:, None].to(total.dtype)
    return total.reshape(batch, out_channels, out_height, out_width).to(x.dtype)


def _check_shapes(
    x: Tensor,
    offset: Tensor,
    mask: Tensor,
    weight: Tensor,
    geometry: tuple[tuple[int, int], tuple[int, int], tuple[int, int]],
) -> tuple[int, int]:
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


def _tap_positions(
    offset: Tensor,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
) -> tuple[Tensor, Tensor]:
    """Rows and columns, (B, K, H', W') in pixels of the input, that each tap reads at each output position."""
    batch, _, height, width = offset.shape
    precise = torch.float64 if offset.dtype == torch.float64 else torch.float32
    moved = offset.to(precise).reshape(batch, kernel[0] * kernel[1], 2, height, width)

    def start(count: int, axis: int) -> Tensor:
        return torch.arange(count, dtype=precise, device=offset.device) * stride[axis] - padding[axis]

    def taps(axis: int) -> Tensor:
        return torch.arange(kernel[axis], dtype=precise, device=offset.device) * dilation[axis]

    rows = taps(0).repeat_interleave(kernel[1]).view(-1, 1, 1) + start(height, 0).view(1, -1, 1)
    columns = taps(1).repeat(kernel[0]).view(-1, 1, 1) + start(width, 1).view(1, 1, -1)
    return moved[:, :, 0] + rows, moved[:, :, 1] + columns


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

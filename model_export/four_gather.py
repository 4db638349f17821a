"""Deformable convolution out of operators that every runtime has: four gathers, a weighted sum and one matrix product.

For TensorRT, whose own kernel adds offsets to coordinates in half precision and loses 1.6 % of the layer at 1024x1024
(`reference/deform_conv.md`, 3 and 4). Here coordinates and interpolation weights are fp32, whatever the features are.
Its compiler fuses the gathers with the sum, so that four times the samples never lie in memory.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modeling.deform_conv import DeformableConv2d
from modeling.folding.sampling import MergedDeformableConv2d


def four_gather_deform_conv2d(  # noqa: PLR0913  a tensor operator
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
    """`modeling.deform_conv.deform_conv2d` in operators that export to plain ONNX: the same arguments and answer."""
    batch, channels, height, width = x.shape
    out_channels, _, *kernel = weight.shape
    down, across = offset.shape[2:]
    # (B, H', W', kh, kw): the samples of one output pixel lie together, as the matrix product wants them.
    moves = offset.permute(0, 2, 3, 1).to(torch.float32).reshape(-1, down, across, *kernel, 2)
    factors = mask.permute(0, 2, 3, 1).to(torch.float32).reshape(-1, down, across, *kernel)
    rows = _origins(down, kernel[0], stride[0], padding[0], dilation[0], x.device)[:, None, :, None]
    columns = _origins(across, kernel[1], stride[1], padding[1], dilation[1], x.device)[None, :, None, :]
    y = (rows + moves[..., 0]).clamp(-1.0, float(height))
    z = (columns + moves[..., 1]).clamp(-1.0, float(width))
    top, left = torch.floor(y), torch.floor(z)
    lower, right = y - top, z - left
    # Rows of zeros around the map stand for everything outside it: one above and left, two below and right.
    table = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 2, 1, 2)).reshape(-1, channels)
    line, image = width + 3, (height + 3) * (width + 3)
    first = ((top + 1.0) * line + (left + 1.0)).to(torch.int32)
    # Undefined positions (NaN) give undefined samples, but must not read outside the table.
    first = first.clamp(0, image - line - 2)
    first = first + torch.arange(batch, dtype=torch.int32, device=x.device).reshape(-1, 1, 1, 1, 1) * image

    def corner(step: int, share: Tensor) -> Tensor:
        return table.index_select(0, (first + step).reshape(-1)) * share.to(x.dtype).reshape(-1, 1)

    below, above = factors * lower, factors * (1.0 - lower)
    sampled = corner(0, above * (1.0 - right)) + corner(1, above * right)
    sampled = sampled + corner(line, below * (1.0 - right)) + corner(line + 1, below * right)
    product = sampled.reshape(-1, kernel[0] * kernel[1] * channels) @ _matrix(weight)
    if bias is not None:
        product = product + bias
    return product.reshape(-1, down, across, out_channels).permute(0, 3, 1, 2)


def use_four_gathers(network: nn.Module) -> None:
    """Make every deformable convolution of a network call the decomposition, in place."""
    for module in network.modules():
        if isinstance(module, DeformableConv2d | MergedDeformableConv2d):
            module.operator = four_gather_deform_conv2d


def _matrix(weight: Tensor) -> Tensor:
    """(O, C, kh, kw) to (kh kw C, O)."""
    return weight.permute(2, 3, 1, 0).reshape(-1, weight.shape[0])


def _origins(size: int, taps: int, stride: int, padding: int, dilation: int, device: torch.device) -> Tensor:
    """(size, taps): where each tap of each output pixel reads along one axis without an offset, in input pixels."""
    outputs = torch.arange(size, dtype=torch.float32, device=device) * stride - padding
    return outputs[:, None] + torch.arange(taps, dtype=torch.float32, device=device) * dilation

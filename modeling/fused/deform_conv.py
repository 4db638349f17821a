"""Modulated deformable convolution as one kernel: an implicit matrix product over a map in (B, H, W, C) order.

Each program takes a block of output pixels, and for each tap gathers the four corners of the sample, one row of C
channels each, weighs and sums them in fp32, and multiplies the block with that tap's matrix. The stock kernels' columns
(411 MB in fp16 for the 7x7 one of the decoder's last level, per image of 1024x1024) never exist, nor do the modulation
after its sigmoid, the separate bias or the map before the ReLU. Offsets and modulation come from one convolution.
"""

from dataclasses import dataclass

import torch
import triton
from torch import Tensor, nn

from modeling.birefnet.blocks import DeformableBranch
from modeling.deform_conv import Pair
from modeling.folding.sampling import MergedDeformableConv2d
from modeling.folding.sharing import frozen
from modeling.fused.kernels import deform_conv_kernel
from modeling.fused.launches import Launch, Launches, Task

_SMALLEST = 16  # side of a matrix that tensor cores take
_CHANNEL_MULTIPLE = 8  # of fp16 channels that they take without padding


@dataclass(frozen=True, slots=True)
class Geometry:
    """Of a deformable convolution; pairs are vertical, horizontal, in pixels."""

    kernel: Pair
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)

    @property
    def taps(self) -> int:
        """Samples for each output pixel."""
        return self.kernel[0] * self.kernel[1]

    def output_size(self, size: Pair) -> Pair:
        """(height, width) of the output for an input of a size."""
        height, width = (
            (length + 2 * pad - step * (side - 1) - 1) // move + 1
            for length, pad, step, side, move in zip(
                size, self.padding, self.dilation, self.kernel, self.stride, strict=True
            )
        )
        return height, width


@dataclass(frozen=True, slots=True)
class Epilogue:
    """What happens around the product.

    Attributes:
        factor: Of the modulation, after its sigmoid: the network's own is 2, one that is folded is 1.
        relu: Whether negative outputs become zero.
    """

    factor: float = 1.0
    relu: bool = False


def fused_deform_conv2d(  # noqa: PLR0913  a tensor operator
    x: Tensor,
    sampling: Tensor,
    weight: Tensor,
    bias: Tensor,
    geometry: Geometry,
    epilogue: Epilogue = Epilogue(),
    launches: Launches | None = None,
) -> Tensor:
    """What `modeling.deform_conv.deform_conv2d` computes, with the modulation's sigmoid, the bias and the ReLU.

    Args:
        x: (B, C, H, W) features, fp16, bf16 or fp32; fastest in channels-last memory.
        sampling: (B, S, H', W'), S >= 3 K for K taps: offsets dy, dx of each tap in pixels, then the logits of the
            modulation. Channels beyond are not read. Of the features' type.
        weight: (K, C, O), of the features' type; BatchNorms are folded into it and the bias beforehand.
        bias: (O,).
        geometry: Kernel, stride, padding, dilation.
        epilogue: Factor of the modulation, ReLU.
        launches: Of this GPU.

    Returns:
        (B, O, H', W') in channels-last memory, of the features' type.

    Raises:
        ValueError: Shapes do not fit each other.
    """
    batch, channels, height, width = x.shape
    outputs = weight.shape[2]
    out_height, out_width = geometry.output_size((height, width))
    _check(x, sampling, weight, bias, geometry)
    x = x.contiguous(memory_format=torch.channels_last)
    sampling = sampling.contiguous(memory_format=torch.channels_last)
    shape = (batch, outputs, out_height, out_width)
    y = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    rows = batch * out_height * out_width
    weight, bias = weight.contiguous(), bias.contiguous()

    def call(launch: Launch) -> None:
        blocks = dict(launch.blocks)
        grid = (triton.cdiv(rows, blocks["block_rows"]), triton.cdiv(outputs, blocks["block_outputs"]))
        deform_conv_kernel[grid](
            x,
            sampling,
            weight,
            bias,
            y,
            rows,
            height,
            width,
            out_width,
            out_height * out_width,
            sampling.shape[1],
            kernel_width=geometry.kernel[1],
            taps=geometry.taps,
            channels=channels,
            outputs=outputs,
            stride_y=geometry.stride[0],
            stride_x=geometry.stride[1],
            padding_y=geometry.padding[0],
            padding_x=geometry.padding[1],
            dilation_y=geometry.dilation[0],
            dilation_x=geometry.dilation[1],
            factor=epilogue.factor,
            relu=epilogue.relu,
            block_channels=max(_SMALLEST, triton.next_power_of_2(channels)),
            precision="ieee",
            **launch.arguments(),
        )

    if rows:
        task = Task(
            "deform_conv",
            # By the power of four of its pixels: those of a fine map, or of a coarse one in a large batch.
            (str(x.dtype), *geometry.kernel, channels, outputs, rows.bit_length() // 2),
            flops=2 * rows * geometry.taps * channels * outputs,
            bytes=sum(each.numel() * each.element_size() for each in (x, sampling, weight, bias, y)),
        )
        (launches or Launches()).run(task, _candidates(outputs, rows), call)
    return y


def _candidates(outputs: int, rows: int) -> list[Launch]:
    whole = max(_SMALLEST, triton.next_power_of_2(outputs))

    def launch(pixels: int, columns: int, warps: int, stages: int) -> Launch:
        return Launch((("block_rows", pixels), ("block_outputs", columns)), warps, stages)

    half = max(_SMALLEST, whole // 2)
    wide = [launch(64, whole, 8, 2), launch(128, whole, 8, 2), launch(64, whole, 4, 3), launch(64, whole, 8, 3)]
    small = [launch(64, half, 4, 2), launch(32, whole, 4, 2), launch(32, half, 4, 2), launch(16, half, 4, 2)]
    # A coarse map has fewer pixels than an H200's 132 multiprocessors have places for 64 of them.
    return [*small, wide[0]] if rows < 8192 else [*wide, *small]


def _check(x: Tensor, sampling: Tensor, weight: Tensor, bias: Tensor, geometry: Geometry) -> None:
    batch, channels, height, width = x.shape
    size = geometry.output_size((height, width))
    needed = 3 * geometry.taps
    if sampling.shape[0] != batch or sampling.shape[1] < needed or tuple(sampling.shape[2:]) != size:
        expected = f"({batch}, {needed} or more, {size[0]}, {size[1]})"
        raise ValueError(f"sampling must be {expected} for features of {tuple(x.shape)}, found {tuple(sampling.shape)}")
    if weight.shape[:2] != (geometry.taps, channels) or bias.shape != weight.shape[2:]:
        raise ValueError(
            f"weight must be ({geometry.taps}, {channels}, outputs) with a bias (outputs,), "
            f"found {tuple(weight.shape)} and {tuple(bias.shape)}"
        )
    if not x.dtype == sampling.dtype == weight.dtype:
        raise ValueError(f"expected one type, found {x.dtype}, {sampling.dtype} and {weight.dtype}")


class FusedDeformableBranch(nn.Module):
    """A folded `DeformableBranch`: the sampling convolution, and one kernel for everything after it.

    Raises:
        ValueError: The branch is not folded.
    """

    def __init__(self, original: DeformableBranch, dtype: torch.dtype, launches: Launches) -> None:
        super().__init__()
        convolution = original.atrous_conv
        if not isinstance(convolution, MergedDeformableConv2d) or convolution.bias is None:
            raise ValueError("expected a branch of a folded network, found one whose convolutions are not merged")
        outputs, channels, *kernel = convolution.weight.shape
        self.geometry = Geometry((kernel[0], kernel[1]), padding=convolution.padding)
        self.sampling_conv = _rounded_up(convolution.sampling_conv).to(dtype)
        matrices = convolution.weight.permute(2, 3, 1, 0).reshape(self.geometry.taps, channels, outputs)
        self.weight = frozen(matrices.to(dtype))
        self.bias = frozen(convolution.bias.float())
        self._launches = launches
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) to (B, out, H, W)."""
        sampling = self.sampling_conv(x)
        return fused_deform_conv2d(
            x, sampling, self.weight, self.bias, self.geometry, Epilogue(relu=True), self._launches
        )


def _rounded_up(convolution: nn.Conv2d) -> nn.Conv2d:
    """The same with further outputs, all zero, so that tensor cores take the result as it is."""
    extra = -convolution.out_channels % _CHANNEL_MULTIPLE
    if convolution.bias is None:
        raise AssertionError("a sampling convolution has a bias. This is a bug.")
    result = nn.Conv2d(
        convolution.in_channels,
        convolution.out_channels + extra,
        (convolution.weight.shape[2], convolution.weight.shape[3]),
        padding=convolution.padding,  # type: ignore[arg-type]
        device="meta",
    )
    result.weight = frozen(
        torch.cat((convolution.weight, convolution.weight.new_zeros(extra, *result.weight.shape[1:])))
    )
    result.bias = frozen(torch.cat((convolution.bias, convolution.bias.new_zeros(extra))))
    return result.eval()

"""Section `kernels`: our deformable convolution, attention and normalisation alone: how near, how fast."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.machine import has
from benchmarks.gpu.subjects import Context, difference
from modeling.deform_conv import deform_conv2d

_CHANNELS, _OUTPUTS = 64, 256
_SIDES = (256, 128, 64, 32)  # of the maps of an image of 1024x1024
_SPREAD = 3.0  # pixels that offsets move samples by, in deviation


def measure_kernels(context: Context) -> None:
    """Every deformable convolution of the decoder: against the reference and torchvision's CUDA operator."""
    sides = (8,) if context.dry else _SIDES
    for side in sides:
        for kernel in (1, 3, 7):
            _measure_shape(context, side, kernel)


def _measure_shape(context: Context, side: int, kernel: int) -> None:
    x, offset, logits, weight = _operands(side, kernel, context.device)
    padding = (kernel // 2, kernel // 2)
    mask = 2.0 * torch.sigmoid(logits)
    truth = deform_conv2d(x, offset, mask, weight, padding=padding)
    row = {"kernel": "deform_conv", "taps": [kernel, kernel], "map": [side, side]}
    for dtype in (torch.float16, torch.float32):
        named = {**row, "implementation": "fused", "dtype": str(dtype).removeprefix("torch.")}
        if context.device.type != "cuda":
            context.report.unmeasured(named, "Triton kernels run on GPUs only; the tests check them in its interpreter")
            continue
        context.report.measure(named, partial(_fused, context, (x, offset, logits, weight), dtype, truth))
    for dtype in (torch.float32, torch.float16):
        named = {**row, "implementation": "torchvision", "dtype": str(dtype).removeprefix("torch.")}
        if not has("torchvision"):
            context.report.unmeasured(named, "torchvision is not installed here")
            continue
        context.report.measure(
            named,
            partial(_torchvision, context, (x, offset, mask, weight), dtype, truth),
        )


def _operands(side: int, kernel: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(side + kernel)
    taps = kernel * kernel

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    x, offset = normal(1, _CHANNELS, side, side), _SPREAD * normal(1, 2 * taps, side, side)
    logits, weight = normal(1, taps, side, side), normal(_OUTPUTS, _CHANNELS, kernel, kernel) / kernel / 8
    # Rounded to fp16, so that both precisions are given the same numbers.
    x, offset, logits, weight = (each.half().float().to(device) for each in (x, offset, logits, weight))
    return x, offset, logits, weight


def _fused(
    context: Context, operands: tuple[Tensor, Tensor, Tensor, Tensor], dtype: torch.dtype, truth: Tensor
) -> dict[str, Any]:
    from modeling.fused import Launches
    from modeling.fused.deform_conv import Epilogue, Geometry, fused_deform_conv2d

    x, offset, logits, weight = (each.to(dtype) for each in operands)
    kernel = weight.shape[2]
    sampling = torch.cat((offset, logits), dim=1).contiguous(memory_format=torch.channels_last)
    x = x.contiguous(memory_format=torch.channels_last)
    matrices = weight.permute(2, 3, 1, 0).flatten(0, 1).contiguous()
    bias = torch.zeros(weight.shape[0], device=x.device)
    geometry = Geometry((kernel, kernel), padding=(kernel // 2, kernel // 2))
    launches = Launches(tuning=context.tune)

    def run() -> Tensor:
        return fused_deform_conv2d(x, sampling, matrices, bias, geometry, Epilogue(2.0), launches)

    return {**difference(run(), truth), "time": context.clock.summary(run), "launches": dict(launches.chosen)}


def _torchvision(
    context: Context, operands: tuple[Tensor, Tensor, Tensor, Tensor], dtype: torch.dtype, truth: Tensor
) -> dict[str, Any]:
    from torchvision.ops import deform_conv2d as stock  # type: ignore[import-not-found,unused-ignore]

    x, offset, mask, weight = (each.to(dtype) for each in operands)
    padding = weight.shape[2] // 2

    def run() -> Tensor:
        found: Tensor = stock(x, offset, weight, padding=padding, mask=mask)
        return found

    return {**difference(run(), truth), "time": context.clock.summary(run)}

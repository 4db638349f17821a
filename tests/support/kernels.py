"""Where our Triton kernels are tested: on the GPU, where there is one, else in Triton's interpreter."""

from typing import Any

import torch
from torch import Tensor

from modeling.fused.deform_conv import Epilogue, Geometry, fused_deform_conv2d
from tests.support.deform_cases import geometry_of

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def fused(case: dict[str, Any], operands: tuple[Tensor, ...], dtype: torch.dtype, *, relu: bool = False) -> Tensor:
    """The fused kernel on a case of `deform_cases`, whose modulation it makes of logits; the result on the CPU.

    Args:
        case: Of `deform_cases.GEOMETRIES`.
        operands: As `deform_cases.operands` gives them; the modulation below 2.
        dtype: Of features, offsets and weights.
        relu: Whether the kernel ends in a ReLU.
    """
    x, offset, mask, weight, bias = operands
    sampling = torch.cat((offset, torch.logit(mask / 2.0)), dim=1)
    matrices = weight.permute(2, 3, 1, 0).flatten(0, 1)
    geometry = Geometry((weight.shape[2], weight.shape[3]), **geometry_of(case))
    x, sampling, matrices = (each.to(DEVICE, dtype) for each in (x, sampling, matrices))
    bias = bias.to(DEVICE, torch.float32)
    return fused_deform_conv2d(x, sampling, matrices, bias, geometry, Epilogue(2.0, relu)).cpu()

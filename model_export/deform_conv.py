"""Deformable convolution as one node: a torch operator that export keeps whole, and its ONNX `DeformConv`.

Offsets and masks have the same layout in torchvision, here and in ONNX, so nothing is permuted. The bias is always
there, zeros if need be: TensorRT's importer reads that input without asking whether it exists.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from onnxscript import FLOAT, opset20
from torch import Tensor, nn

from modeling.deform_conv import DeformableConv2d, deform_conv2d
from modeling.folding.sampling import MergedDeformableConv2d


@torch.library.custom_op("birefnet::deform_conv2d", mutates_args=())
def _operator(  # noqa: PLR0913  a tensor operator
    x: Tensor,
    offset: Tensor,
    mask: Tensor,
    weight: Tensor,
    bias: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> Tensor:
    vertical, horizontal = zip(stride, padding, dilation, strict=True)
    return deform_conv2d(
        x,
        offset,
        mask,
        weight,
        bias,
        stride=(vertical[0], horizontal[0]),
        padding=(vertical[1], horizontal[1]),
        dilation=(vertical[2], horizontal[2]),
    )


@_operator.register_fake
def _shape_of_output(  # noqa: PLR0913  a tensor operator
    x: Tensor,
    offset: Tensor,
    mask: Tensor,
    weight: Tensor,
    bias: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> Tensor:
    return x.new_empty((x.shape[0], weight.shape[0], offset.shape[2], offset.shape[3]))


def _to_onnx(  # noqa: PLR0913  a tensor operator
    x: FLOAT,
    offset: FLOAT,
    mask: FLOAT,
    weight: FLOAT,
    bias: FLOAT,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> FLOAT:
    return opset20.DeformConv(
        x,
        weight,
        offset,
        bias,
        mask,
        strides=list(stride),
        pads=[*padding, *padding],
        dilations=list(dilation),
    )


TRANSLATION: dict[Any, Callable[..., Any]] = {torch.ops.birefnet.deform_conv2d.default: _to_onnx}
"""For `torch.onnx.export(custom_translation_table=…)`."""


def exportable_deform_conv2d(  # noqa: PLR0913  a tensor operator
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
    """`modeling.deform_conv.deform_conv2d` as one operator of the exported program."""
    given = x.new_zeros(weight.shape[0]) if bias is None else bias
    result: Tensor = torch.ops.birefnet.deform_conv2d(x, offset, mask, weight, given, stride, padding, dilation)
    return result


def use_exportable_operator(network: nn.Module) -> None:
    """Make every deformable convolution of a network call the exportable operator, in place."""
    for module in network.modules():
        if isinstance(module, DeformableConv2d | MergedDeformableConv2d):
            module.operator = exportable_deform_conv2d

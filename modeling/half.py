"""Half precision where it is safe: a network whose matrix products are fp16, and whose sensitive sums stay fp32.

What stays in fp32, and why (`python -m benchmarks.half` measures each):

- The residual stream of the backbone: patch embedding, additions and layer normalisations. Trained Swin networks have
  channels whose residual grows to thousands; in fp16 they overflow, or leave no digits for what is added to them.
- The mean of the pooled branch, a sum over a whole map.
- Whatever comes before and after the network: normalisation of the image, sigmoid.

Coordinates of deformable convolutions are the operator's matter (`modeling.deform_conv`): fp32 in all of ours.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from modeling.birefnet.backbone import PatchMerging, SwinBlock
from modeling.birefnet.network import BiRefNet
from modeling.birefnet.residual_backbone import ResNetBackbone


class Island(nn.Module):
    """A module that computes in its own floating-point type, in surroundings of another."""

    def __init__(self, module: nn.Module, inside: torch.dtype, outside: torch.dtype) -> None:
        super().__init__()
        self.module = module
        self.inside = inside
        self.outside = outside

    def forward(self, *inputs: Any) -> Any:  # noqa: ANN401  whatever the module takes and gives
        return _cast(self.module(*_cast(inputs, self.inside)), self.outside)


def half_precision(network: BiRefNet) -> BiRefNet:
    """A copy of a network in evaluation mode that takes and gives fp32 and computes in fp16 where that is safe.

    Args:
        network: As trained or folded, in fp32.

    Raises:
        ValueError: The network is in training mode.
    """
    if network.training:
        raise ValueError("expected a network in evaluation mode, found one in training mode")
    mixed = copy.deepcopy(network)
    if isinstance(mixed.bb, ResNetBackbone):
        # What its blocks add is normalised and rectified: there is no residual stream that grows.
        mixed.bb = Island(mixed.bb.half(), torch.float16, torch.float16)  # type: ignore[assignment]
    else:
        _halve_swin(mixed)
    mixed.squeeze_module.half()
    mixed.decoder = _in_half(mixed.decoder)  # type: ignore[assignment]
    for module in list(mixed.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.AdaptiveAvgPool2d):
                setattr(module, name, Island(child, torch.float32, torch.float16))
    return mixed.eval()


def _halve_swin(mixed: BiRefNet) -> None:
    """The products of a Swin backbone; its residual stream stays fp32."""
    for module in list(mixed.bb.modules()):
        if isinstance(module, SwinBlock):
            module.attn, module.mlp = _in_half(module.attn), _in_half(module.mlp)  # type: ignore[assignment]
        elif isinstance(module, PatchMerging):
            module.reduction = _in_half(module.reduction)  # type: ignore[assignment]
    mixed.bb = Island(mixed.bb, torch.float32, torch.float16)  # type: ignore[assignment]


def _in_half(module: nn.Module) -> Island:
    return Island(module.half(), torch.float16, torch.float32)


def _cast(value: Any, dtype: torch.dtype) -> Any:  # noqa: ANN401  nested tuples and lists of tensors
    if isinstance(value, Tensor):
        return value.to(dtype) if value.is_floating_point() else value
    if isinstance(value, tuple | list):
        return type(value)(_cast(each, dtype) for each in value)
    return value

"""BatchNorm in evaluation mode is a scale and a shift per channel; the convolution before it can carry both."""

import torch
from torch import nn

from modeling.birefnet.blocks import DecoderBlock, DeformableBranch, DeformablePyramid
from modeling.birefnet.network import BiRefNet
from modeling.birefnet.residual_backbone import BasicBlock
from modeling.folding.sharing import frozen, with_shared_tensors


def fold_batch_norms(network: BiRefNet) -> BiRefNet:
    """Fold every BatchNorm into the convolution before it, deformable ones included, which gain a bias.

    Raises:
        ValueError: The network is in training mode.
    """
    folded = with_shared_tensors(network)
    for module in list(folded.modules()):
        for owner, convolution, norm in _pairs(module):
            before, after = owner.get_submodule(convolution), module.get_submodule(norm)
            if isinstance(before, nn.Conv2d) and isinstance(after, nn.BatchNorm2d):
                setattr(owner, convolution, _folded(before, after))
                setattr(module, norm, nn.Identity())
    left = [name for name, module in folded.named_modules() if isinstance(module, nn.BatchNorm2d)]
    if left:
        raise AssertionError(f"BatchNorms without a convolution before them: {left}. This is a bug.")
    return folded


def _pairs(module: nn.Module) -> list[tuple[nn.Module, str, str]]:
    """(owner of the convolution, its name there, the BatchNorm's name in `module`) of what a module normalises."""
    if isinstance(module, DecoderBlock):
        return [(module, "conv_in", "bn_in"), (module, "conv_out", "bn_out")]
    if isinstance(module, BasicBlock):
        return [(module, "conv1", "bn1"), (module, "conv2", "bn2")]
    if isinstance(module, DeformableBranch):
        return [(module.atrous_conv, "regular_conv", "bn")]
    if isinstance(module, DeformablePyramid):
        return [(module, "conv1", "bn1")]
    if isinstance(module, nn.Sequential):
        return [(module, str(index), str(index + 1)) for index in range(len(module) - 1)]
    return []


@torch.no_grad()
def _folded(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    mean, variance = norm.running_mean, norm.running_var
    if mean is None or variance is None:
        raise AssertionError("a BatchNorm without running statistics cannot be folded. This is a bug.")
    scale = norm.weight.double() / torch.sqrt(variance.double() + norm.eps)
    shift = norm.bias.double() - mean.double() * scale
    if convolution.bias is not None:
        shift = shift + convolution.bias.double() * scale
    weight = convolution.weight
    result = nn.Conv2d(
        convolution.in_channels,
        convolution.out_channels,
        (weight.shape[2], weight.shape[3]),
        stride=convolution.stride,  # type: ignore[arg-type]
        padding=convolution.padding,  # type: ignore[arg-type]
        device="meta",
    )
    result.weight = frozen((weight.double() * scale[:, None, None, None]).to(weight.dtype))
    result.bias = frozen(shift.to(weight.dtype))
    return result.eval()

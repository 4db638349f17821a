"""One convolution for the offsets and the modulation of a deformable convolution.

They read the same input with the same kernel. The factor two of the modulation moves into the weights of the
deformable convolution itself, which is exact in any binary floating-point type.
"""

import torch
from torch import Tensor, nn

from modeling.birefnet.network import BiRefNet
from modeling.deform_conv import DeformableConv2d, DeformConvOperator
from modeling.folding.sharing import frozen, with_shared_tensors


class MergedDeformableConv2d(nn.Module):
    """A `DeformableConv2d` with one sampling convolution: 2K channels of offsets, then K of modulation logits."""

    def __init__(self, original: DeformableConv2d) -> None:
        super().__init__()
        self.operator: DeformConvOperator = original.operator
        self.padding = original.padding
        offset, modulator, regular = original.offset_conv, original.modulator_conv, original.regular_conv
        if offset.bias is None or modulator.bias is None:
            raise AssertionError("offset and modulator convolutions have biases. This is a bug.")
        self.offset_channels = offset.out_channels
        self.sampling_conv = nn.Conv2d(
            offset.in_channels,
            offset.out_channels + modulator.out_channels,
            (offset.weight.shape[2], offset.weight.shape[3]),
            padding=original.padding,
            device="meta",
        )
        self.sampling_conv.weight = frozen(torch.cat((offset.weight, modulator.weight)))
        self.sampling_conv.bias = frozen(torch.cat((offset.bias, modulator.bias)))
        self.weight = frozen(2.0 * regular.weight)
        self.bias = None if regular.bias is None else frozen(regular.bias)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) to (B, out, H, W)."""
        sampling = self.sampling_conv(x)
        return self.operator(
            x,
            sampling[:, : self.offset_channels],
            torch.sigmoid(sampling[:, self.offset_channels :]),
            self.weight,
            self.bias,
            stride=(1, 1),
            padding=self.padding,
            dilation=(1, 1),
        )


def merge_sampling_convolutions(network: BiRefNet) -> BiRefNet:
    """Merge the offset and modulator convolutions of every deformable convolution.

    Raises:
        ValueError: The network is in training mode.
    """
    folded = with_shared_tensors(network)
    for module in list(folded.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, DeformableConv2d):
                setattr(module, name, MergedDeformableConv2d(child))
    return folded

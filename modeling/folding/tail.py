"""The last two steps of the decoder without their wide full-resolution maps.

`conv_out1` is a 1x1 convolution of (decoder_block1 upsampled by four, ipt_blk1). It commutes with the upsampling, whose
weights sum to one, and both of its inputs end in a convolution without an activation. So each of them gives one channel
instead, the coarse one is upsampled, and the two are added.
"""

import torch
from torch import Tensor, nn

from modeling.birefnet.network import BiRefNet
from modeling.folding.sharing import frozen, with_shared_tensors


class ChannelSum(nn.Module):
    """What is left of `conv_out1`: (B, C, H, W) to (B, 1, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.sum(dim=1, keepdim=True)


def fold_tail(network: BiRefNet) -> BiRefNet:
    """Fold `conv_out1` into the last convolutions of `decoder_block1` and `ipt_blk1`.

    Raises:
        ValueError: The network is in training mode, or its BatchNorms are not folded yet.
    """
    folded = with_shared_tensors(network)
    decoder = folded.decoder
    block, patches = decoder.decoder_block1, decoder.ipt_blk1
    norms_folded = isinstance(block.bn_out, nn.Identity)
    if not norms_folded:
        raise ValueError("expected a network whose BatchNorms are folded, found one with decoder_block1.bn_out")
    merge = decoder.conv_out1[0]
    if not isinstance(merge, nn.Conv2d) or merge.bias is None:
        raise ValueError("expected decoder.conv_out1 to be a convolution with a bias, found a folded network")
    split = block.conv_out.out_channels
    block.conv_out = _merged(block.conv_out, merge.weight[:, :split], merge.bias)
    patches.conv_out = _merged(patches.conv_out, merge.weight[:, split:], torch.zeros_like(merge.bias))
    decoder.conv_out1 = nn.Sequential(ChannelSum())
    return folded


@torch.no_grad()
def _merged(convolution: nn.Conv2d, outer: Tensor, outer_bias: Tensor) -> nn.Conv2d:
    """One convolution for `convolution` and then the 1x1 convolution `outer` (O, I, 1, 1)."""
    inner = convolution.weight.double()
    if convolution.bias is None:
        raise AssertionError("a convolution at the end of a block has a bias. This is a bug.")
    mix = outer[:, :, 0, 0].double()
    result = nn.Conv2d(
        convolution.in_channels,
        mix.shape[0],
        (inner.shape[2], inner.shape[3]),
        padding=convolution.padding,  # type: ignore[arg-type]
        device="meta",
    )
    result.weight = frozen(torch.einsum("oi,ichw->ochw", mix, inner).to(convolution.weight.dtype))
    result.bias = frozen((mix @ convolution.bias.double() + outer_bias.double()).to(convolution.weight.dtype))
    return result.eval()

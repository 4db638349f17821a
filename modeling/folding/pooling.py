"""The pooled branch of the deformable pyramid as a bias.

Its output is one vector per image, repeated over the map, so its slice of the merging 1x1 convolution is one vector
per image too: the repeated map, and its share of the concatenation, need not exist.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modeling.birefnet.blocks import DeformablePyramid
from modeling.birefnet.network import BiRefNet
from modeling.folding.sharing import pointwise, with_shared_tensors


class PooledBiasPyramid(nn.Module):
    """A `DeformablePyramid` whose pooled branch is added after the merging convolution."""

    def __init__(self, pyramid: DeformablePyramid) -> None:
        super().__init__()
        norms_folded = isinstance(pyramid.bn1, nn.Identity)
        if not norms_folded:
            raise ValueError("expected a network whose BatchNorms are folded, found one with dec_att.bn1")
        self.aspp1 = pyramid.aspp1
        self.aspp_deforms = pyramid.aspp_deforms
        self.global_avg_pool = pyramid.global_avg_pool
        merge = pyramid.conv1
        kept = merge.in_channels - pyramid.aspp1.atrous_conv.regular_conv.out_channels
        self.conv1 = pointwise(merge.weight[:, :kept], merge.bias)
        self.pooled_conv1 = pointwise(merge.weight[:, kept:], None)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """(B, inter, H, W) to the same shape."""
        branches = [self.aspp1(x), *(branch(x) for branch in self.aspp_deforms)]
        return F.relu(self.conv1(torch.cat(branches, dim=1)) + self.pooled_conv1(self.global_avg_pool(x)))


def fold_pooled_branch(network: BiRefNet) -> BiRefNet:
    """Make the pooled branch of all five pyramids a bias.

    Raises:
        ValueError: The network is in training mode, or its BatchNorms are not folded yet.
    """
    folded = with_shared_tensors(network)
    for module in list(folded.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, DeformablePyramid):
                setattr(module, name, PooledBiasPyramid(child))
    return folded

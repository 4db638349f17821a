"""The pyramid's branches added up instead of laid side by side.

A 1x1 convolution of a concatenation is the sum of one convolution for each part. The parts are the decoder's widest
maps; added one after the other, neither their concatenation nor all of them at once need exist.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from modeling.birefnet.network import BiRefNet
from modeling.folding.pooling import PooledBiasPyramid
from modeling.folding.sharing import pointwise, with_shared_tensors


class SummedPyramid(nn.Module):
    """A `PooledBiasPyramid` with a merging convolution for each branch."""

    def __init__(self, pyramid: PooledBiasPyramid) -> None:
        super().__init__()
        self.branches = nn.ModuleList((pyramid.aspp1, *pyramid.aspp_deforms))
        self.global_avg_pool = pyramid.global_avg_pool
        self.pooled_conv1 = pyramid.pooled_conv1
        slices = pyramid.conv1.weight.chunk(len(self.branches), dim=1)
        biases = [pyramid.conv1.bias, *(None for _ in slices[1:])]
        self.merges = nn.ModuleList(pointwise(part, bias) for part, bias in zip(slices, biases, strict=True))
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """(B, inter, H, W) to the same shape."""
        total = self.pooled_conv1(self.global_avg_pool(x))
        for branch, merge in zip(self.branches, self.merges, strict=True):
            total = total + merge(branch(x))
        return F.relu(total)


def sum_branches(network: BiRefNet) -> BiRefNet:
    """Merge the branches of all five pyramids one after the other.

    Raises:
        ValueError: The network is in training mode, or its pooled branches are not folded yet.
    """
    folded = with_shared_tensors(network)
    found = 0
    for module in list(folded.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, PooledBiasPyramid):
                setattr(module, name, SummedPyramid(child))
                found += 1
    if not found:
        raise ValueError("expected a network whose pooled branches are folded, found none")
    return folded

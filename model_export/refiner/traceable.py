"""A refiner behind the contract of its artifacts: bytes, a mask and a frame in, alpha of a window out."""

import copy

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from modeling.contract import TileToAlpha
from modeling.crm.network import CRM


def traceable_refiner(network: CRM, answer: int) -> TileToAlpha:
    """A copy with every BatchNorm that follows a convolution folded into it; the given network is untouched.

    Args:
        network: The refiner.
        answer: Side of what is answered of a tile.
    """
    folded = copy.deepcopy(network).eval()
    for module in list(folded.modules()):
        if isinstance(module, nn.Sequential):
            _fold(module)
    return TileToAlpha(folded, answer)


def _fold(layers: nn.Sequential) -> None:
    for index in range(len(layers) - 1):
        before, after = layers[index], layers[index + 1]
        if isinstance(before, nn.Conv2d) and isinstance(after, nn.BatchNorm2d):
            layers[index] = fuse_conv_bn_eval(before, after)
            layers[index + 1] = nn.Identity()

"""A refiner behind the contract of its artifacts: bytes, a mask and a frame in, alpha out."""

import copy

from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from model_export.traceable import BYTE
from modeling.crm.network import CRM


class TileToAlpha(nn.Module):
    """A tile at the resolution of its image (r = 1), so that the decoder's stencil is a constant."""

    def __init__(self, network: CRM) -> None:
        super().__init__()
        self.network = network
        self.eval()

    def forward(self, image: Tensor, mask: Tensor, frame: Tensor) -> Tensor:
        """(B, T, T, 3) uint8 RGB, (B, T, T) soft mask and (B, 4) frame to (B, T, T) alpha in [0, 1]."""
        alpha: Tensor = self.network(image.permute(0, 3, 1, 2).to(mask.dtype) / BYTE, mask, frame)
        return alpha


def traceable_refiner(network: CRM) -> TileToAlpha:
    """A copy with every BatchNorm that follows a convolution folded into it; the given network is untouched."""
    folded = copy.deepcopy(network).eval()
    for module in list(folded.modules()):
        if isinstance(module, nn.Sequential):
            _fold(module)
    return TileToAlpha(folded)


def _fold(layers: nn.Sequential) -> None:
    for index in range(len(layers) - 1):
        before, after = layers[index], layers[index + 1]
        if isinstance(before, nn.Conv2d) and isinstance(after, nn.BatchNorm2d):
            layers[index] = fuse_conv_bn_eval(before, after)
            layers[index + 1] = nn.Identity()

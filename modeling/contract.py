"""Networks behind the contracts that artifacts have: bytes in, alpha out."""

import torch
from torch import Tensor, nn

from matting.normalisation import DEVIATION, MEAN
from modeling.birefnet.network import BiRefNet
from modeling.crm.network import CRM

BYTE = 255.0


class ImageToAlpha(nn.Module):
    """Layout, normalisation and sigmoid around a network, so that no caller of the artifact can get them wrong."""

    def __init__(self, network: BiRefNet) -> None:
        super().__init__()
        self.network = network
        first = next(network.parameters())
        mean, deviation = (torch.tensor(each, dtype=first.dtype, device=first.device) for each in (MEAN, DEVIATION))
        self.register_buffer("scale", (1.0 / (BYTE * deviation)).view(1, 3, 1, 1))
        self.register_buffer("shift", (-mean / deviation).view(1, 3, 1, 1))
        self.scale: Tensor
        self.shift: Tensor
        self.eval()

    def forward(self, image: Tensor) -> Tensor:
        """(B, H, W, 3) uint8 RGB to (B, H, W) alpha in [0, 1], in the type that the network takes and gives."""
        # Converted first: TensorRT takes bytes as an input, but does nothing else with them.
        pixels = image.to(self.scale.dtype).permute(0, 3, 1, 2)
        logits: Tensor = self.network(pixels * self.scale + self.shift)
        return torch.sigmoid(logits)[:, 0]


class TileToAlpha(nn.Module):
    """A tile at the resolution of its image (r = 1), so that the decoder's stencil is a constant."""

    def __init__(self, network: CRM) -> None:
        super().__init__()
        self.network = network
        self.eval()

    def forward(self, image: Tensor, mask: Tensor, frame: Tensor) -> Tensor:
        """(B, T, T, 3) uint8 RGB, (B, T, T) soft mask and (B, 4) frame to (B, T, T) alpha in [0, 1]."""
        # Converted first: TensorRT takes bytes as an input, but does nothing else with them.
        alpha: Tensor = self.network(image.to(mask.dtype).permute(0, 3, 1, 2) / BYTE, mask, frame)
        return alpha

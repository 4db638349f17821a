"""Networks behind the contracts that artifacts have: bytes in, alpha out."""

import torch
from torch import Tensor, nn

from matting.normalisation import DEVIATION, MEAN
from modeling.birefnet.network import BiRefNet
from modeling.crm.config import STRIDE
from modeling.crm.decoder import TileWindow
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
    """The window of a tile that its halo leaves, at the resolution of the image (r = 1).

    Args:
        network: The refiner.
        answer: Side of the windows, S.
    """

    def __init__(self, network: CRM, answer: int) -> None:
        super().__init__()
        self.network = network
        self.answer = answer
        self.eval()

    def forward(self, image: Tensor, mask: Tensor, frame: Tensor) -> Tensor:
        """(B, T, T, 3) uint8 RGB, (B, T, T) soft mask and (B, 6) frame to (B, S, S) alpha in [0, 1].

        The frame is `matting.refinement.Tile`'s: origin, canvas, and first row and column of the window.
        """
        # Converted first: TensorRT takes bytes as an input, but does nothing else with them.
        planes = image.to(mask.dtype).permute(0, 3, 1, 2) / BYTE
        window = TileWindow(mask.shape[2], (frame[:, 4:] / STRIDE).long(), self.answer)
        return self.network.answer(planes, mask, frame[:, :4], window)

"""The network as the artifact's contract has it: bytes in, alpha out."""

import torch
from torch import Tensor, nn

from matting.normalisation import DEVIATION, MEAN
from model_export.deform_conv import use_exportable_operator
from modeling.birefnet.network import BiRefNet
from modeling.folding import fold

BYTE = 255.0


class ImageToAlpha(nn.Module):
    """Layout, normalisation and sigmoid around a network, so that no caller of the artifact can get them wrong."""

    def __init__(self, network: BiRefNet) -> None:
        super().__init__()
        self.network = network
        dtype = next(network.parameters()).dtype
        mean, deviation = torch.tensor(MEAN, dtype=dtype), torch.tensor(DEVIATION, dtype=dtype)
        self.register_buffer("scale", (1.0 / (BYTE * deviation)).view(1, 3, 1, 1))
        self.register_buffer("shift", (-mean / deviation).view(1, 3, 1, 1))
        self.scale: Tensor
        self.shift: Tensor
        self.eval()

    def forward(self, image: Tensor) -> Tensor:
        """(B, H, W, 3) uint8 RGB to (B, H, W) alpha in [0, 1], in the network's own type."""
        pixels = image.permute(0, 3, 1, 2).to(self.scale.dtype)
        logits: Tensor = self.network(pixels * self.scale + self.shift)
        return torch.sigmoid(logits)[:, 0]


def traceable(network: BiRefNet) -> ImageToAlpha:
    """A folded network behind the contract, its deformable convolutions as single nodes; the given one is untouched."""
    folded = fold(network)
    use_exportable_operator(folded)
    return ImageToAlpha(folded)

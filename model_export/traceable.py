"""A network behind one of the contracts that artifacts have: bytes in and alpha out, or tensors in and logits out."""

import torch
from torch import Tensor, nn

from artifact import Io
from matting.normalisation import DEVIATION, MEAN
from model_export.precision import CANONICAL, Precision
from modeling.birefnet.network import BiRefNet
from modeling.folding import fold
from modeling.half import half_precision

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
        """(B, H, W, 3) uint8 RGB to (B, H, W) alpha in [0, 1], in the type that the network takes and gives."""
        pixels = image.permute(0, 3, 1, 2).to(self.scale.dtype)
        logits: Tensor = self.network(pixels * self.scale + self.shift)
        return torch.sigmoid(logits)[:, 0]


class TensorToLogits(nn.Module):
    """The bare network: normalised (B, 3, H, W) to (B, 1, H, W) logits, as published BiRefNet ONNX files have it."""

    def __init__(self, network: BiRefNet) -> None:
        super().__init__()
        self.network = network
        self.eval()

    def forward(self, input_image: Tensor) -> Tensor:
        logits: Tensor = self.network(input_image)
        return logits


def traceable(network: BiRefNet, precision: Precision = CANONICAL, io: Io = "image") -> ImageToAlpha | TensorToLogits:
    """A folded network behind a contract, in the precision's types and with its deformable convolutions.

    The given network is untouched.
    """
    folded = fold(network)
    if precision.dtype == "fp16":
        folded = half_precision(folded)
    precision.deform_conv(folded)
    return ImageToAlpha(folded) if io == "image" else TensorToLogits(folded)

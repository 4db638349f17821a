"""A network behind one of the contracts that artifacts have: bytes in and alpha out, or tensors in and logits out."""

from torch import Tensor, nn

from artifact import Io
from model_export.precision import CANONICAL, Precision
from modeling.birefnet.network import BiRefNet
from modeling.contract import ImageToAlpha
from modeling.folding import fold
from modeling.half import half_precision


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

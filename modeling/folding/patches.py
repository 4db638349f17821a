"""The two convolutions over the image itself as one.

`ipt_blk1` is two 3x3 convolutions with nothing between them, which after the tail fold end in one channel: a 5x5
convolution of the image, and the widest map of full resolution need not exist. Only the outermost ring of pixels is
different, because there the second convolution pads with zeros what the first has computed from the image; it is
computed as before, on strips of three rows or columns.

One output channel would leave most of a processor's vectors empty, so sixteen neighbours are computed as sixteen
channels of a strided convolution, whose kernels are the 5x5 one at sixteen places, and shuffled into the map.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modeling.birefnet.blocks import PatchBlock
from modeling.birefnet.network import BiRefNet
from modeling.folding.sharing import frozen, with_shared_tensors

_BLOCK = 4
_KERNEL = 5
_STRIP = 3


class ImageConvolution(nn.Module):
    """A `PatchBlock` over the image, with one output channel, as one convolution and its border."""

    def __init__(self, original: PatchBlock) -> None:
        super().__init__()
        self.border = original
        weight, bias = _collapsed(original.conv1, original.conv_out)
        self.shuffled = _shuffled(weight, bias).to(original.conv1.weight.dtype)
        self.eval()

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W), H and W multiples of 4, to (B, 1, H, W)."""
        inner = F.pixel_shuffle(self.shuffled(image), _BLOCK)[:, :, 1:-1, 1:-1]
        rows = self.border(torch.cat((image[:, :, :_STRIP], image[:, :, -_STRIP:]), dim=2))
        columns = self.border(torch.cat((image[..., :_STRIP], image[..., -_STRIP:]), dim=3))[:, :, 1:-1]
        middle = torch.cat((columns[..., :1], inner, columns[..., -1:]), dim=3)
        return torch.cat((rows[:, :, :1], middle, rows[:, :, -1:]), dim=2)


def fold_image_patches(network: BiRefNet) -> BiRefNet:
    """Make the two convolutions of `ipt_blk1` one.

    Raises:
        ValueError: The network is in training mode, its tail is not folded yet, or this was done already.
    """
    folded = with_shared_tensors(network)
    patches = folded.decoder.ipt_blk1
    channels = getattr(getattr(patches, "conv_out", None), "out_channels", None)
    if channels != 1:
        raise ValueError("expected ipt_blk1 to end in one channel (the tail folded), found another or a folded one")
    folded.decoder.add_module("ipt_blk1", ImageConvolution(patches))
    return folded


@torch.no_grad()
def _collapsed(first: nn.Conv2d, second: nn.Conv2d) -> tuple[Tensor, Tensor]:
    """Weight (1, I, 5, 5) and bias (1,), float64, of `second` after `first`, away from the border."""
    if first.bias is None or second.bias is None:
        raise AssertionError("the convolutions of a patch block have a bias each. This is a bug.")
    inner, outer = first.weight.double(), second.weight.double()
    # weight[i, y, x] = sum over m, a, b of outer[m, a, b] inner[m, i, y - a, x - b]: a full convolution.
    weight = F.conv2d(inner.transpose(0, 1), outer.flip(2, 3), padding=2).transpose(0, 1)
    return weight, second.bias.double() + torch.einsum("omkl,m->o", outer, first.bias.double())


@torch.no_grad()
def _shuffled(weight: Tensor, bias: Tensor) -> nn.Conv2d:
    """The strided convolution whose sixteen channels are a block of pixels each (`pixel_shuffle`'s order)."""
    side, margin = _KERNEL + _BLOCK - 1, _KERNEL // 2
    kernels = weight.new_zeros(_BLOCK * _BLOCK, weight.shape[1], side, side)
    for row in range(_BLOCK):
        for column in range(_BLOCK):
            kernels[row * _BLOCK + column, :, row : row + _KERNEL, column : column + _KERNEL] = weight[0]
    result = nn.Conv2d(weight.shape[1], len(kernels), side, stride=_BLOCK, padding=margin, device="meta")
    result.weight, result.bias = frozen(kernels), frozen(bias.expand(len(kernels)))
    return result.eval()

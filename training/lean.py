"""BiRefNet with the last convolution before the last upsampling: the same function and keys, for less time.

A 1x1 convolution and a bilinear upsampling commute. At full resolution the plain order holds three tensors of the
decoder's width, and on a CPU costs a third of a small network's training step.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modeling.birefnet.blocks import resize
from modeling.birefnet.config import BiRefNetConfig
from modeling.birefnet.decoder import Decoder, SideOutputs
from modeling.birefnet.network import BiRefNet


class LeanDecoder(Decoder):
    """`Decoder` with `conv_out1` applied to each of its two inputs apart."""

    def forward(self, image: Tensor, maps: tuple[Tensor, Tensor, Tensor, Tensor]) -> tuple[Tensor, list[SideOutputs]]:
        """As `Decoder.forward`."""
        x1, x2, x3, x4 = maps
        sides: list[SideOutputs] = []
        x = torch.cat((x4, self._inward(5, image, x4)), dim=1)
        for level, finer in ((4, x3), (3, x2), (2, x1)):
            x = self._gated_level(level, x, sides)
            x = resize(x, (finer.shape[2], finer.shape[3])) + self.get_submodule(f"lateral_block{level}")(finer)
            x = torch.cat((x, self._inward(level, image, x)), dim=1)
        x = self.decoder_block1(x)
        last, branch = self.conv_out1[0], self.ipt_blk1
        if not isinstance(last, nn.Conv2d) or last.bias is None or branch.conv_out.bias is None:
            raise TypeError("the last convolutions of a BiRefNet have a bias each")
        of_map, of_image = last.weight[:, : x.shape[1]], last.weight[:, x.shape[1] :]
        # The image's branch is two convolutions with nothing between: the last 1x1 folds into the second.
        folded = torch.einsum("oc,cikl->oikl", of_image[:, :, 0, 0], branch.conv_out.weight)
        bias = of_image[:, :, 0, 0] @ branch.conv_out.bias + last.bias
        fine = F.conv2d(branch.conv1(image), folded, bias, padding=1)
        coarse = F.conv2d(x, of_map)
        return resize(coarse, (image.shape[2], image.shape[3])) + fine, sides


class LeanBiRefNet(BiRefNet):
    """`BiRefNet` with a `LeanDecoder`."""

    def __init__(self, config: BiRefNetConfig) -> None:
        super().__init__(config)
        self.decoder = LeanDecoder(config)

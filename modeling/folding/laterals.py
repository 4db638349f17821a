"""Half-scale maps that stay at half scale.

Each encoder map is the full-scale one beside the half-scale one upsampled, and is read twice: by the decoder's lateral
1x1 convolution, and downsampled by the context of the coarsest map. A 1x1 convolution commutes with bilinear resizing,
whose weights sum to one, and the lateral is added to a decoder map that was just upsampled from the very grid of the
half-scale map. So the half-scale channels are convolved and added before that upsampling, with a quarter of the
multiplications. In the context, up and down again are together one small matrix for each axis. The upsampled maps and
the concatenations need not exist.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from modeling.birefnet.blocks import resize
from modeling.birefnet.decoder import Decoder
from modeling.birefnet.network import BiRefNet
from modeling.folding.sharing import pointwise, with_shared_tensors

_LEVELS = (4, 3, 2)

Size = tuple[int, int]


class TwoScaleDecoder(Decoder):
    """A `Decoder` whose lateral blocks take the two scales apart; for inference only."""

    def __init__(self, original: Decoder) -> None:
        nn.Module.__init__(self)
        for name, module in original.named_children():
            self.add_module(name, module)
        for level in _LEVELS:
            lateral = getattr(original.get_submodule(f"lateral_block{level}"), "conv", None)
            if not isinstance(lateral, nn.Conv2d) or lateral.bias is None:
                raise ValueError(f"expected decoder.lateral_block{level}.conv with a bias, found a folded network")
            weight, bias = lateral.weight, lateral.bias
            full = weight.shape[1] // 2
            self.add_module(f"lateral_block{level}", pointwise(weight[:, :full], bias))
            self.add_module(f"half_lateral_block{level}", pointwise(weight[:, full:], None))
        self.eval()

    def forward(  # type: ignore[override]  # other maps, no side outputs
        self, image: Tensor, full: list[Tensor], half: list[Tensor], squeezed: Tensor
    ) -> Tensor:
        """Decode.

        Args:
            image: (B, 3, H, W), normalised.
            full: The encoder's maps of the image at strides 4, 8 and 16.
            half: Those of the image at half scale: the same channels at half the resolution.
            squeezed: The coarsest map, with its context.

        Returns:
            (B, 1, H, W) logits.
        """
        x = torch.cat((squeezed, self._inward(5, image, squeezed)), dim=1)
        for level, fine, coarse in zip(_LEVELS, reversed(full), reversed(half), strict=True):
            x = self._gated_level(level, x, []) + self.get_submodule(f"half_lateral_block{level}")(coarse)
            x = resize(x, _size(fine)) + self.get_submodule(f"lateral_block{level}")(fine)
            x = torch.cat((x, self._inward(level, image, x)), dim=1)
        x = resize(self.decoder_block1(x), _size(image))
        return self.conv_out1(torch.cat((x, self.ipt_blk1(image)), dim=1))


class TwoScaleBiRefNet(BiRefNet):
    """A `BiRefNet` that never upsamples a half-scale map finer than the coarsest; for inference only."""

    def __init__(self, original: BiRefNet) -> None:
        nn.Module.__init__(self)
        self.config, self.bb, self.squeeze_module = original.config, original.bb, original.squeeze_module
        self.decoder = TwoScaleDecoder(original.decoder)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """As `BiRefNet.forward` in evaluation mode."""
        full, half = self._scales(x)
        size = _size(full[-1])
        context = [
            torch.cat((resize(fine, size), self._up_and_down(coarse, _size(fine), size)), dim=1)
            for fine, coarse in zip(full[:-1], half[:-1], strict=True)
        ]
        squeezed = self.squeeze_module(torch.cat((*context, full[-1], resize(half[-1], size)), dim=1))
        logits: Tensor = self.decoder(x, full[:-1], half[:-1], squeezed)
        return logits

    def _up_and_down(self, x: Tensor, through: Size, size: Size) -> Tensor:
        return up_and_down(x, through, size)


def lower_laterals(network: BiRefNet) -> BiRefNet:
    """Move the lateral convolutions of the half-scale channels below the upsampling, and the context with them.

    Raises:
        ValueError: The network is in training mode, or its laterals are folded already.
    """
    return TwoScaleBiRefNet(with_shared_tensors(network))


def up_and_down(x: Tensor, through: Size, size: Size) -> Tensor:
    """What `resize` to `through` and then to `size` gives, without the map between."""
    rows, columns = up_and_down_matrices(x, through, size)
    return torch.matmul(rows, torch.matmul(x, columns))


def up_and_down_matrices(x: Tensor, through: Size, size: Size) -> tuple[Tensor, Tensor]:
    """What `up_and_down` multiplies with: (size height, height) from the left, (width, size width) from the right."""
    rows, columns = (
        torch.from_numpy(interpolation(middle, last) @ interpolation(first, middle)).to(x.device, x.dtype)
        for first, middle, last in zip(_size(x), through, size, strict=True)
    )
    return rows, columns.t()


def interpolation(source: int, target: int) -> NDArray[np.float64]:
    """(target, source): linear interpolation of `source` samples at `target` places, the first and last aligned."""
    places = np.linspace(0.0, source - 1.0, target) if target > 1 else np.zeros(1)
    return np.maximum(0.0, 1.0 - np.abs(places[:, None] - np.arange(source)))


def _size(x: Tensor) -> Size:
    return x.shape[2], x.shape[3]

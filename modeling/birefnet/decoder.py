"""The decoder: four blocks, coarse to fine, that see the image again (inward) and attend to gradients (outward)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modeling.birefnet.blocks import DecoderBlock, LateralBlock, PatchBlock, image_patches, resize
from modeling.birefnet.config import BiRefNetConfig

LAPLACIAN_SIDE = 5


@dataclass(frozen=True)
class SideOutputs:
    """What one gated level gives besides its features; only training reads it.

    Attributes:
        logits: (B, 1, h, w) side prediction of the matte.
        gradient_logits: (B, 1, h, w) prediction of the gradient label.
    """

    logits: Tensor
    gradient_logits: Tensor


class Decoder(nn.Module):
    """From the image and four encoder maps to full-resolution logits."""

    def __init__(self, config: BiRefNetConfig) -> None:
        super().__init__()
        first, second, third, fourth = config.encoder_channels
        inner, gradient = config.patch_inner_channels, config.gradient_channels
        self.ipt_blk5 = PatchBlock(3 * 32 * 32, fourth // 8, inner)
        self.ipt_blk4 = PatchBlock(3 * 16 * 16, fourth // 8, inner)
        self.ipt_blk3 = PatchBlock(3 * 8 * 8, third // 8, inner)
        self.ipt_blk2 = PatchBlock(3 * 4 * 4, second // 8, inner)
        self.ipt_blk1 = PatchBlock(3, first // 8, inner)
        self.decoder_block4 = DecoderBlock(fourth + fourth // 8, third, config)
        self.decoder_block3 = DecoderBlock(third + fourth // 8, second, config)
        self.decoder_block2 = DecoderBlock(second + third // 8, first, config)
        self.decoder_block1 = DecoderBlock(first + second // 8, first // 2, config)
        self.conv_out1 = nn.Sequential(nn.Conv2d(first // 2 + first // 8, 1, 1))
        for level, channels in ((4, third), (3, second), (2, first)):
            self.add_module(f"lateral_block{level}", LateralBlock(channels))
            self.add_module(f"conv_ms_spvn_{level}", nn.Conv2d(channels, 1, 1))
            trunk = nn.Sequential(nn.Conv2d(channels, gradient, 3, padding=1), nn.BatchNorm2d(gradient), nn.ReLU())
            self.add_module(f"gdt_convs_{level}", trunk)
            self.add_module(f"gdt_convs_pred_{level}", nn.Sequential(nn.Conv2d(gradient, 1, 1)))
            self.add_module(f"gdt_convs_attn_{level}", nn.Sequential(nn.Conv2d(gradient, 1, 1)))

    def forward(self, image: Tensor, maps: tuple[Tensor, Tensor, Tensor, Tensor]) -> tuple[Tensor, list[SideOutputs]]:
        """Decode.

        Args:
            image: (B, 3, H, W), normalised.
            maps: The encoder's, finest first, the last one squeezed.

        Returns:
            (B, 1, H, W) logits, and the side outputs of levels 4, 3, 2 (empty unless training).
        """
        x1, x2, x3, x4 = maps
        sides: list[SideOutputs] = []
        x = torch.cat((x4, self._inward(5, image, x4)), dim=1)
        for level, finer in ((4, x3), (3, x2), (2, x1)):
            x = self._gated_level(level, x, sides)
            x = resize(x, (finer.shape[2], finer.shape[3])) + self.get_submodule(f"lateral_block{level}")(finer)
            x = torch.cat((x, self._inward(level, image, x)), dim=1)
        x = resize(self.decoder_block1(x), (image.shape[2], image.shape[3]))
        return self.conv_out1(torch.cat((x, self.ipt_blk1(image)), dim=1)), sides

    def _inward(self, level: int, image: Tensor, x: Tensor) -> Tensor:
        return self.get_submodule(f"ipt_blk{level}")(image_patches(image, (x.shape[2], x.shape[3])))

    def _gated_level(self, level: int, x: Tensor, sides: list[SideOutputs]) -> Tensor:
        """One decoder block and its gradient gate; in training its side outputs are appended to `sides`."""
        x = self.get_submodule(f"decoder_block{level}")(x)
        gradient = self.get_submodule(f"gdt_convs_{level}")(x)
        if self.training:
            logits = self.get_submodule(f"conv_ms_spvn_{level}")(x)
            sides.append(SideOutputs(logits, self.get_submodule(f"gdt_convs_pred_{level}")(gradient)))
        return x * torch.sigmoid(self.get_submodule(f"gdt_convs_attn_{level}")(gradient))


def image_laplacian(image: Tensor) -> Tensor:
    """(B, 1, H, W): a 5x5 Laplacian of the mean of (B, 3, H, W)'s channels, borders reflected.

    The kernel is ones with 1 - 25 in the centre over the sum of its magnitudes, 48: kornia's, which the released
    checkpoints were trained with.
    """
    taps = LAPLACIAN_SIDE * LAPLACIAN_SIDE
    kernel = image.new_ones((1, 1, LAPLACIAN_SIDE, LAPLACIAN_SIDE))
    kernel[..., LAPLACIAN_SIDE // 2, LAPLACIAN_SIDE // 2] = 1 - taps
    kernel = kernel / (2 * (taps - 1))
    border = LAPLACIAN_SIDE // 2
    grey = F.pad(image.mean(dim=1, keepdim=True), (border, border, border, border), mode="reflect")
    return F.conv2d(grey, kernel)

"""The parts a BiRefNet decoder is built of, and the one way it resizes."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modeling.birefnet.config import BiRefNetConfig
from modeling.deform_conv import DeformableConv2d


def resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear with corners aligned and no antialiasing, up or down: the only resampling inside the network."""
    if tuple(x.shape[2:]) == size:
        return x
    return F.interpolate(x, size=size, mode="bilinear", align_corners=True)


def image_patches(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Cut (B, 3, H, W) into tiles of `size` and stack them on the channels, ordered (colour, tile row, tile column)."""
    batch, colours, height, width = image.shape
    down, across = height // size[0], width // size[1]
    tiles = image.reshape(batch, colours, down, size[0], across, size[1]).permute(0, 1, 2, 4, 3, 5)
    return tiles.reshape(batch, colours * down * across, size[0], size[1])


class DeformableBranch(nn.Module):
    """One branch of the pyramid: deformable convolution, normalisation, ReLU."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__()
        self.atrous_conv = DeformableConv2d(in_channels, out_channels, kernel_size)
        self.bn = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.atrous_conv(x)))


class DeformablePyramid(nn.Module):
    """ASPPDeformable: parallel deformable convolutions and a global average, merged to the input's width."""

    def __init__(self, config: BiRefNetConfig) -> None:
        super().__init__()
        inner, width = config.inter_channels, config.aspp_channels
        self.aspp1 = DeformableBranch(inner, width, 1)
        self.aspp_deforms = nn.ModuleList(DeformableBranch(inner, width, kernel) for kernel in config.aspp_kernels)
        self.global_avg_pool = nn.Sequential(
            nn.AdaptiveAvgPool2d((1, 1)), nn.Conv2d(inner, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        self.conv1 = nn.Conv2d(width * (2 + len(config.aspp_kernels)), inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.dropout = nn.Dropout(config.aspp_dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inter, H, W) to the same shape."""
        average = self.global_avg_pool(x).expand(-1, -1, x.shape[2], x.shape[3])
        branches = [self.aspp1(x), *(branch(x) for branch in self.aspp_deforms), average]
        return self.dropout(F.relu(self.bn1(self.conv1(torch.cat(branches, dim=1)))))


class DecoderBlock(nn.Module):
    """BasicDecBlk: squeeze to the inner width, deformable pyramid, expand. There is no activation at its end."""

    def __init__(self, in_channels: int, out_channels: int, config: BiRefNetConfig) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(in_channels, config.inter_channels, 3, padding=1)
        self.dec_att = DeformablePyramid(config)
        self.conv_out = nn.Conv2d(config.inter_channels, out_channels, 3, padding=1)
        self.bn_in = nn.BatchNorm2d(config.inter_channels)
        self.bn_out = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn_out(self.conv_out(self.dec_att(F.relu(self.bn_in(self.conv_in(x))))))


class PatchBlock(nn.Module):
    """Inward reference: two convolutions over stacked image patches, with nothing between them."""

    def __init__(self, in_channels: int, out_channels: int, inner_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, inner_channels, 3, padding=1)
        self.conv_out = nn.Conv2d(inner_channels, out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv_out(self.conv1(x))


class LateralBlock(nn.Module):
    """The 1x1 convolution between an encoder map and the decoder."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)

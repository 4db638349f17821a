"""The encoder: a residual network over image and mask, read at strides 2, 4 and 8, and the fusion of what was read.

Source: CRM, section A.1 of the reference. The fusion upsamples with `align_corners=False`, unlike the published one:
only then a tile sees the same grid as the whole image, and tiling with a halo is exact (A.6).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modeling.crm.colour_cue import CELL, cue_channels
from modeling.crm.config import CrmConfig, StageConfig

EXPANSION = 4


def normalised_conv(
    inner: int, outer: int, kernel: int = 1, stride: int = 1, dilation: int = 1, active: bool = True
) -> nn.Sequential:
    """Convolution without bias, BatchNorm and, if active, ReLU; the size is kept, but for the stride."""
    padding = dilation * (kernel // 2)
    layers = [nn.Conv2d(inner, outer, kernel, stride, padding, dilation, bias=False), nn.BatchNorm2d(outer)]
    return nn.Sequential(*layers, *([nn.ReLU()] if active else []))


class Residual(nn.Module):
    """relu(branch(x) + shortcut(x)), both of ResNet's kinds of block (He et al., CVPR 2016)."""

    def __init__(self, branch: nn.Sequential, shortcut: nn.Module) -> None:
        super().__init__()
        self.branch = branch
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.branch(x) + self.shortcut(x))


def _bottleneck(inner: int, width: int, stride: int, dilation: int) -> tuple[nn.Sequential, int]:
    outer = EXPANSION * width
    layers = [
        normalised_conv(inner, width),
        normalised_conv(width, width, 3, stride, dilation),
        normalised_conv(width, outer, active=False),
    ]
    return nn.Sequential(*layers), outer


def _basic(inner: int, width: int, stride: int, dilation: int) -> tuple[nn.Sequential, int]:
    layers = [
        normalised_conv(inner, width, 3, stride, dilation),
        normalised_conv(width, width, 3, 1, dilation, active=False),
    ]
    return nn.Sequential(*layers), width


def _stage(kind: str, inner: int, config: StageConfig) -> tuple[nn.Sequential, int]:
    make = _bottleneck if kind == "bottleneck" else _basic
    blocks = []
    for index in range(config.blocks):
        stride, dilation = (config.stride, 1) if index == 0 else (1, config.dilation)
        branch, outer = make(inner, config.width, stride, dilation)
        same = inner == outer and stride == 1
        shortcut = nn.Identity() if same else normalised_conv(inner, outer, 1, stride, active=False)
        blocks.append(Residual(branch, shortcut))
        inner = outer
    return nn.Sequential(*blocks), inner


class Encoder(nn.Module):
    """Normalised image and mask, (B, 4, H, W), to maps at strides 2, 4 and 8.

    The mask's weights in the stem begin at zero, so that a network trained on images alone can be put in.
    """

    def __init__(self, config: CrmConfig) -> None:
        super().__init__()
        self.taps = config.taps
        self.stem = normalised_conv(4, config.stem, config.stem_kernel, 2)
        self.pool = nn.MaxPool2d(3, 2, 1) if config.pooled else nn.Identity()
        self.stages = nn.ModuleList()
        channels, widths = config.stem, []
        for each in config.stages:
            stage, channels = _stage(config.block, channels, each)
            self.stages.append(stage)
            widths.append(channels)
        self.channels = (config.stem, widths[config.taps[0]], widths[config.taps[1]])
        with torch.no_grad():
            next(self.stem.parameters())[:, 3].zero_()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, c, H/2, W/2), (B, c, H/4, W/4), (B, c, H/8, W/8)."""
        stem: Tensor = self.stem(x)
        maps, x = [], self.pool(stem)
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return stem, maps[self.taps[0]], maps[self.taps[1]]


class CellConv(nn.Conv2d):
    """A 1x1 convolution of cells of 2x2, whose pixels are its channels as after `torch.pixel_unshuffle`, without it."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, c, H, W) to (B, out, H/2, W/2)."""
        return F.conv2d(x, self.weight.view(self.out_channels, -1, CELL, CELL), self.bias, CELL)


class Fusion(nn.Module):
    """The taps, and the colour cues where there are any, to the latent at stride 2."""

    def __init__(self, config: CrmConfig, channels: tuple[int, int, int]) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(
            self._lateral(inner, outer, config) for inner, outer in zip(channels, config.fused, strict=True)
        )
        if config.colour_cues:
            inner = cue_channels(config.colour_cues)
            self.cues = nn.Sequential(
                CellConv(inner, config.fused_cues, 1, bias=False), nn.BatchNorm2d(config.fused_cues), nn.ReLU()
            )
        mixed = sum(config.fused) + config.fused_cues
        self.mix = nn.Sequential(*normalised_conv(mixed, config.latent, 3), nn.Dropout(config.dropout))

    @staticmethod
    def _lateral(inner: int, outer: int, config: CrmConfig) -> nn.Sequential:
        again = [nn.BatchNorm2d(outer), nn.ReLU(), nn.Dropout(config.dropout)] if config.double_norm else []
        return nn.Sequential(*normalised_conv(inner, outer), *again)

    def forward(self, taps: tuple[Tensor, Tensor, Tensor], cues: Tensor | None) -> Tensor:
        """(B, latent, H/2, W/2)."""
        latent: Tensor = self.mix(self.joined(taps, cues))
        return latent

    def joined(self, taps: tuple[Tensor, Tensor, Tensor], cues: Tensor | None) -> Tensor:
        """What is mixed, (B, channels, H/2, W/2)."""
        size = taps[0].shape[2:]
        maps = [lateral(tap) for lateral, tap in zip(self.laterals, taps, strict=True)]
        fine = [
            each if each.shape[2:] == size else F.interpolate(each, size=size, mode="bilinear", align_corners=False)
            for each in maps
        ]
        return torch.cat(fine if cues is None else [*fine, self.cues(cues)], dim=1)

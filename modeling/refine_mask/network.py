"""The networks of RefineMask (Zhang et al., CVPR 2021): semantic head, semantic fusion, and the stages 14 → 112.

Masks are class-agnostic: a prompted instance has no class. Nothing here finds instances; the head is given what
`crop_regions` cuts out of a feature map, or anything else of that shape.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Crop = Callable[[Tensor, int], Tensor]
"""From a map (B, C, H, W) of whole images and S to (N, C, S, S), the map within each region."""


@dataclass(frozen=True)
class RefineMaskConfig:
    """Sizes of the networks; the defaults are the paper's.

    Attributes:
        in_channels: Of the feature maps that come in.
        channels: Of the first stage. Each next one has half as many: 256, 128, 64 and at last 32.
        semantic_channels: Of the semantic head.
        semantic_depth: Its 3 x 3 convolutions.
        instance_depth: 3 x 3 convolutions before the first stage.
        dilations: Of the parallel convolutions of a fusion.
        stages: How often the size doubles, from 14.
    """

    in_channels: int = 256
    channels: int = 256
    semantic_channels: int = 256
    semantic_depth: int = 4
    instance_depth: int = 2
    dilations: tuple[int, ...] = (1, 3, 5)
    stages: int = 3


class SemanticHead(nn.Module):
    """From the finest feature map of the whole image to semantic features and one mask of all that is foreground.

    The mask is trained against the union of all instances.
    """

    def __init__(self, config: RefineMaskConfig) -> None:
        super().__init__()
        self.convs = _convolutions(config.in_channels, config.semantic_channels, config.semantic_depth)
        self.predict = nn.Conv2d(config.semantic_channels, 1, 1)
        _initialise(self)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """(B, in_channels, H, W) to (B, semantic_channels, H, W) features and (B, 1, H, W) logits."""
        semantic = self.convs(features)
        return semantic, self.predict(semantic)


class DilatedSum(nn.Module):
    """Parallel 3 x 3 convolutions of different dilations, each with ReLU, summed, then merged by a 1 x 1 one."""

    def __init__(self, channels: int, dilations: tuple[int, ...]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation) for dilation in dilations
        )
        self.merge = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, S, S) to the same shape; a pixel sees 2 d + 1 pixels across for the largest dilation d, 11 for 5."""
        total = torch.stack([F.relu(branch(x)) for branch in self.branches]).sum(dim=0)
        return F.relu(self.merge(total))


class SemanticFusion(nn.Module):
    """SFM, one stage: instance and semantic features and both masks are fused and come out at twice the size."""

    def __init__(self, channels: int, semantic_channels: int, dilations: tuple[int, ...]) -> None:
        """Make a stage of an even number of channels, at least 6; it gives half as many."""
        super().__init__()
        self.narrow = nn.Conv2d(semantic_channels, channels, 1)
        self.adapt = nn.Conv2d(channels, channels, 1)
        self.predict = nn.Conv2d(channels, 1, 1)
        self.mix = nn.Conv2d(2 * channels + 2, channels, 1)
        self.fuse = DilatedSum(channels, dilations)
        self.shrink = nn.Conv2d(channels, channels // 2 - 2, 1)

    def forward(self, instance: Tensor, semantic: Tensor, semantic_logits: Tensor, crop: Crop) -> tuple[Tensor, Tensor]:
        """Run the stage.

        Args:
            instance: (N, C, S, S) features of the regions.
            semantic: (B, semantic_channels, H, W) of the whole images.
            semantic_logits: (B, 1, H, W).
            crop: Cuts the regions out of maps of the whole images.

        Returns:
            (N, C / 2, 2 S, 2 S) features, the last two channels of which are the masks again, and the stage's own
            logits (N, 1, S, S).
        """
        size = instance.shape[2]
        context = F.relu(self.adapt(crop(F.relu(self.narrow(semantic)), size)))
        logits = self.predict(instance)
        masks = torch.cat((torch.sigmoid(logits), crop(torch.sigmoid(semantic_logits), size)), dim=1)
        mixed = F.relu(self.mix(torch.cat((instance, context, masks), dim=1)))
        shrunk = F.relu(self.shrink(self.fuse(mixed)))
        doubled = F.interpolate(torch.cat((shrunk, masks), dim=1), scale_factor=2, mode="bilinear", align_corners=False)
        return doubled, logits


class RefineMaskHead(nn.Module):
    """The mask head: from the features of regions to logits at 14, 28, 56 and 112 pixels."""

    def __init__(self, config: RefineMaskConfig) -> None:
        super().__init__()
        self.convs = _convolutions(config.in_channels, config.channels, config.instance_depth)
        widths = [config.channels >> stage for stage in range(config.stages)]
        self.stages = nn.ModuleList(
            SemanticFusion(width, config.semantic_channels, config.dilations) for width in widths
        )
        self.predict = nn.Conv2d(config.channels >> config.stages, 1, 1)
        _initialise(self)

    def forward(self, instance: Tensor, semantic: Tensor, semantic_logits: Tensor, crop: Crop) -> list[Tensor]:
        """Decode.

        Args:
            instance: (N, in_channels, 14, 14) features of the regions.
            semantic: (B, semantic_channels, H, W), as `SemanticHead` gives them.
            semantic_logits: (B, 1, H, W), likewise.
            crop: Cuts the N regions out of maps of the whole images.

        Returns:
            Logits (N, 1, S, S) of every size, the smallest first; `compose` makes one mask of them.
        """
        x = self.convs(instance)
        found: list[Tensor] = []
        for stage in self.stages:
            x, logits = stage(x, semantic, semantic_logits, crop)
            found.append(logits)
        return [*found, self.predict(x)]


def _convolutions(in_channels: int, channels: int, depth: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for index in range(depth):
        layers += [nn.Conv2d(in_channels if index == 0 else channels, channels, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers)


def _initialise(network: nn.Module) -> None:
    """He et al.'s initialisation, which keeps the deviation through ReLUs; no bias."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.bias is not None:
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(module.bias)

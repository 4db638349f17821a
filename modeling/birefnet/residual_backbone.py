"""A residual network (He et al. 2016) of basic blocks as a dense backbone: four maps at strides 4, 8, 16 and 32.

Its 3x3 convolutions are what a CPU computes best. The stem is two convolutions of stride 2 (Xiao et al. 2021) instead
of one of 7x7 and a pooling. Blocks have torchvision's names. No released checkpoint has it.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modeling.birefnet.config import ResNetConfig


class BasicBlock(nn.Module):
    """Two 3x3 convolutions, added to what comes in; the first may halve the map."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or in_channels != channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        residual = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(residual + self.downsample(x))


class ResNetBackbone(nn.Module):
    """Stem and four stages; each stage's result is a map."""

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        first = config.channels[0]
        self.stem = nn.Sequential(
            nn.Conv2d(3, first // 2, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(first // 2),
            nn.ReLU(),
            nn.Conv2d(first // 2, first, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(first),
            nn.ReLU(),
        )
        before = first
        for stage, (channels, depth) in enumerate(zip(config.channels, config.depths, strict=True)):
            blocks = [
                BasicBlock(before if index == 0 else channels, channels, 2 if stage and index == 0 else 1)
                for index in range(depth)
            ]
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
            before = channels
        self.apply(_initialise)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(B, 3, H, W) to four maps (B, C_s, ceil(H / stride), ceil(W / stride)), finest first."""
        x = self.stem(image)
        maps = []
        for stage in range(1, 5):
            x = self.get_submodule(f"layer{stage}")(x)
            maps.append(x)
        first, second, third, fourth = maps
        return first, second, third, fourth


@torch.no_grad()
def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    elif isinstance(module, BasicBlock):
        nn.init.zeros_(module.bn2.weight)

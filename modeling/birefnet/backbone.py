"""Swin Transformer v1 (Liu et al. 2021) as a dense backbone: four maps at strides 4, 8, 16 and 32.

Feature maps are (B, H, W, C) inside, (B, C, H, W) outside. Unlike the classification network, odd blocks shift their
windows even where the map is no larger than one window, as the released checkpoints were trained.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modeling.birefnet.config import SwinConfig
from modeling.birefnet.window_attention import WindowAttention

PATCH = 4


class DropPath(nn.Module):
    """Stochastic depth (Huang et al. 2016): in training drops a sample's residual, and scales those kept."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0.0:
            return x
        keep = 1.0 - self.rate
        return x * x.new_empty((x.shape[0], 1, 1, 1)).bernoulli_(keep).div_(keep)


class Perceptron(nn.Module):
    """The two-layer perceptron of a block."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden)
        self.fc2 = nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class SwinBlock(nn.Module):
    """Window attention and a perceptron, each normalised before and added to its input."""

    def __init__(self, config: SwinConfig, stage: int, *, shifted: bool, drop_path: float) -> None:
        super().__init__()
        channels = config.channels[stage]
        self.norm1 = nn.LayerNorm(channels)
        self.attn = WindowAttention(channels, config.heads[stage], config.window, shifted=shifted)
        self.drop_path = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = Perceptron(channels, config.mlp_ratio * channels)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class PatchMerging(nn.Module):
    """Halves a map: each 2x2 square becomes one token of twice the channels; odd maps get a row or column of zeros."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduction = nn.Linear(4 * channels, 2 * channels, bias=False)
        self.norm = nn.LayerNorm(4 * channels)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        if height % 2 or width % 2:
            x = F.pad(x, (0, 0, 0, width % 2, 0, height % 2))
        squares = (x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2])
        return self.reduction(self.norm(torch.cat(squares, dim=-1)))


class SwinStage(nn.Module):
    """The blocks of one resolution, and the step down to the next."""

    def __init__(self, config: SwinConfig, stage: int, drop_paths: list[float], *, downsample: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            SwinBlock(config, stage, shifted=index % 2 == 1, drop_path=rate) for index, rate in enumerate(drop_paths)
        )
        self.downsample = PatchMerging(config.channels[stage]) if downsample else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


class PatchEmbed(nn.Module):
    """Cuts the image into 4x4 patches and projects each onto a token."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, channels, PATCH, stride=PATCH)
        self.norm = nn.LayerNorm(channels)

    def forward(self, image: Tensor) -> Tensor:
        height, width = image.shape[2:]
        if height % PATCH or width % PATCH:
            image = F.pad(image, (0, -width % PATCH, 0, -height % PATCH))
        return self.norm(self.proj(image).permute(0, 2, 3, 1))


class SwinBackbone(nn.Module):
    """Swin v1 with a normalised output after every stage."""

    def __init__(self, config: SwinConfig) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(config.embed_dim)
        blocks = sum(config.depths)
        rates = [config.drop_path_rate * index / max(1, blocks - 1) for index in range(blocks)]
        self.layers = nn.ModuleList()
        for stage, depth in enumerate(config.depths):
            first = sum(config.depths[:stage])
            last_stage = stage == len(config.depths) - 1
            self.layers.append(SwinStage(config, stage, rates[first : first + depth], downsample=not last_stage))
        for stage, channels in enumerate(config.channels):
            self.add_module(f"norm{stage}", nn.LayerNorm(channels))
        self.apply(_initialise)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(B, 3, H, W) to four maps (B, C_s, ceil(H / stride), ceil(W / stride)), finest first."""
        x = self.patch_embed(image)
        maps = []
        for index, stage in enumerate(self.layers.children()):
            x = stage(x)
            maps.append(self.get_submodule(f"norm{index}")(x).permute(0, 3, 1, 2).contiguous())
            x = stage.get_submodule("downsample")(x)
        first, second, third, fourth = maps
        return first, second, third, fourth


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)

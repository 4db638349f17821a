"""The Swin backbone around fused kernels: an fp32 residual stream, everything else in the type of the products."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modeling.birefnet.backbone import PatchMerging, SwinBackbone, SwinBlock
from modeling.folding.attention import ConstantWindowAttention
from modeling.folding.sharing import frozen
from modeling.fused.launches import Launches
from modeling.fused.residual import ResidualNorm, add_and_normalise
from modeling.fused.window_attention import FusedWindowAttention


class FusedPerceptron(nn.Module):
    """The two layers of a block's perceptron, weights in the type of the products."""

    def __init__(self, original: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        first, second = original.get_submodule("fc1"), original.get_submodule("fc2")
        self.weights = nn.ParameterList(frozen(layer.get_parameter("weight").to(dtype)) for layer in (first, second))
        self.biases = nn.ParameterList(frozen(layer.get_parameter("bias").to(dtype)) for layer in (first, second))

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) to (..., C)."""
        hidden = F.gelu(F.linear(x, self.weights[0], self.biases[0]))
        return F.linear(hidden, self.weights[1], self.biases[1])


class FusedBlock(nn.Module):
    """A `SwinBlock` whose additions are left to the normalisation after them."""

    def __init__(self, original: SwinBlock, dtype: torch.dtype, launches: Launches) -> None:
        super().__init__()
        if not isinstance(original.attn, ConstantWindowAttention):
            raise TypeError("expected a network whose attention is folded, found WindowAttention")
        self.norm1, self.norm2 = ResidualNorm(original.norm1), ResidualNorm(original.norm2)
        self.attn = FusedWindowAttention(original.attn, dtype, launches)
        self.mlp = FusedPerceptron(original.mlp, dtype)
        self.dtype = dtype
        self._launches = launches

    def forward(self, x: Tensor, delta: Tensor | None) -> Tensor:
        """Take in what the block before left to be added, and leave what is to be added; `x` is changed in place."""
        delta = self.attn(add_and_normalise(x, delta, self.norm1, self.dtype, self._launches))
        added: Tensor = self.mlp(add_and_normalise(x, delta, self.norm2, self.dtype, self._launches))
        return added


class FusedMerging(nn.Module):
    """A `PatchMerging` from and to the fp32 residual stream."""

    def __init__(self, original: PatchMerging, dtype: torch.dtype, launches: Launches) -> None:
        super().__init__()
        self._launches = launches
        self.norm = ResidualNorm(original.norm)
        self.weight = frozen(original.reduction.weight.to(dtype))

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) fp32 to (B, ceil(H / 2), ceil(W / 2), 2 C) fp32."""
        height, width = x.shape[1:3]
        if height % 2 or width % 2:
            x = F.pad(x, (0, 0, 0, width % 2, 0, height % 2))
        squares = torch.cat((x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]), dim=-1)
        normal = add_and_normalise(squares, None, self.norm, self.weight.dtype, self._launches)
        return F.linear(normal, self.weight).float()


class FusedBackbone(nn.Module):
    """A folded `SwinBackbone` on fused kernels; for inference only."""

    def __init__(self, original: SwinBackbone, dtype: torch.dtype, launches: Launches) -> None:
        super().__init__()
        self.dtype = dtype
        self._launches = launches
        self.projection = original.patch_embed.proj
        self.projection_norm = original.patch_embed.norm
        self.stages, self.norms, self.mergings = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for index, stage in enumerate(original.layers.children()):
            blocks = stage.get_submodule("blocks").children()
            self.stages.append(nn.ModuleList(FusedBlock(block, dtype, launches) for block in blocks))  # type: ignore[arg-type]
            self.norms.append(ResidualNorm(original.get_submodule(f"norm{index}")))  # type: ignore[arg-type]
            downsample = stage.get_submodule("downsample")
            self.mergings.append(
                FusedMerging(downsample, dtype, launches) if isinstance(downsample, PatchMerging) else nn.Identity()
            )
        self.eval()

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """(B, 3, H, W) fp32, H and W multiples of 4, to four maps in the type of the products, finest first.

        The maps are (B, C, H, W) in channels-last memory.
        """
        tokens = self.projection(image.float()).permute(0, 2, 3, 1)
        x = self.projection_norm(tokens).contiguous()
        maps = []
        for blocks, norm, merging in zip(self.stages, self.norms, self.mergings, strict=True):
            delta = None
            for block in blocks:  # type: ignore[attr-defined]  # a ModuleList in a ModuleList
                delta = block(x, delta)
            normal = add_and_normalise(x, delta, norm, self.dtype, self._launches)  # type: ignore[arg-type]
            maps.append(normal.permute(0, 3, 1, 2))
            x = merging(x)
        return tuple(maps)

"""From an image and boxes to masks of 112 pixels: a small encoder before RefineMask's two heads."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from torch import Tensor, nn
from torch.nn import functional as F

from modeling.refine_mask.network import RefineMaskConfig, RefineMaskHead, SemanticHead
from modeling.refine_mask.regions import crop_regions

STRIDE = 2
_FIRST = 14


@dataclass(frozen=True)
class SegmenterConfig:
    """Sizes. A pyramid of three maps at strides 2, 4 and 8; all that follows sees their sum at stride 2.

    Attributes:
        widths: Channels of the maps.
        heads: Of the heads; `in_channels` is that of the pyramid's sum.
    """

    widths: tuple[int, int, int] = (16, 32, 64)
    heads: RefineMaskConfig = field(
        default_factory=lambda: RefineMaskConfig(
            in_channels=24, channels=32, semantic_channels=16, semantic_depth=1, instance_depth=2
        )
    )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The configuration that `dataclasses.asdict` wrote."""
        first, second, third = values["widths"]
        heads = dict(values["heads"])
        return cls((first, second, third), RefineMaskConfig(**{**heads, "dilations": tuple(heads["dilations"])}))


class BoxSegmenter(nn.Module):
    """The mask of what a box is around."""

    def __init__(self, config: SegmenterConfig) -> None:
        super().__init__()
        self.config = config
        channels = 3
        self.downs, self.sides = nn.ModuleList(), nn.ModuleList()
        for width in config.widths:
            self.downs.append(_down(channels, width))
            self.sides.append(nn.Conv2d(width, config.heads.in_channels, 1))
            channels = width
        self.semantic = SemanticHead(config.heads)
        self.masks = RefineMaskHead(config.heads)

    def forward(self, image: Tensor, boxes: Tensor, images: Tensor) -> tuple[list[Tensor], Tensor]:
        """Segment.

        Args:
            image: (B, 3, H, W), normalised; H and W multiples of 8.
            boxes: (N, 4) x0, y0, x1, y1 in pixels, edges.
            images: (N,) int64, which of the B each box lies in.

        Returns:
            Logits (N, 1, S, S) of 14, 28, 56 and 112 pixels, and of the foreground of whole images, (B, 1, H/2, W/2).
        """
        features = self._features(image)
        near = boxes / STRIDE
        instance = crop_regions(features, near, images, _FIRST)
        semantic, foreground = self.semantic(features)
        stages = self.masks(instance, semantic, foreground, lambda maps, size: crop_regions(maps, near, images, size))
        return stages, foreground

    def _features(self, image: Tensor) -> Tensor:
        total: Tensor | None = None
        x = image
        for down, side in zip(self.downs, self.sides, strict=True):
            x = down(x)
            own = side(x)
            total = own if total is None else total + F.interpolate(own, size=total.shape[2:], mode="bilinear")
        if total is None:
            raise ValueError("a segmenter has at least one map")
        return F.relu(total)


def _down(channels: int, width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
    )

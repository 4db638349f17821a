"""How far a refiner looks: the halo that makes tiles exact.

Every map is described by how far before and behind its cell's first input pixel the cell depends on the input. Tiles
begin at multiples of 8, so that the grids of a tile and of the whole image are the same one.
"""

from dataclasses import dataclass

from modeling.crm.colour_cue import CELL
from modeling.crm.config import ALIGNMENT, CrmConfig


@dataclass(frozen=True)
class Reach:
    """Input pixels from stride * u - before to stride * u + behind, for the cell u."""

    stride: int
    before: int
    behind: int

    def convolved(self, kernel: int, stride: int = 1, dilation: int = 1) -> "Reach":
        """After a window of odd width with padding of its half."""
        more = self.stride * dilation * (kernel // 2)
        return Reach(self.stride * stride, self.before + more, self.behind + more)

    def upsampled(self, stride: int) -> "Reach":
        """After bilinear upsampling with half-pixel centres to a finer stride."""
        factor = self.stride // stride
        if factor == 1:
            return self
        offsets = [((2 * u + 1 - factor) // (2 * factor) * self.stride) - u * stride for u in range(factor)]
        return Reach(stride, self.before - min(offsets), self.behind + max(offsets) + self.stride)

    def joined(self, other: "Reach") -> "Reach":
        """What depends on two maps of one stride."""
        return Reach(self.stride, max(self.before, other.before), max(self.behind, other.behind))


def reach(config: CrmConfig) -> Reach:
    """How far a target pixel of the input's own resolution (r = 1) depends on the input."""
    stem = Reach(1, 0, 0).convolved(config.stem_kernel, 2)
    current, maps = stem.convolved(3, 2) if config.pooled else stem, []
    for stage in config.stages:
        for index in range(stage.blocks):
            stride, dilation = (stage.stride, 1) if index == 0 else (1, stage.dilation)
            current = current.convolved(3, stride, dilation)
            if config.block == "basic":
                current = current.convolved(3, 1, dilation)
        maps.append(current)
    fused = stem
    for tap in config.taps:
        fused = fused.joined(maps[tap].upsampled(2))
    for box in config.colour_cues:
        pooled = Reach(CELL, 0, CELL - 1).convolved(box)
        fine = pooled.upsampled(1)
        fused = fused.joined(Reach(2, fine.before, fine.behind + 1))
    latent = fused.convolved(3)
    return Reach(1, latent.before + 2, latent.behind + 1)


def halo(config: CrmConfig) -> int:
    """Pixels at each inner side of a tile whose answer is not the whole image's, in multiples of 8."""
    found = reach(config)
    return -(-max(found.before, found.behind) // ALIGNMENT) * ALIGNMENT

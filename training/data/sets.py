"""Named sets of procedural photographs: which seed, which difficulty. Disjoint by their seeds."""

from dataclasses import dataclass

from training.data.degrade import Photo
from training.data.raster import Plane
from training.data.scene import Level, sample


@dataclass(frozen=True)
class ProceduralSet:
    """A seeded, endless list of photographs with mattes."""

    seed: int
    level: Level

    def item(self, index: int, size: int) -> tuple[Photo, Plane]:
        """Image uint8 (size, size, 3) and alpha float32 (size, size) of one index."""
        return sample(index, size, self.seed, self.level)


SETS: dict[str, ProceduralSet] = {
    "train": ProceduralSet(1, "mixed"),
    "heldout": ProceduralSet(7001, "mixed"),
    "heldout-easy": ProceduralSet(7002, "easy"),
    "heldout-hard": ProceduralSet(7003, "hard"),
}

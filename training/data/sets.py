"""Named sets of procedural photographs: which seed, which difficulty, which kinds. Disjoint by their seeds."""

from dataclasses import dataclass, field

from training.data.degrade import Photo, camera
from training.data.phenomena import HARD, PLAIN, RICH, Mixture, compose, family_of
from training.data.raster import Plane
from training.data.scene import Level
from training.data.subjects import FAMILIES, RICH_FAMILIES


@dataclass(frozen=True)
class ProceduralSet:
    """A seeded, endless list of photographs with mattes.

    `level` says how much backgrounds are cluttered, sharp and like the subject, `mixture` how often each kind of scene
    comes.
    """

    seed: int
    level: Level
    mixture: Mixture = field(default_factory=lambda: PLAIN, hash=False)

    def item(self, index: int, size: int) -> tuple[Photo, Plane]:
        """Image uint8 (size, size, 3) and alpha float32 (size, size) of one index."""
        scene, rng = compose(index, size, self.seed, self.level, self.mixture)
        return camera(scene.image, rng), scene.alpha

    def classes(self) -> tuple[str, ...]:
        """The families that subjects may be of."""
        return tuple(FAMILIES) if set(self.mixture) == {"plain"} else (*FAMILIES, *RICH_FAMILIES)

    def label(self, index: int) -> str | None:
        """The family of one index's subject; None where it is of none, or of several."""
        return family_of(index, self.seed, self.level, self.mixture)


SETS: dict[str, ProceduralSet] = {
    "train": ProceduralSet(1, "mixed"),
    "rich": ProceduralSet(2, "mixed", RICH),
    "heldout": ProceduralSet(7001, "mixed"),
    "heldout-easy": ProceduralSet(7002, "easy"),
    "heldout-hard": ProceduralSet(7003, "hard", HARD),
}

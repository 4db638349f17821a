"""What a method is, and what it gives."""

from collections.abc import Callable
from dataclasses import dataclass, field

from benchmarks.refinement.scenes import Image, Plane


@dataclass(slots=True)
class Answer:
    """What a method gives.

    Attributes:
        alpha: (H, W) float32 in [0, 1].
        megapixels: Through the refiner, halos included; of every stage.
        stages: The matte after every stage, at image size, the coarse one first; where it was asked for.
    """

    alpha: Plane
    megapixels: float = 0.0
    stages: list[Plane] = field(default_factory=list)


Method = Callable[[Image, Plane], Answer]

"""What a method is, and what it gives."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.refinement.scenes import Image, Plane


@dataclass(slots=True)
class Answer:
    """What a method gives.

    Attributes:
        alpha: (H, W) float32 in [0, 1].
        work: Multiply-adds of the refiner's network in 10⁹, over all stages.
        stages: Gives the matte after every stage, at image size, the coarse one first; work that is not timed.
    """

    alpha: Plane
    work: float = 0.0
    stages: Callable[[], Sequence[Plane]] = tuple


Method = Callable[[Image, Plane], Answer]

"""What a refiner's training run is. Frozen, and written into every checkpoint."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from modeling.crm.config import ALIGNMENT, CrmConfig
from training.config import Budget, check_accumulate
from training.precision import check_precision, with_precision
from training.refiner.coarse import CoarseMix
from training.refiner.losses import RefinerWeights


@dataclass(frozen=True)
class RefinerConfig:
    """Everything that decides a run's outcome.

    Attributes:
        network: Which refiner.
        budget: When the run ends.
        window: Side of a training window, in pixels.
        batch: Windows in a batch.
        scaled: Share of the batches whose target is larger than the input (r < 1): input scales from 1/8 to 1.
        points: Target points asked for in each window of those.
        scene_size: Side of the procedural photographs that a part of the windows is cut from.
        scene_windows: Windows cut from one photograph.
        closeups: Share of the windows that are close-ups.
        boundary_width: RefineMask's rule: only what lies within so many pixels of the mask's or the truth's contour, or
            is undecided, is supervised; 0 supervises everything.
        closeup_windows: Batches for which a close-up is kept, turned and with another mask in each.
        precision: Of the encoder, one of `training.precision.PRECISIONS`.
        accumulate: Batches whose gradients' mean makes one update.
    """

    network: CrmConfig
    budget: Budget
    seed: int = 7
    window: int = 144
    batch: int = 8
    scaled: float = 0.15
    points: int = 8192
    scene_size: int = 768
    scene_windows: int = 64
    closeups: float = 0.6
    closeup_windows: int = 8
    boundary_width: int = 0
    learning_rate: float = 2e-3
    weight_decay: float = 0.01
    warmup: float = 0.03
    final_rate: float = 0.01
    clip_norm: float = 1.0
    ema_decay: float = 0.998
    data_set: str = "train"
    precision: str = "fp32"
    accumulate: int = 1
    coarse: CoarseMix = field(default_factory=CoarseMix)
    loss: RefinerWeights = field(default_factory=RefinerWeights)

    def __post_init__(self) -> None:
        check_precision(self.precision)
        check_accumulate(self.accumulate)
        if self.window % ALIGNMENT or self.window <= 0:
            raise ValueError(f"a training window is a positive multiple of {ALIGNMENT}, found {self.window}")
        if self.scene_size < self.window:
            raise ValueError(f"a window of {self.window} does not fit into photographs of {self.scene_size}")

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values; `from_dict` reads them back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The configuration that `to_dict` wrote."""
        plain = with_precision(values)
        return cls(
            network=CrmConfig.from_dict(plain.pop("network")),
            budget=Budget(**plain.pop("budget")),
            coarse=CoarseMix(**plain.pop("coarse")),
            loss=RefinerWeights(**plain.pop("loss")),
            **plain,
        )

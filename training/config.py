"""What a training run is: network, phases, optimiser, budget. Frozen, and written into every checkpoint."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from modeling.birefnet.config import COMPACT, SWIN_L, SWIN_T, BiRefNetConfig
from training.data.augmentation import Augmentation
from training.losses import FineTuning, LossWeights
from training.losses.inverse_form import InverseFormOptions
from training.precision import check_precision, with_precision

NETWORKS: dict[str, BiRefNetConfig] = {"compact": COMPACT, "swin_t": SWIN_T, "swin_l": SWIN_L}


@dataclass(frozen=True)
class Phase:
    """A stretch of the run at one working size: from the end of the phase before to the share `until` of the budget."""

    until: float
    size: int
    batch: int

    def __post_init__(self) -> None:
        if self.size % 32 or self.size <= 0:
            raise ValueError(f"a working size is a positive multiple of 32, found {self.size}")


@dataclass(frozen=True)
class Budget:
    """When the run ends: after so many steps, or after so many seconds of running (a stop does not count)."""

    steps: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.seconds is None):
            raise ValueError(
                f"a budget is either steps or seconds, found steps={self.steps} and seconds={self.seconds}"
            )
        if (self.steps or self.seconds or 0) <= 0:
            raise ValueError(f"a budget is positive, found steps={self.steps} and seconds={self.seconds}")

    def share(self, step: int, elapsed: float) -> float:
        """How much of the budget is spent, 0 to 1 and above."""
        return step / self.steps if self.steps is not None else elapsed / (self.seconds or 1.0)


def check_accumulate(batches: int) -> None:
    """Refuse a number of batches that makes no update.

    Raises:
        ValueError: Fewer than one.
    """
    if batches < 1:
        raise ValueError(f"an update has 1 batch or more, found {batches}")


@dataclass(frozen=True)
class TrainingConfig:
    """Everything that decides a run's outcome.

    Attributes:
        network: Which network.
        phases: Working sizes and batches.
        budget: When the run ends.
        loss: Weights of the terms.
        loss_scale: Factor of their sum, so that clipping and rates are those of ordinary losses.
        side_stride: See `training.losses.multi_stage`.
        fine_tuning: Region-level fine-tuning at the run's end; by default there is none.
        gradient_dilation: See `training.losses.gradient_label`; None is the official code's label.
        inverse_form: The InverseForm loss; by default its weight is 0.
        data_set: A procedural set, unless there is a folder.
        recomposed: How many of its subjects to draw, and put together anew on the device; 0 draws every image.
        pools: Folders of images made before (`training.data.pool`), instead of a set.
        data_folder: A folder of photographs and mattes (`training.data.folders`); empty for the procedural set.
        augmentation: Of the folder's photographs.
        classes: Names of what the auxiliary head tells apart; empty where no class is learned.
        precision: One of `training.precision.PRECISIONS`.
        accumulate: Batches whose gradients' mean makes one update.
        backbone_rate: Of the backbone's last stage, as a factor of the rate; 0 freezes the backbone.
        layer_decay: See `training.optimizer.backbone_factor`.
    """

    network: BiRefNetConfig
    phases: tuple[Phase, ...]
    budget: Budget
    seed: int = 7
    learning_rate: float = 1e-3
    weight_decay: float = 0.02
    warmup: float = 0.03
    final_rate: float = 0.01
    clip_norm: float = 5.0
    ema_decay: float = 0.998
    loss: LossWeights = field(default_factory=LossWeights)
    loss_scale: float = 0.01
    side_stride: int = 4
    fine_tuning: FineTuning = field(default_factory=FineTuning)
    gradient_dilation: int | None = None
    inverse_form: InverseFormOptions = field(default_factory=InverseFormOptions)
    data_set: str = "train"
    recomposed: int = 0
    pools: tuple[str, ...] = ()
    data_folder: str = ""
    augmentation: Augmentation = field(default_factory=Augmentation)
    classes: tuple[str, ...] = ()
    precision: str = "fp32"
    accumulate: int = 1
    backbone_rate: float = 1.0
    layer_decay: float = 1.0

    def __post_init__(self) -> None:
        check_precision(self.precision)
        if self.classes and len(self.classes) != self.network.auxiliary_classes:
            raise ValueError(
                f"expected a name for each class of the auxiliary head, found {len(self.classes)} names and "
                f"{self.network.auxiliary_classes} classes"
            )
        check_accumulate(self.accumulate)
        if self.recomposed < 0:
            raise ValueError(f"expected 0 subjects or more to put together anew, found {self.recomposed}")
        if not (0 <= self.backbone_rate <= 1 and 0 < self.layer_decay <= 1):
            raise ValueError(
                f"expected a backbone rate in [0, 1] and a layer decay in (0, 1], found {self.backbone_rate} and "
                f"{self.layer_decay}"
            )
        if bool(self.data_folder) + bool(self.pools) + bool(self.recomposed) > 1:
            raise ValueError("images come from a folder, from pools, or are recomposed: expected one of them at most")
        ends = [phase.until for phase in self.phases]
        if not ends or sorted(ends) != ends or abs(ends[-1] - 1.0) > 1e-9:
            raise ValueError(f"phases must end at rising shares of the budget, the last at 1, found {ends}")

    def phase_at(self, share: float) -> Phase:
        """The phase that is on when `share` of the budget is spent."""
        return next((phase for phase in self.phases if share < phase.until), self.phases[-1])

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values; `from_dict` reads them back."""
        return asdict(self) | {"network": self.network.to_dict()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The configuration that `to_dict` wrote."""
        plain = with_precision(values)
        return cls(
            network=BiRefNetConfig.from_dict(plain.pop("network")),
            phases=tuple(Phase(**phase) for phase in plain.pop("phases")),
            budget=Budget(**plain.pop("budget")),
            loss=LossWeights(**plain.pop("loss")),
            fine_tuning=FineTuning(**plain.pop("fine_tuning", {})),
            classes=tuple(plain.pop("classes", ())),
            inverse_form=InverseFormOptions(**plain.pop("inverse_form", {})),
            augmentation=Augmentation(**plain.pop("augmentation", {})),
            pools=tuple(plain.pop("pools", ())),
            **plain,
        )

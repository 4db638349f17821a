"""The matte network's run: procedural batches or a folder's, in phases of their own working size."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from modeling.weights import load_state
from training.checkpoint import Ema
from training.config import Phase, TrainingConfig
from training.data.photographs import open_folder
from training.data.pool import PoolSource
from training.data.recomposition import Recomposition
from training.data.sets import SETS
from training.data.stream import Delivery, Source, batches, normalised
from training.lean import LeanBiRefNet
from training.learner import Cadence, Learner, Outcome
from training.losses.inverse_form import InverseForm
from training.objective import step_loss
from training.optimizer import backbone_factor
from training.pace import Pace
from training.parallel import Group

__all__ = ["Cadence", "Examples", "Run", "source_of"]


class Examples(NamedTuple):
    """One batch.

    Attributes:
        images: (B, S, S, 3) uint8 RGB.
        target: (B, 1, S, S) float32 alphas.
        labels: (B,) int64 classes of the subjects, -1 where there is none; None where no class is learned.
    """

    images: Tensor
    target: Tensor
    labels: Tensor | None = None

    def to(self, device: torch.device) -> "Examples":
        """The same on a device; from pinned memory without waiting for the copy."""
        images, target = (each.to(device, non_blocking=True) for each in (self.images, self.target))
        return Examples(images, target, None if self.labels is None else self.labels.to(device, non_blocking=True))


def source_of(config: TrainingConfig, workers: int = 0) -> Source:
    """Where a configuration's images come from; `workers` processes draw what is recomposed.

    Raises:
        FolderError: Its folder does not hold what training needs.
        PoolError: One of its pools is none.
    """
    if config.pools:
        return PoolSource(tuple(Path(folder) for folder in config.pools), config.seed)
    if config.data_folder:
        return open_folder(Path(config.data_folder), config.seed, config.augmentation)
    if config.recomposed:
        return Recomposition(SETS[config.data_set], config.recomposed, config.seed, workers)
    return SETS[config.data_set]


class Run(Learner[Examples]):
    """One run of a BiRefNet in a folder."""

    config: TrainingConfig
    network: LeanBiRefNet
    columns = ("size", "rate", "norm", "loss", "mae")
    shown = ("size", "loss", "mae")

    def __init__(
        self,
        config: TrainingConfig,
        folder: Path,
        cadence: Cadence | None = None,
        group: Group | None = None,
        source: Source | None = None,
    ) -> None:
        torch.manual_seed(config.seed)
        self.config = config
        self.source: Source = source or source_of(config, cadence.workers if cadence else 0)
        super().__init__(config, LeanBiRefNet(config.network), folder, cadence, group)
        self._on = self.phase  # of the last step; `phase` is the next one's
        self.inverse_form: InverseForm | None = None
        if config.inverse_form.weight:
            self.inverse_form = InverseForm.of(config.inverse_form).to(self.device)

    @property
    def phase(self) -> Phase:
        """The phase that is on."""
        return self.config.phase_at(self.share)

    def rate_factor(self, name: str) -> float:
        return backbone_factor(name, self.config.backbone_rate, self.config.layer_decay)

    def begin_from(self, state: Mapping[str, Tensor]) -> None:
        """Start a fresh run from trained weights instead of random ones; the average starts from them too.

        Raises:
            WeightsError: They are of another network.
        """
        load_state(self.network, state)
        self.ema = Ema(self.network, self.config.ema_decay)

    def stream(self) -> Iterator[list[Examples]]:
        while True:
            phase, self.pace = self.phase, Pace()
            self._on = phase
            delivery = Delivery(self.group.share_of(phase.batch), pinned=self.device.type == "cuda")
            first, workers = self.progress.next_index, self.cadence.workers
            found = batches(self.source, phase.size, phase.batch, first, workers, delivery)
            while self.phase is phase:
                yield [Examples(*next(found)).to(self.device) for _ in range(self.config.accumulate)]

    def loss(self, batch: Examples) -> Outcome:
        images, target, _ = batch
        planes = normalised(images)
        with self.autocast():
            outputs = self.network(planes)
        loss = step_loss(outputs, planes, target, self.config, self.share, self.inverse_form)
        error = (torch.sigmoid(outputs.logits.detach().float()) - target).abs().mean()
        return Outcome(loss, {"mae": error}, len(images))

    def columns_now(self) -> dict[str, float]:
        return {"size": self._on.size}

    def steps_left(self) -> float:
        """Later phases' steps take as much longer as they have pixels."""
        steps, share = self.config.budget.steps or 0, self.share
        now = self._on.size**2 * self._on.batch
        left, begin = 0.0, 0.0
        for phase in self.config.phases:
            part = max(0.0, phase.until - max(begin, share))
            left += part * steps * phase.size**2 * phase.batch / now
            begin = phase.until
        return left

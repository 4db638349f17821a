"""The matte network's run: procedural batches or a folder's, in phases of their own working size."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from modeling.weights import load_state
from training.checkpoint import Ema
from training.config import Phase, TrainingConfig
from training.data.folders import FolderError
from training.data.photographs import open_folder
from training.data.pool import PoolSource
from training.data.recomposition import Recomposition
from training.data.sets import SETS
from training.data.stream import Delivery, Labelled, Source, batches, classes_of, normalised
from training.lean import LeanBiRefNet
from training.learner import Cadence, Learner, Outcome
from training.losses.inverse_form import InverseForm
from training.objective import class_loss, step_loss
from training.optimizer import backbone_factor
from training.pace import Pace
from training.parallel import Group

__all__ = ["Cadence", "Examples", "Run", "source_of"]


_NAMED = 5


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


def _check_classes(learned: tuple[str, ...], named: tuple[str, ...]) -> None:
    """Refuse data that does not name what is learned, or names something else, too.

    Raises:
        FolderError: Says which.
    """
    if not learned:
        return
    if unknown := sorted(set(named) - set(learned)):
        raise FolderError(f"expected the classes that the run began with, found others: {', '.join(unknown[:_NAMED])}")
    if not named:
        raise FolderError("expected data that names the classes that the run learns, found none that does")


def source_of(config: TrainingConfig, workers: int = 0) -> Source:
    """Where a configuration's images come from; `workers` processes draw what is recomposed.

    Raises:
        FolderError: Its folder does not hold what training needs, or other classes than the run learns.
        PoolError: One of its pools is none.
    """
    source: Source = SETS[config.data_set]
    if config.pools:
        source = PoolSource(tuple(Path(folder) for folder in config.pools), config.seed)
    elif config.data_folder:
        source = open_folder(Path(config.data_folder), config.seed, config.augmentation)
    elif config.recomposed:
        source = Recomposition(SETS[config.data_set], config.recomposed, config.seed, workers)
    _check_classes(config.classes, classes_of(source))
    return source


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
        if isinstance(self.source, Recomposition):
            self.source.put_on(self.device)
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

        The auxiliary head may begin at random: no released checkpoint has one.

        Raises:
            WeightsError: They are of another network.
        """
        own = self.network.state_dict()
        head = {name: value for name, value in own.items() if name.startswith("cls_head.")}
        load_state(self.network, {**head, **state})
        self.ema = Ema(self.network, self.config.ema_decay)

    def stream(self) -> Iterator[list[Examples]]:
        while True:
            phase, self.pace = self.phase, Pace()
            self._on = phase
            delivery = Delivery(self.group.share_of(phase.batch), pinned=self.device.type == "cuda")
            first, workers = self.progress.next_index, self.cadence.workers
            found = batches(self.source, phase.size, phase.batch, first, workers, delivery)
            while self.phase is phase:
                first = self.progress.next_index
                starts = range(first, first + self.config.accumulate * phase.batch, phase.batch)
                indices = [range(start, start + phase.batch)[delivery.mine] for start in starts]
                yield [Examples(*next(found), self._labels(each)).to(self.device) for each in indices]

    def _labels(self, indices: range) -> Tensor | None:
        if not self.config.classes or not isinstance(self.source, Labelled):
            return None
        names = [self.source.label(index) for index in indices]
        return torch.tensor([-1 if name is None else self.config.classes.index(name) for name in names])

    def loss(self, batch: Examples) -> Outcome:
        images, target, labels = batch
        planes = normalised(images)
        with self.autocast():
            outputs = self.network(planes)
        loss = step_loss(outputs, planes, target, self.config, self.share, self.inverse_form)
        loss = loss + class_loss(outputs, labels, self.config)
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

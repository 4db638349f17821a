"""The training loop: procedural batches in, checkpoints, a CSV log and preview sheets out."""

import csv
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.optim import AdamW
from tqdm import tqdm

from modeling.weights import load_state
from training.checkpoint import Ema, Progress, restore, save
from training.config import Phase, TrainingConfig
from training.data.photographs import open_folder
from training.data.recomposition import Recomposition
from training.data.sets import SETS
from training.data.stream import Batch, Source, batches, normalised
from training.lean import LeanBiRefNet
from training.losses.inverse_form import InverseForm
from training.objective import step_loss
from training.pace import Pace
from training.parallel import Group

_LOG_FIELDS = ("step", "seconds", "size", "rate", "norm", "loss", "mae")

Observer = Callable[[nn.Module, Ema, Progress], None]


@dataclass(frozen=True)
class Cadence:
    """How often a run is written down, in seconds of running, and how many processes make its data."""

    checkpoint: float = 180.0
    observe: float = 600.0
    log_steps: int = 20
    workers: int = 1


class Schedule(Protocol):
    """What of a configuration the optimiser follows, whatever the network."""

    @property
    def learning_rate(self) -> float: ...
    @property
    def final_rate(self) -> float: ...
    @property
    def warmup(self) -> float: ...
    @property
    def weight_decay(self) -> float: ...


def learning_rate(config: Schedule, share: float) -> float:
    """Linear warm-up, then half a cosine down to `final_rate` of the peak, by the share of the budget spent."""
    if share < config.warmup:
        return config.learning_rate * max(share / config.warmup, 0.01)
    turn = math.pi * min(1.0, (share - config.warmup) / (1.0 - config.warmup))
    return config.learning_rate * (config.final_rate + (1.0 - config.final_rate) * 0.5 * (1.0 + math.cos(turn)))


def make_optimizer(network: nn.Module, config: Schedule) -> AdamW:
    """AdamW; norms, biases and position tables are not decayed."""
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for name, parameter in network.named_parameters():
        (free if parameter.ndim < 2 or "relative_position" in name else decayed).append(parameter)
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": free, "weight_decay": 0.0}]
    return AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.99))


def source_of(config: TrainingConfig) -> Source:
    """Where a configuration's images come from.

    Raises:
        FolderError: Its folder does not hold what training needs.
    """
    if config.data_folder:
        return open_folder(Path(config.data_folder), config.seed, config.augmentation)
    if config.recomposed:
        return Recomposition(SETS[config.data_set], config.recomposed, config.seed)
    return SETS[config.data_set]


class Run:
    """One run in a folder: `last.safetensors` (resumable), `log.csv`, and whatever the observer writes."""

    def __init__(
        self,
        config: TrainingConfig,
        folder: Path,
        cadence: Cadence | None = None,
        group: Group | None = None,
        source: Source | None = None,
    ) -> None:
        torch.manual_seed(config.seed)
        self.group = group or Group()
        self.config = config
        self.source: Source = source or source_of(config)
        self.folder = folder
        self.cadence = cadence or Cadence()
        self.network = LeanBiRefNet(config.network)
        self.ema = Ema(self.network, config.ema_decay)
        self.optimizer = make_optimizer(self.network, config)
        self.inverse_form = InverseForm.of(config.inverse_form) if config.inverse_form.weight else None
        self.progress = Progress()
        self.checkpoint = folder / "last.safetensors"
        self._pace = Pace()
        self._averages: dict[str, float] = {}
        self._pending: list[dict[str, float]] = []

    @property
    def share(self) -> float:
        """The spent share of the budget."""
        return self.config.budget.share(self.progress.step, self.progress.elapsed)

    def resume(self) -> bool:
        """Continue from the folder's checkpoint, if there is one."""
        if not self.checkpoint.exists():
            return False
        self.progress = restore(self.checkpoint, self.network, self.ema, self.optimizer)
        return True

    def begin_from(self, state: Mapping[str, Tensor]) -> None:
        """Start a fresh run from trained weights instead of random ones; the average starts from them too.

        Raises:
            WeightsError: They are of another network.
        """
        load_state(self.network, state)
        self.ema = Ema(self.network, self.config.ema_decay)

    def save(self) -> None:
        """Write the checkpoint and what the log still lacks; only the first process does."""
        if self.group.rank:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        save(self.checkpoint, self.config, self.progress, self.network, self.ema, self.optimizer)
        log = self.folder / "log.csv"
        fresh = not log.exists()
        with log.open("a", newline="") as file:
            writer = csv.DictWriter(file, _LOG_FIELDS)
            if fresh:
                writer.writeheader()
            writer.writerows(self._pending)
        self._pending.clear()

    def train_step(self, batch: Batch) -> dict[str, float]:
        """One update; returns loss, mean absolute error, gradient norm and learning rate."""
        images, target = batch
        # Dropout depends on the step and the process alone, so that a resumed run draws what an uninterrupted one
        # draws.
        torch.manual_seed(self.config.seed + 1_000_003 * self.progress.step + 7919 * self.group.rank)
        rate = learning_rate(self.config, self.share)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.network.train()
        planes = normalised(images)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.config.bfloat16):
            outputs = self.network(planes)
        loss = step_loss(outputs, planes, target, self.config, self.share, self.inverse_form)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.group.average(parameter.grad for parameter in self.network.parameters() if parameter.grad is not None)
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), self.config.clip_norm)
        if not torch.isfinite(norm):
            raise FloatingPointError(
                f"the gradient became {norm.item()} at step {self.progress.step}: lower the learning rate"
            )
        self.optimizer.step()
        self.progress.step += 1
        self.progress.next_index += len(images) * self.group.size
        self.ema.update(self.network, self.progress.step)
        error = (torch.sigmoid(outputs.logits.detach().float()) - target).abs().mean()
        return {"loss": loss.item(), "mae": error.item(), "norm": norm.item(), "rate": rate}

    def _spend(self, seconds: float) -> None:
        self.progress.elapsed = self.group.agree(self.progress.elapsed + self._pace.counted(seconds))

    def _note(self, figures: dict[str, float], phase: Phase) -> None:
        for name, value in figures.items():
            self._averages[name] = 0.95 * self._averages.get(name, value) + 0.05 * value
        if self.progress.step % self.cadence.log_steps == 0:
            row: dict[str, float] = {
                "step": self.progress.step,
                "seconds": round(self.progress.elapsed, 1),
                "size": phase.size,
                "rate": round(figures["rate"], 8),
            }
            self._pending.append(row | {name: round(self._averages[name], 5) for name in ("norm", "loss", "mae")})

    def _postfix(self, phase: Phase) -> str:
        averages = self._averages
        return f"step {self.progress.step} size {phase.size} loss {averages['loss']:.3f} mae {averages['mae']:.3f}"

    def _phase_steps(self, phase: Phase, steps_left: int | None) -> Iterator[tuple[Phase, dict[str, float]]]:
        """Steps of one phase until its end, the budget's, or `steps_left`."""
        mine = self.group.share_of(phase.batch)
        stream = batches(self.source, phase.size, phase.batch, self.progress.next_index, self.cadence.workers, mine)
        self._pace = Pace()
        begin = time.perf_counter()
        while self.share < 1 and self.config.phase_at(self.share) is phase and steps_left != 0:
            figures = self.train_step(next(stream))
            now = time.perf_counter()
            self._spend(now - begin)
            begin = now
            steps_left = None if steps_left is None else steps_left - 1
            yield phase, figures
            begin = time.perf_counter()

    def train(self, observer: Observer | None = None, stop_after: int | None = None) -> None:
        """Run until the budget is spent, or for `stop_after` more steps; then save."""
        saved = observed = self.progress.elapsed
        last = None if stop_after is None else self.progress.step + stop_after
        with tqdm(
            total=100,
            unit="%",
            mininterval=5.0,
            bar_format="{percentage:5.1f}% |{bar:20}| {elapsed}<{remaining} {postfix}",
            disable=self.group.rank > 0,
        ) as bar:
            bar.update(min(100.0, 100 * self.share))
            while self.share < 1 and self.progress.step != last:
                phase = self.config.phase_at(self.share)
                for _, figures in self._phase_steps(phase, None if last is None else last - self.progress.step):
                    self._note(figures, phase)
                    bar.set_postfix_str(
                        self._postfix(phase),
                        refresh=False,
                    )
                    bar.update(min(100.0, 100 * self.share) - bar.n)
                    if self.progress.elapsed - saved > self.cadence.checkpoint:
                        self.save()
                        saved = self.progress.elapsed
                    if observer and not self.group.rank and self.progress.elapsed - observed > self.cadence.observe:
                        observer(self.network, self.ema, self.progress)
                        observed = self.progress.elapsed
        self.save()
        if observer and not self.group.rank:
            observer(self.network, self.ema, self.progress)

"""What every run has in common, whatever it trains: updates, average, budget, checkpoint, log, progress bar."""

import csv
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn
from tqdm import tqdm

from training.checkpoint import Ema, Progress, State, restore, save
from training.config import Budget
from training.optimizer import Schedule, learning_rate, make_optimizer, set_rate
from training.pace import Pace
from training.parallel import Group
from training.precision import autocast, make_scaler

Item = TypeVar("Item")
Observer = Callable[[Ema, Progress], None]

FIRST_LOOK = 60.0
_LEAST_SCALE = 1.0


class LearnerConfig(Schedule, Protocol):
    """What of a configuration a run follows, whatever the network."""

    @property
    def seed(self) -> int: ...
    @property
    def budget(self) -> Budget: ...
    @property
    def accumulate(self) -> int: ...
    @property
    def precision(self) -> str: ...
    @property
    def clip_norm(self) -> float: ...
    @property
    def ema_decay(self) -> float: ...
    def to_dict(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Cadence:
    """How a run is carried out; none of it changes its outcome.

    Attributes:
        checkpoint: Seconds of running between checkpoints.
        observe: Seconds between looks of the observer; the first come sooner, each twice as late as the one before.
        log_steps: Steps between rows of the log.
        workers: Processes that make the data; 0 makes it in the run's own.
    """

    checkpoint: float = 180.0
    observe: float = 600.0
    log_steps: int = 20
    workers: int = 0

    def next_look(self, elapsed: float) -> float:
        """When the observer looks next: after 1, 2, 4, ... minutes, and then every `observe` seconds."""
        return elapsed + min(self.observe, max(FIRST_LOOK, elapsed))


@dataclass(frozen=True)
class Outcome:
    """What a forward pass over one batch gave.

    Attributes:
        loss: What is minimised, with its graph.
        figures: What else is logged, without.
        count: Images of the batch.
    """

    loss: Tensor
    figures: dict[str, Tensor]
    count: int


class Learner(ABC, Generic[Item]):
    """One run in a folder: `last.safetensors` (resumable bit for bit) and `log.csv`.

    A subclass says where batches come from and what their loss is. The random state of a step depends on seed, step and
    process alone, so that a resumed run draws what an uninterrupted one draws.

    Attributes:
        columns: Of the log, after `step` and `seconds`.
        shown: Which of them the progress bar shows.
        memory: Of the means in log and bar, per step.
    """

    columns: tuple[str, ...] = ()
    shown: tuple[str, ...] = ()
    memory = 0.95

    def __init__(
        self,
        config: LearnerConfig,
        network: nn.Module,
        folder: Path,
        cadence: Cadence | None = None,
        group: Group | None = None,
    ) -> None:
        self.config = config
        self.folder = folder
        self.cadence = cadence or Cadence()
        self.group = group or Group()
        self.device = self.group.device
        self.network = network.to(self.device)
        self.ema = Ema(self.network, config.ema_decay)
        self.optimizer = make_optimizer(self.network, config, self.rate_factor)
        self.scaler = make_scaler(self.device, config.precision)
        self.progress = Progress()
        self.checkpoint = folder / "last.safetensors"
        self.pace = Pace()
        self.averages: dict[str, float] = {}
        self._pending: list[dict[str, float]] = []

    @abstractmethod
    def stream(self) -> Iterator[Sequence[Item]]:
        """Endless updates from the run's progress on: `accumulate` batches each, on the run's device."""

    @abstractmethod
    def loss(self, batch: Item) -> Outcome:
        """The forward pass over one batch and its loss."""

    def rate_factor(self, name: str) -> float:
        """The factor of the learning rate of a parameter."""
        return 1.0

    def columns_now(self) -> dict[str, float]:
        """Values of the subclass's own columns."""
        return {}

    def steps_left(self) -> float:
        """Steps to the end of a budget of steps, in units of the present step's work."""
        return (self.config.budget.steps or 0) - self.progress.step

    @property
    def share(self) -> float:
        """The spent share of the budget."""
        return self.config.budget.share(self.progress.step, self.progress.elapsed)

    def seconds_left(self) -> float | None:
        """Running time to the end: what a budget of seconds has left, or the steps' at the present pace.

        None before the first step of a budget of steps.
        """
        budget = self.config.budget
        if budget.seconds is not None:
            return max(0.0, budget.seconds - self.progress.elapsed)
        return None if self.pace.ordinary is None else self.pace.ordinary * max(0.0, self.steps_left())

    @property
    def state(self) -> State:
        """What a checkpoint keeps beside the progress."""
        return State(self.network, self.ema, self.optimizer, self.scaler)

    def resume(self) -> bool:
        """Continue what the folder holds, if it holds a run."""
        if not self.checkpoint.exists():
            return False
        self.progress = restore(self.checkpoint, self.state)
        return True

    def save(self) -> None:
        """Write the checkpoint and what the log still lacks; only the first process does.

        Raises:
            RuntimeError: The processes' weights differ.
        """
        self.group.check_alike(self.network.parameters())
        if self.group.rank:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        save(self.checkpoint, self.config, self.progress, self.state)
        log = self.folder / "log.csv"
        fresh = not log.exists()
        with log.open("a", newline="") as file:
            writer = csv.DictWriter(file, ("step", "seconds", *self.columns))
            if fresh:
                writer.writeheader()
            writer.writerows(self._pending)
        self._pending.clear()

    def autocast(self) -> Any:  # noqa: ANN401  a context manager
        """The context of a forward pass in the run's precision."""
        return autocast(self.device, self.config.precision)

    def train_step(self, *batches: Item) -> dict[str, float]:
        """One update by the mean of the batches' gradients.

        Returns:
            Means of the loss and the figures over the batches; gradient norm and learning rate.

        Raises:
            FloatingPointError: The gradient is not finite: with fp16, not even after its scale was lowered to 1.
        """
        progress = self.progress
        torch.manual_seed(self.config.seed + 1_000_003 * progress.step + 7919 * self.group.rank)
        rate = learning_rate(self.config, self.share)
        set_rate(self.optimizer, rate)
        self.network.train()
        self.optimizer.zero_grad(set_to_none=True)
        outcomes = [self._backward(batch, len(batches)) for batch in batches]
        norm = self._update()
        progress.step += 1
        progress.next_index += sum(outcome.count for outcome in outcomes) * self.group.size
        self.ema.update(self.network, progress.step)
        tables = [{"loss": outcome.loss, **outcome.figures} for outcome in outcomes]
        figures = {name: _mean(table[name].item() for table in tables) for name in tables[0]}
        return {**figures, "norm": norm, "rate": rate}

    def _backward(self, batch: Item, parts: int) -> Outcome:
        outcome = self.loss(batch)
        self.scaler.scale(outcome.loss / parts).backward()
        return Outcome(outcome.loss.detach(), outcome.figures, outcome.count)

    def _update(self) -> float:
        """Average over the processes, clip, step; the gradient's norm.

        In fp16 a gradient may overflow. Then nothing is changed but the scale, which is why that still is a step.
        """
        parameters = list(self.network.parameters())
        self.group.average(parameter.grad for parameter in parameters if parameter.grad is not None)
        self.scaler.unscale_(self.optimizer)
        norm = float(nn.utils.clip_grad_norm_(parameters, self.config.clip_norm))
        if not math.isfinite(norm) and not self.scaler.is_enabled():
            raise FloatingPointError(
                f"the gradient became {norm} at step {self.progress.step}: lower the learning rate"
            )
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.scaler.is_enabled() and self.scaler.get_scale() < _LEAST_SCALE:
            raise FloatingPointError(
                f"the gradient became {norm} at step {self.progress.step} whatever its scale: lower the learning rate"
            )
        return norm

    def _note(self, figures: dict[str, float]) -> None:
        for name, value in figures.items():
            if math.isfinite(value):  # of a step that fp16 skipped there is no norm
                self.averages[name] = self.memory * self.averages.get(name, value) + (1 - self.memory) * value
        self.averages["rate"] = figures["rate"]
        self.averages |= self.columns_now()
        if self.progress.step % self.cadence.log_steps == 0:
            row: dict[str, float] = {"step": self.progress.step, "seconds": round(self.progress.elapsed, 1)}
            row |= {name: round(self.averages.get(name, math.nan), 8 if name == "rate" else 5) for name in self.columns}
            self._pending.append(row)

    def _show(self, bar: tqdm) -> None:
        left = self.seconds_left()
        text = "" if left is None else f"{bar.format_interval(left)} left, "
        text += f"step {self.progress.step}"
        text += "".join(f" {name} {self.averages.get(name, math.nan):.4g}" for name in self.shown)
        bar.set_postfix_str(text, refresh=False)
        bar.update(min(100.0, 100 * self.share) - bar.n)

    def train(self, observer: Observer | None = None, stop_after: int | None = None) -> None:
        """Run until the budget is spent, or for `stop_after` more steps; then save.

        Args:
            observer: Looks at the average now and then and at the end, in the first process, after a checkpoint.
            stop_after: Steps.
        """
        progress, cadence = self.progress, self.cadence
        saved, look = progress.elapsed, cadence.next_look(progress.elapsed)
        last = None if stop_after is None else progress.step + stop_after
        stream = self.stream()
        with self._bar() as bar:
            while self.share < 1 and progress.step != last:
                begin = time.perf_counter()
                figures = self.train_step(*next(stream))
                spent = self.pace.counted(time.perf_counter() - begin)
                progress.elapsed = self.group.agree(progress.elapsed + spent)
                self._note(figures)
                self._show(bar)
                looks = observer is not None and progress.elapsed >= look
                if looks or progress.elapsed - saved > cadence.checkpoint:
                    self.save()
                    saved = progress.elapsed
                if observer is not None and looks:
                    look = cadence.next_look(progress.elapsed)
                    self._look(observer)
        self.save()
        if observer is not None:
            self._look(observer)

    def _look(self, observer: Observer) -> None:
        if not self.group.rank:
            observer(self.ema, self.progress)

    def _bar(self) -> tqdm:
        return tqdm(
            total=100,
            initial=min(100.0, 100 * self.share),
            mininterval=5.0,
            bar_format="{percentage:5.1f}% |{bar:20}| {elapsed}{postfix}",
            disable=self.group.rank > 0,
        )


def _mean(values: Iterable[float]) -> float:
    each = list(values)
    return sum(each) / len(each)

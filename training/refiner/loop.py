"""The refiner's training loop: windows in, checkpoints and a CSV log out. It resumes bit for bit."""

import csv
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from modeling.crm.network import CRM
from modeling.crm.weights import load_refiner_state
from training.checkpoint import Ema, Progress, restore, save
from training.loop import learning_rate, make_optimizer
from training.losses.refine_mask import refined_region
from training.pace import Pace
from training.refiner.config import RefinerConfig
from training.refiner.losses import refiner_loss
from training.refiner.samples import RefinerBatch, refiner_batches

_LOG_FIELDS = ("step", "seconds", "rate", "norm", "loss", "mae", "gain")


@dataclass(frozen=True)
class RefinerCadence:
    """How a run is carried out: none of it changes its outcome.

    Attributes:
        checkpoint: Seconds between checkpoints.
        log_steps: Steps between rows of the log.
        workers: Processes that make the windows; 0 makes them in the loop's own.
        device: Of the network: `cpu`, `cuda`. A GPU sums in another order, so that its weights differ in the last bits.
    """

    checkpoint: float = 120.0
    log_steps: int = 20
    workers: int = 0
    device: str = "cpu"


def image_planes(image: Tensor) -> Tensor:
    """uint8 (B, H, W, 3) to what a refiner takes, float32 (B, 3, H, W) in [0, 1]."""
    return image.permute(0, 3, 1, 2).float() / 255.0


def target_logits(
    network: CRM, batch: RefinerBatch, autocast: torch.dtype | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits of the targets that a batch asks for, and mask and truth there: (B, T, T) each, or (B, N)."""
    latent = network.encode(image_planes(batch.image), batch.mask, batch.frame, autocast)
    target = (batch.truth.shape[1], batch.truth.shape[2])
    mask, truth = batch.target_mask, batch.truth
    if batch.rows is None or batch.columns is None:
        return network.decode(latent, mask, target), mask, truth
    mask, truth = (each[:, batch.rows, batch.columns] for each in (mask, truth))
    return network.query(latent, mask, target, (batch.rows, batch.columns)), mask, truth


def target_region(batch: RefinerBatch, width: int) -> Tensor | None:
    """Which of the targets are supervised, of the shape of `target_logits`; None for all, where `width` is 0."""
    if not width:
        return None
    region = refined_region(batch.target_mask, batch.truth, width)
    if batch.rows is None or batch.columns is None:
        return region
    return region[:, batch.rows, batch.columns]


class RefinerRun:
    """One run in a folder: `last.safetensors` (resumable) and `log.csv`."""

    def __init__(self, config: RefinerConfig, folder: Path, cadence: RefinerCadence | None = None) -> None:
        torch.manual_seed(config.seed)
        self.config = config
        self.folder = folder
        self.cadence = cadence or RefinerCadence()
        self.device = torch.device(self.cadence.device)
        self.network = CRM(config.network).to(self.device)
        self.ema = Ema(self.network, config.ema_decay)
        self.optimizer = make_optimizer(self.network, config)
        self.progress = Progress()
        self.checkpoint = folder / "last.safetensors"
        self._averages: dict[str, float] = {}
        self._pending: list[dict[str, float]] = []

    @property
    def share(self) -> float:
        """The spent share of the budget."""
        return self.config.budget.share(self.progress.step, self.progress.elapsed)

    def resume(self) -> bool:
        """Continue what the folder holds, if it holds a run."""
        if not self.checkpoint.exists():
            return False
        self.progress = restore(self.checkpoint, self.network, self.ema, self.optimizer)
        return True

    def begin_from(self, state: Mapping[str, Tensor]) -> None:
        """Start a fresh run from trained weights instead of random ones; the average starts from them too.

        Raises:
            WeightsError: They are of another network.
        """
        load_refiner_state(self.network, state)
        self.ema = Ema(self.network, self.config.ema_decay)

    def save(self) -> None:
        """Write the state, and the log's rows since the last time."""
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

    def train_step(self, batch: RefinerBatch) -> dict[str, float]:
        """One update.

        Returns:
            Loss, mean absolute error, the share of the mask's error that is gone, gradient norm and learning rate.
        """
        torch.manual_seed(self.config.seed + 1_000_003 * self.progress.step)
        rate = learning_rate(self.config, self.share)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.network.train()
        half = torch.bfloat16 if self.config.bfloat16 else None
        batch = batch.to(self.device)
        logits, mask, truth = target_logits(self.network, batch, half)
        loss = refiner_loss(logits, mask, truth, self.config.loss, target_region(batch, self.config.boundary_width))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), self.config.clip_norm)
        if not torch.isfinite(norm):
            raise FloatingPointError(
                f"the gradient became {norm.item()} at step {self.progress.step}: lower the learning rate"
            )
        self.optimizer.step()
        self.progress.step += 1
        self.progress.next_index += len(batch.image)
        self.ema.update(self.network, self.progress.step)
        error = (torch.sigmoid(logits.detach()) - truth).abs().mean().item()
        before = (mask - truth).abs().mean().item()
        return {"loss": loss.item(), "mae": error, "before": before, "norm": norm.item(), "rate": rate}

    def _note(self, figures: dict[str, float]) -> None:
        for name, value in figures.items():
            self._averages[name] = 0.98 * self._averages.get(name, value) + 0.02 * value
        self._averages["gain"] = 1 - self._averages["mae"] / max(self._averages["before"], 1e-9)
        if self.progress.step % self.cadence.log_steps == 0:
            row: dict[str, float] = {
                "step": self.progress.step,
                "seconds": round(self.progress.elapsed, 1),
                "rate": round(figures["rate"], 8),
            }
            self._pending.append(row | {name: round(self._averages[name], 5) for name in _LOG_FIELDS[3:]})

    def train(self, stop_after: int | None = None) -> None:
        """Run until the budget is spent, or for `stop_after` more steps; then save."""
        saved = self.progress.elapsed
        last = None if stop_after is None else self.progress.step + stop_after
        stream, pace = refiner_batches(self.config, self.progress.step, self.cadence.workers), Pace()
        begin = time.perf_counter()
        with tqdm(total=100, unit="%", mininterval=10.0, bar_format="{percentage:5.1f}% {elapsed} {postfix}") as bar:
            while self.share < 1 and self.progress.step != last:
                self._note(self.train_step(next(stream)))
                now = time.perf_counter()
                self.progress.elapsed += pace.counted(now - begin)
                begin = now
                bar.set_postfix_str(
                    f"step {self.progress.step} loss {self._averages['loss']:.4f} gain {self._averages['gain']:.3f}",
                    refresh=False,
                )
                bar.update(min(100.0, 100 * self.share) - bar.n)
                if self.progress.elapsed - saved > self.cadence.checkpoint:
                    self.save()
                    saved = self.progress.elapsed
        self.save()

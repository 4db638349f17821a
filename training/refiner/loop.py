"""The refiner's run: windows of procedural photographs, each step's the same every time."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from modeling.crm.network import CRM
from modeling.crm.weights import load_refiner_state
from training.checkpoint import Ema
from training.learner import Cadence, Learner, Outcome
from training.losses.refine_mask import refined_region
from training.parallel import Group
from training.precision import PRECISIONS
from training.refiner.config import RefinerConfig
from training.refiner.losses import refiner_loss
from training.refiner.samples import RefinerBatch, refiner_batches


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


class RefinerRun(Learner[RefinerBatch]):
    """One run of a refiner in a folder, in one process."""

    config: RefinerConfig
    network: CRM
    columns = ("rate", "norm", "loss", "mae", "gain")
    shown = ("loss", "gain")
    memory = 0.98

    def __init__(
        self, config: RefinerConfig, folder: Path, cadence: Cadence | None = None, group: Group | None = None
    ) -> None:
        torch.manual_seed(config.seed)
        self.config = config
        super().__init__(config, CRM(config.network), folder, cadence, group)

    def begin_from(self, state: Mapping[str, Tensor]) -> None:
        """Start a fresh run from trained weights instead of random ones; the average starts from them too.

        Raises:
            WeightsError: They are of another network.
        """
        load_refiner_state(self.network, state)
        self.ema = Ema(self.network, self.config.ema_decay)

    def stream(self) -> Iterator[list[RefinerBatch]]:
        parts, pinned = self.config.accumulate, self.device.type == "cuda"
        found = refiner_batches(self.config, self.progress.step * parts, self.cadence.workers, pinned)
        while True:
            yield [next(found).to(self.device) for _ in range(parts)]

    def loss(self, batch: RefinerBatch) -> Outcome:
        """As `Learner.loss`; autocast is the encoder's alone."""
        logits, mask, truth = target_logits(self.network, batch, PRECISIONS[self.config.precision])
        loss = refiner_loss(logits, mask, truth, self.config.loss, target_region(batch, self.config.boundary_width))
        error = (torch.sigmoid(logits.detach()) - truth).abs().mean()
        return Outcome(loss, {"mae": error, "before": (mask - truth).abs().mean()}, len(batch.image))

    def columns_now(self) -> dict[str, float]:
        """The share of the coarse mask's error that is gone."""
        return {"gain": 1 - self.averages["mae"] / max(self.averages["before"], 1e-9)}

"""One process of a training run, with previews: what `train` starts, alone or several times."""

from dataclasses import dataclass
from pathlib import Path

import cv2
import torch
from torch import nn

from training.checkpoint import Ema, Progress
from training.config import TrainingConfig
from training.data.sets import SETS
from training.lean import LeanBiRefNet
from training.loop import Cadence, Run
from training.parallel import Group
from training.preview import preview


@dataclass(frozen=True)
class RunOptions:
    """What does not change a run's outcome: where it is written, threads, data processes, seconds between previews."""

    folder: Path
    threads: int = 1
    workers: int = 0
    preview_every: float = 600.0


def train_in_group(group: Group, config: TrainingConfig, options: RunOptions) -> None:
    """Train, or continue what `options.folder` holds, as one process of `group`."""
    torch.set_num_threads(options.threads)
    cv2.setNumThreads(1)
    run = Run(config, options.folder, Cadence(workers=options.workers, observe=options.preview_every), group)
    run.resume()
    if not group.rank:
        parameters = sum(parameter.numel() for parameter in run.network.parameters())
        print(f"{parameters / 1e6:.2f} M parameters; phases {config.phases}; {config.budget}", flush=True)

    def observe(network: nn.Module, ema: Ema, progress: Progress) -> None:
        averaged = LeanBiRefNet(config.network)
        averaged.load_state_dict(ema.state)
        size = config.phase_at(run.share).size
        preview(averaged, options.folder / f"preview-{progress.step:06d}.png", size, SETS["heldout"])

    run.train(observe)
    if not group.rank:
        print(f"done: step {run.progress.step}, {run.progress.next_index} images, {run.progress.elapsed:.0f} s")

"""One process of a training run, with previews: what `train` starts, alone or several times."""

from dataclasses import dataclass
from pathlib import Path

import cv2
import torch

from modeling.patch_order import PatchOrder
from training.checkpoint import Ema, Progress
from training.config import TrainingConfig
from training.curve import draw_beside
from training.data.sets import SETS
from training.initial import initial_state
from training.lean import LeanBiRefNet
from training.loop import Cadence, Run
from training.parallel import Group
from training.preview import preview


@dataclass(frozen=True)
class RunOptions:
    """Where a run is written and how it is carried out; of these only `initial` changes its outcome.

    Attributes:
        folder: Checkpoints, log, curve and previews.
        threads: Of each process.
        workers: Data processes of each process.
        preview_every: Seconds between previews; the first ones come sooner.
        initial: Weights file that a run which starts afresh begins from; None begins at random.
        patch_order: Of that file; None finds out.
    """

    folder: Path
    threads: int = 1
    workers: int = 0
    preview_every: float = 600.0
    initial: Path | None = None
    patch_order: PatchOrder | None = None


def train_in_group(group: Group, config: TrainingConfig, options: RunOptions) -> None:
    """Train, or continue what `options.folder` holds, as one process of `group`."""
    torch.set_num_threads(options.threads)
    cv2.setNumThreads(1)
    run = Run(config, options.folder, Cadence(workers=options.workers, observe=options.preview_every), group)

    def say(text: str) -> None:
        if not group.rank:
            print(text, flush=True)

    if not run.resume() and options.initial is not None:
        run.begin_from(initial_state(options.initial, options.patch_order, say))
    parameters = sum(parameter.numel() for parameter in run.network.parameters())
    say(f"{parameters / 1e6:.2f} M parameters; phases {config.phases}; {config.budget}")

    def observe(ema: Ema, progress: Progress) -> None:
        averaged = LeanBiRefNet(config.network).to(group.device)
        averaged.load_state_dict(ema.state)
        size = config.phase_at(run.share).size
        preview(averaged, options.folder / f"preview-{progress.step:06d}.png", size, SETS["heldout"])
        draw_beside(options.folder / "log.csv")

    run.train(observe)
    say(f"done: step {run.progress.step}, {run.progress.next_index} images, {run.progress.elapsed:.0f} s")

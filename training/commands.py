"""`python -m training train`: from a command line to a run, begun or gone on with."""

import argparse
from pathlib import Path

from modeling.weights import WeightsError
from training.checkpoint import read_header
from training.config import TrainingConfig
from training.data.folders import FolderError
from training.data.pool import PoolError
from training.loop import source_of
from training.options import SETTINGS, add_training_options, configured
from training.parallel import LaunchError, Processes, launch, told_rank
from training.session import RunOptions, train_in_group
from training.settings import changed


def configuration(options: argparse.Namespace, folder: Path) -> TrainingConfig:
    """The configuration of the run in a folder: a fresh one, or that of the run it holds with what may change.

    What is changed is printed.

    Raises:
        SystemExit: The command line asks for what cannot be; the message says what.
    """
    checkpoint = folder / "last.safetensors"
    try:
        if not checkpoint.exists():
            config = configured(options)
        else:
            stored, progress = read_header(checkpoint)
            config, flags = changed(stored, options, SETTINGS)
            if options.classes and not stored.classes:
                raise SystemExit("--classes: the run goes on with its network, which has no auxiliary head")
            spent = config.budget.share(progress.step, progress.elapsed)
            _say(f"resuming at step {progress.step}, {spent:.1%} of the budget")
            if flags:
                _say(f"changed from here on: {', '.join(flags)}")
            if options.init is not None:
                _say("--init has no effect: the run has begun")
        source_of(config)  # a folder's faults are told before anything starts
    except (FolderError, PoolError, WeightsError, FileNotFoundError) as error:
        raise SystemExit(str(error)) from error
    return config


def carry_out(options: argparse.Namespace, config: TrainingConfig, folder: Path) -> None:
    """Train in a folder until the budget is spent, in as many processes as are asked for.

    Raises:
        SystemExit: They cannot be started.
    """
    run = RunOptions(folder, options.threads, options.workers, options.preview_every, options.init, options.patch_order)
    try:
        launch(Processes(options.processes, options.device), train_in_group, config, run)
    except LaunchError as error:
        raise SystemExit(str(error)) from error


def add_execution_options(train: argparse.ArgumentParser) -> None:
    """Add what decides how a run is carried out."""
    train.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="of the network (default cpu)")
    train.add_argument(
        "--processes", type=int, default=1, help="processes that share every batch; on GPUs one for each (default 1)"
    )
    train.add_argument("--threads", type=int, default=1, help="threads of each process")
    train.add_argument("--workers", type=int, default=0, help="data processes of each process; 0: makes its own")
    train.add_argument("--preview-every", type=float, default=600.0, help="seconds between previews (default 600)")
    train.add_argument(
        "--override", action="store_true", help="let the command line change any option of a run that goes on"
    )


def add_train(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `train`."""
    train = commands.add_parser("train", help="train a network on procedural photographs, or on a folder's")
    add_training_options(train)
    add_execution_options(train)
    train.add_argument(
        "--resume",
        action="store_true",
        help="continue the run in --out; phases, rate, budget and folder may change, the rest with --override",
    )
    train.add_argument("--out", type=Path, required=True)
    train.set_defaults(run=_train)


def _train(options: argparse.Namespace) -> None:
    if (options.out / "last.safetensors").exists() and not options.resume:
        raise SystemExit(f"{options.out} already holds a run; pass --resume to continue it, or choose another --out")
    carry_out(options, configuration(options, options.out), options.out)


def _say(text: str) -> None:
    if not told_rank():
        print(text, flush=True)

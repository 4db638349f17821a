"""`python -m training refiner train|evaluate|weights|harmless|sheet`."""

import argparse
import shlex
from pathlib import Path

import cv2
import numpy as np
import torch

from artifact import open_artifact
from modeling.crm.config import CONFIGS
from modeling.crm.network import CRM
from modeling.crm.weights import load_refiner, load_refiner_state, save_refiner
from modeling.weights import read_metadata, read_state
from training.checkpoint import ema_weights, read_plain_header
from training.config import Budget
from training.curve import draw_beside
from training.learner import Cadence
from training.parallel import Group, LaunchError, Processes, launch, told_rank
from training.precision import PRECISIONS
from training.preview import write_sheet
from training.refiner.config import RefinerConfig
from training.refiner.evaluate import evaluate_refiner, summary
from training.refiner.harmless import default_artifacts, harm_table, measure_harm, record_harm
from training.refiner.loop import RefinerRun
from training.refiner.samples import make_batch
from training.settings import changed, made, named, plain


def trained_refiner(path: Path) -> CRM:
    """The averaged refiner of a run's checkpoint, or the refiner of a plain weights file."""
    if "progress" not in read_metadata(path):
        return load_refiner(path)
    network = CRM(RefinerConfig.from_dict(read_plain_header(path)[0]).network)
    load_refiner_state(network, ema_weights(path))
    return network.eval()


_SETTINGS = (
    made("config", "network", CONFIGS.__getitem__),
    made("steps", "budget", lambda steps: Budget(steps=steps), free=True),
    made("hours", "budget", lambda hours: Budget(seconds=hours * 3600), free=True),
    plain("window"),
    plain("batch"),
    plain("rate", "learning_rate", free=True),
    plain("boundary_width"),
    plain("seed"),
    plain("precision"),
    plain("accumulate"),
)


def _configured(options: argparse.Namespace) -> RefinerConfig:
    """A fresh run's configuration, or with `--resume` that of the run with what may change."""
    checkpoint = options.out / "last.safetensors"
    if not checkpoint.exists():
        return named(RefinerConfig(CONFIGS["compact"], Budget(seconds=3600.0)), options, _SETTINGS)
    if not options.resume:
        raise SystemExit(f"{options.out} already holds a run; pass --resume to continue it, or choose another --out")
    config, flags = changed(RefinerConfig.from_dict(read_plain_header(checkpoint)[0]), options, _SETTINGS)
    if flags:
        print(f"changed from here on: {', '.join(flags)}")
    return config


def _train(options: argparse.Namespace) -> None:
    torch.set_num_threads(options.threads)
    cv2.setNumThreads(options.threads)
    if told_rank() is not None:
        raise SystemExit("a refiner is trained in one process; found one that torchrun has started")
    try:
        launch(Processes(1, options.device), _train_in, _configured(options), options)
    except LaunchError as error:
        raise SystemExit(str(error)) from error


def _train_in(group: Group, config: RefinerConfig, options: argparse.Namespace) -> None:
    run = RefinerRun(config, options.out, Cadence(checkpoint=120.0, workers=options.workers), group)
    if run.resume():
        print(f"resuming at step {run.progress.step}, {run.share:.1%} of the budget")
    elif options.init is not None:
        run.begin_from(read_state(options.init))
    parameters = sum(parameter.numel() for parameter in run.network.parameters())
    print(f"{parameters / 1e6:.3f} M parameters; {config}", flush=True)
    run.train(lambda ema, progress: draw_beside(options.out / "log.csv"))
    print(f"done: step {run.progress.step}, {run.progress.next_index} windows, {run.progress.elapsed:.0f} s")


def _evaluate(options: argparse.Namespace) -> None:
    torch.set_num_threads(options.threads)
    network = trained_refiner(options.checkpoint)
    print(summary(evaluate_refiner(network, options.count, options.size)))


def _weights(options: argparse.Namespace) -> None:
    config, progress = read_plain_header(options.checkpoint)
    network = trained_refiner(options.checkpoint)
    about = {
        "step": str(progress.step),
        "windows": str(progress.next_index),
        "seconds": f"{progress.elapsed:.0f}",
        "seed": str(config["seed"]),
        "command": options.command,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    save_refiner(network, options.out, about)
    print(f"{options.out}: {options.out.stat().st_size / 1e6:.2f} MB, step {progress.step}")


def _harmless(options: argparse.Namespace) -> None:
    matte, refiner = (open_artifact(path) for path in (options.matte, options.refiner))
    found = measure_harm(matte, refiner)
    record_harm(refiner, found, shlex.join(["python", "-m", "training", *options.arguments]))
    print(harm_table(found))


def _sheet(options: argparse.Namespace) -> None:
    config = RefinerConfig(CONFIGS["compact"], Budget(steps=1), batch=1, scaled=0.0)
    rows = []
    for step in range(options.first, options.first + options.count):
        batch = make_batch(config, step)
        planes = [(each[0].numpy() * 255).astype(np.uint8) for each in (batch.mask, batch.truth)]
        grey = [np.repeat(plane[..., None], 3, axis=2) for plane in planes]
        rows.append(np.concatenate([batch.image[0].numpy(), *grey], axis=1))
    write_sheet(options.out, rows, 4)


def _add_train(inner: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    train = inner.add_parser("train", help="train a refiner on windows of procedural photographs")
    train.add_argument("--config", choices=sorted(CONFIGS), help="which refiner (default compact)")
    budget = train.add_mutually_exclusive_group()
    budget.add_argument("--hours", type=float, help="running time (default 1)")
    budget.add_argument("--steps", type=int, help="number of updates, instead of a time")
    train.add_argument("--window", type=int, help="side of a window (default 144)")
    train.add_argument("--batch", type=int, help="windows of a batch (default 8)")
    train.add_argument("--rate", type=float, help="peak learning rate (default 0.002)")
    train.add_argument(
        "--boundary-width", type=int, metavar="PX", help="RefineMask's rule: supervise only so near to a contour"
    )
    train.add_argument("--seed", type=int, help="(default 7)")
    train.add_argument("--accumulate", type=int, metavar="N", help="batches whose mean makes one update (default 1)")
    train.add_argument("--precision", choices=list(PRECISIONS), help="arithmetic of the encoder (default fp32)")
    train.add_argument("--bf16", action="store_const", const="bf16", dest="precision", help="--precision bf16")
    train.add_argument("--threads", type=int, default=1)
    train.add_argument("--workers", type=int, default=0, help="processes that make the windows; 0: the loop's own")
    train.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="of the network (default cpu)")
    train.add_argument("--resume", action="store_true", help="continue the run in --out; budget and rate may change")
    train.add_argument("--override", action="store_true", help="let a run that goes on change any option")
    train.add_argument("--init", type=Path, help="weights file to begin from, such as an earlier run's")
    train.add_argument("--out", type=Path, required=True)
    train.set_defaults(run=_train)


def add_refiner(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `refiner` and its own commands."""
    refiner = commands.add_parser("refiner", help="everything that is done with the refiner")
    inner = refiner.add_subparsers(dest="refiner_command", required=True)
    _add_train(inner)

    score = inner.add_parser("evaluate", help="held-out close-ups: the mask's error and the refiner's")
    score.add_argument("checkpoint", type=Path)
    score.add_argument("--count", type=int, default=40, help="close-ups of each kind (default 40)")
    score.add_argument("--size", type=int, default=256)
    score.add_argument("--threads", type=int, default=1)
    score.set_defaults(run=_evaluate)

    weights = inner.add_parser("weights", help="write a run's averaged weights as a plain weights file")
    weights.add_argument("checkpoint", type=Path)
    weights.add_argument("--out", type=Path, required=True)
    weights.add_argument("--command", default="", help="the training command, kept in the file")
    weights.set_defaults(run=_weights)

    harmless = inner.add_parser(
        "harmless", help="whether an exported refiner makes mattes of photographs worse; recorded in its manifest"
    )
    matte, own = default_artifacts()
    harmless.add_argument("--matte", type=Path, default=matte, help="the matte artifact (the package's)")
    harmless.add_argument("--refiner", type=Path, default=own, help="the refine artifact (the package's)")
    harmless.set_defaults(run=_harmless)

    sheet = inner.add_parser("sheet", help="contact sheet of training windows: image, mask, truth")
    sheet.add_argument("--first", type=int, default=0)
    sheet.add_argument("--count", type=int, default=40)
    sheet.add_argument("--out", type=Path, default=Path("refiner-sheet.png"))
    sheet.set_defaults(run=_sheet)

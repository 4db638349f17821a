"""`python -m training inverse-form pretrain|evaluate`."""

import argparse
import shlex
from dataclasses import replace
from pathlib import Path

import cv2
import torch
from tqdm import tqdm

from training.losses.inverse_form.network import FLAT, InverseNetworkConfig, load_inverse, save_inverse
from training.losses.inverse_form.pretraining import Pretraining, pretrain, shift_table
from training.losses.inverse_form.term import COMMITTED

_NETWORKS = {"convolutional": InverseNetworkConfig(), "flat": FLAT}


def _pretrain(options: argparse.Namespace) -> None:
    torch.set_num_threads(1)  # the order of sums, and so the weights, depend on it
    cv2.setNumThreads(1)
    how = Pretraining(steps=options.steps, batch=options.batch, seed=options.seed)
    with tqdm(total=how.steps, unit="step", mininterval=5.0) as bar:

        def report(step: int, error: float) -> None:
            bar.set_postfix_str(f"mean error {error:.3f}", refresh=False)
            bar.update(step - bar.n)

        network = pretrain(replace(_NETWORKS[options.network], side=options.side), how, report)
    about = {
        "seed": str(how.seed),
        "steps": str(how.steps),
        "command": "python -m training " + shlex.join(options.arguments),
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    save_inverse(network, options.out, about)
    print(f"{options.out}: {options.out.stat().st_size / 1e6:.2f} MB")
    _print_table(options.out)


def _evaluate(options: argparse.Namespace) -> None:
    _print_table(options.network)


def _print_table(path: Path) -> None:
    print("shift in pixels, and the mean distance on 200 held-out shapes:")
    for shift, distance in enumerate(shift_table(load_inverse(path))):
        print(f"  {shift}  {distance:.3f}")


def add_inverse_form(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `inverse-form` and its own commands."""
    inverse = commands.add_parser("inverse-form", help="the network behind the InverseForm loss")
    inner = inverse.add_subparsers(dest="inverse_command", required=True)
    train = inner.add_parser("pretrain", help="train it on warped procedural boundaries")
    train.add_argument("--network", choices=sorted(_NETWORKS), default="convolutional")
    train.add_argument("--side", type=int, default=64, help="of a tile (default 64)")
    train.add_argument("--steps", type=int, default=Pretraining.steps)
    train.add_argument("--batch", type=int, default=Pretraining.batch)
    train.add_argument("--seed", type=int, default=Pretraining.seed)
    train.add_argument("--out", type=Path, required=True)
    train.set_defaults(run=_pretrain)
    score = inner.add_parser("evaluate", help="the distance it gives for shapes shifted by 0 to 8 pixels")
    score.add_argument("network", type=Path, nargs="?", default=COMMITTED)
    score.set_defaults(run=_evaluate)

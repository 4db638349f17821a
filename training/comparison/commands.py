"""`python -m training compare losses|networks`."""

import argparse
import os
import shlex
from pathlib import Path

import cv2
import torch

from training.comparison.trials import Plan, as_differences, as_table, run_trials
from training.comparison.variants import loss_variants, network_variants
from training.config import TrainingConfig
from training.data.pool import PoolContents, fill, is_pool

_FIRST = 900_000  # images that no other training of ours has seen first


def _compare(options: argparse.Namespace) -> None:
    torch.set_num_threads(options.threads)
    cv2.setNumThreads(1)
    pool = options.pool
    if not is_pool(pool):
        fill(pool, PoolContents("rich", _FIRST, options.images, options.size), os.cpu_count() or 1)
    variants: dict[str, TrainingConfig] = (
        loss_variants(options.steps, options.size, options.batch)
        if options.what == "losses"
        else network_variants(options.seconds, options.size, options.batch)
    )
    plan = Plan(pool, options.size, options.count, tuple(range(1, options.seeds + 1)))
    about = {
        "command": "python -m training " + shlex.join(options.arguments),
        "size": plan.size,
        "batch": options.batch,
        "budget": f"{options.steps} steps" if options.what == "losses" else f"{options.seconds:g} s",
        "held_out_images": plan.count,
    }
    try:
        trials = run_trials(variants, plan, options.out, about)
        print(as_table(trials), as_differences(trials), sep="\n\n")
    except ValueError as error:
        raise SystemExit(str(error)) from error


def add_compare(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """The command and its options."""
    compare = commands.add_parser("compare", help="small trainings side by side: loss terms, or networks")
    compare.add_argument("what", choices=("losses", "networks"))
    compare.add_argument("--out", type=Path, required=True, help="JSON of every trial; goes on where it stopped")
    compare.add_argument("--pool", type=Path, required=True, help="folder of the images, which is filled if need be")
    compare.add_argument("--images", type=int, default=6000, help="of a pool that is filled (default 6000)")
    compare.add_argument("--size", type=int, default=128)
    compare.add_argument("--batch", type=int, default=16)
    compare.add_argument("--steps", type=int, default=300, help="of each training with its losses (default 300)")
    compare.add_argument("--seconds", type=float, default=300.0, help="of each network's training (default 300)")
    compare.add_argument("--seeds", type=int, default=3)
    compare.add_argument("--count", type=int, default=60, help="held-out images of each set (default 60)")
    compare.add_argument("--threads", type=int, default=1)
    compare.set_defaults(run=_compare)

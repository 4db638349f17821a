"""`python -m training instances train|evaluate`."""

import argparse
import json
import shlex
from dataclasses import asdict
from pathlib import Path

import cv2
import torch
from tqdm import tqdm

from modeling.refine_mask import BoxSegmenter, SegmenterConfig
from modeling.weights import WeightsError, read_metadata, read_state, write_state
from training.instances.learning import Comparison, InstanceTraining, compare, train_segmenter

CONFIG_KEY = "segmenter_config"


def load_segmenter(path: Path) -> BoxSegmenter:
    """The segmenter of a file that `train` wrote.

    Raises:
        WeightsError: The file holds none.
        FileNotFoundError: There is no such file.
    """
    metadata = read_metadata(path)
    if CONFIG_KEY not in metadata:
        raise WeightsError(f"{path}: expected a segmenter's configuration under `{CONFIG_KEY}`, found none")
    network = BoxSegmenter(SegmenterConfig.from_dict(json.loads(metadata[CONFIG_KEY])))
    network.load_state_dict(read_state(path))
    return network.eval()


def table(found: Comparison) -> str:
    """Both columns, a row for each figure."""
    lines = [f"{'':14s} 28 upsampled  14 to 112 composed"]
    lines += [f"{name:14s} {found.upsampled[name]:12.4f}  {value:18.4f}" for name, value in found.composed.items()]
    return "\n".join(lines)


def _train(options: argparse.Namespace) -> None:
    torch.set_num_threads(options.threads)
    cv2.setNumThreads(1)
    how = InstanceTraining(steps=options.steps, pool=options.pool, seed=options.seed)
    with tqdm(total=how.steps, unit="step", mininterval=5.0) as bar:

        def report(step: int, loss: float) -> None:
            bar.set_postfix_str(f"loss {loss:.3f}", refresh=False)
            bar.update(step - bar.n)

        network = train_segmenter(SegmenterConfig(), how, report)
    about = {
        "steps": str(how.steps),
        "seed": str(how.seed),
        "command": "python -m training " + shlex.join(options.arguments),
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    config = (CONFIG_KEY, json.dumps(asdict(network.config)))
    write_state(network.state_dict(), options.out, about, config)
    print(table(compare(network, options.count, how.size)))


def _evaluate(options: argparse.Namespace) -> None:
    torch.set_num_threads(options.threads)
    print(table(compare(load_segmenter(options.weights), options.count, options.size)))


def add_instances(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `instances` and its own commands."""
    instances = commands.add_parser("instances", help="RefineMask's mask head on box-prompted subjects")
    inner = instances.add_subparsers(dest="instances_command", required=True)
    train = inner.add_parser("train", help="train it on procedural photographs, and compare")
    train.add_argument("--steps", type=int, default=InstanceTraining.steps)
    train.add_argument("--pool", type=int, default=InstanceTraining.pool, help="photographs to train on")
    train.add_argument("--seed", type=int, default=InstanceTraining.seed)
    train.add_argument("--count", type=int, default=200, help="held-out photographs (default 200)")
    train.add_argument("--threads", type=int, default=1)
    train.add_argument("--out", type=Path, required=True, help="a .safetensors file")
    train.set_defaults(run=_train)
    score = inner.add_parser("evaluate", help="its masks against its 28-pixel ones upsampled, on held-out photographs")
    score.add_argument("weights", type=Path)
    score.add_argument("--count", type=int, default=200)
    score.add_argument("--size", type=int, default=InstanceTraining.size)
    score.add_argument("--threads", type=int, default=1)
    score.set_defaults(run=_evaluate)

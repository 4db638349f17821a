"""The options of `python -m training train`, and what each changes in a configuration."""

import argparse
from dataclasses import fields, replace
from pathlib import Path

from modeling.birefnet.config import BiRefNetConfig
from modeling.weights import load_network
from training.config import NETWORKS, Budget, Phase, TrainingConfig
from training.data.augmentation import NONE, Augmentation
from training.data.stream import classes_of
from training.loop import source_of
from training.losses import FINE_TUNING, PRESETS, LossWeights
from training.losses.inverse_form import DISTANCES
from training.precision import PRECISIONS
from training.settings import Setting, made, named, part, plain

_BATCH_AREA = 16 * 192 * 192
TRAINING_SETS = ("train", "rich")
_SIZE = 384
_HOURS = 1.5
_AUGMENTED = "flip,enhance,rotate,pepper"


def default_phases(size: int) -> tuple[Phase, ...]:
    """Half, two thirds and the whole of the working size: most images are seen small, where they are cheap."""
    shares = ((0.35, 0.5), (0.65, 2 / 3), (1.0, 1.0))
    sides = [(until, max(32, round(size * part / 32) * 32)) for until, part in shares]
    return tuple(Phase(until, side, max(4, min(32, 2 * round(_BATCH_AREA / side**2 / 2)))) for until, side in sides)


def parse_phases(text: str) -> tuple[Phase, ...]:
    """`192x16:0.35,256x12:0.65,384x8:1` to phases (size x batch : share of the budget at its end)."""
    phases = []
    for item in text.split(","):
        try:
            shape, until = item.split(":")
            size, batch = shape.split("x")
            phases.append(Phase(float(until), int(size), int(batch)))
        except ValueError as error:
            raise SystemExit(f"--phases: expected SIZExBATCH:SHARE, found {item!r} ({error})") from error
    return tuple(phases)


def parse_weights(text: str) -> dict[str, float]:
    """`structure=1,contour=0.5` to the weights of those terms."""
    known = [term.name for term in fields(LossWeights)]
    weights: dict[str, float] = {}
    for item in filter(None, text.split(",")):
        name, _, value = item.partition("=")
        try:
            weights[name] = float(value)
        except ValueError as error:
            raise SystemExit(f"--weights: expected TERM=WEIGHT,..., found {item!r}") from error
        if name not in known or weights[name] < 0:
            raise SystemExit(f"--weights: expected one of {', '.join(known)} and a weight of 0 or more, found {item!r}")
    return weights


def parse_augmentation(text: str) -> Augmentation:
    """`flip,rotate` to the official augmentations of those names, and no others."""
    official = replace(Augmentation(), crop=True)
    names = [each.name for each in fields(Augmentation)]
    chosen = list(filter(None, text.split(",")))
    if not set(chosen) <= set(names):
        raise SystemExit(f"--augment: expected some of {', '.join(names)}, found {text!r}")
    return replace(NONE, **{name: getattr(official, name) for name in chosen})


def _with_loss(config: TrainingConfig, preset: str) -> TrainingConfig:
    tuning = replace(FINE_TUNING[preset], begins=config.fine_tuning.begins)
    return replace(config, loss=PRESETS[preset], fine_tuning=tuning)


def _with_weights(config: TrainingConfig, text: str) -> TrainingConfig:
    return replace(config, loss=replace(config.loss, **parse_weights(text)))


# In the order in which they are applied: a preset before the weights that change it, a size before the phases.
SETTINGS = (
    made("config", "network", NETWORKS.__getitem__),
    made("size", "phases", default_phases, free=True),
    made("phases", "phases", parse_phases, free=True),
    made("steps", "budget", lambda steps: Budget(steps=steps), free=True),
    made("hours", "budget", lambda hours: Budget(seconds=hours * 3600), free=True),
    plain("rate", "learning_rate", free=True),
    made("data", "data_folder", lambda folder: str(folder.absolute()), free=True),
    plain("set", "data_set"),
    made("pool", "pools", lambda folders: tuple(str(folder.absolute()) for folder in folders), free=True),
    plain("recomposed"),
    made("augment", "augmentation", parse_augmentation),
    Setting("loss", frozenset({"loss", "fine_tuning"}), _with_loss),
    Setting("weights", frozenset({"loss"}), _with_weights),
    part("fine_tune_from", "fine_tuning", "begins"),
    plain("gradient_dilation"),
    part("inverse_form", "inverse_form", "weight"),
    part("inverse_distance", "inverse_form", "distance"),
    plain("seed"),
    plain("precision"),
    plain("accumulate"),
    plain("backbone_rate"),
    plain("layer_decay"),
)


def configured(options: argparse.Namespace) -> TrainingConfig:
    """The configuration of a fresh run.

    Raises:
        SystemExit: An option's value is none it can have; the message names both.
    """
    config = TrainingConfig(
        _network_of(options.init) if options.init is not None else NETWORKS["compact"],
        default_phases(_SIZE),
        Budget(seconds=_HOURS * 3600),
        loss=PRESETS["general"],
        fine_tuning=FINE_TUNING["general"],
        augmentation=parse_augmentation(_AUGMENTED),
    )
    return _with_classes(named(config, options, SETTINGS), options.classes)


def _with_classes(config: TrainingConfig, wanted: bool) -> TrainingConfig:
    """With an auxiliary head for the classes that the data names, if it is asked for or the network has one."""
    held = config.network.auxiliary_classes
    if not config.loss.classification or (held is None and not wanted):
        return config
    names = classes_of(source_of(config))
    if not names:
        raise SystemExit(
            "--classes: expected data that names its classes, a procedural set or files with DIS5K's names "
            "(1#Accessories#1#Bag#....jpg), found none; with --weights classification=0 the head learns nothing"
        )
    if held not in {None, len(names)}:
        raise SystemExit(f"--init: expected an auxiliary head of the data's {len(names)} classes, found {held}")
    return replace(config, network=replace(config.network, auxiliary_classes=len(names)), classes=names)


def _network_of(weights: Path) -> BiRefNetConfig:
    """What `--init` holds: its weights belong into no other network."""
    return load_network(weights).config


def add_training_options(train: argparse.ArgumentParser) -> None:
    """Add what decides a run's outcome; what is not named is None, so that a resumed run can tell."""
    train.add_argument("--data", type=Path, metavar="FOLDER", help="photographs and mattes; docs/training.md: layouts")
    train.add_argument("--set", choices=TRAINING_SETS, help="procedural set, without --data (default train)")
    train.add_argument("--pool", type=Path, nargs="+", metavar="FOLDER", help="images made by `pool`, for many rounds")
    train.add_argument(
        "--recomposed", type=int, metavar="N", help="draw N of its subjects, and put them together anew on the device"
    )
    train.add_argument(
        "--augment",
        help="of a folder's photographs: some of flip, enhance, rotate, pepper, crop (default all but crop)",
    )
    train.add_argument("--config", choices=sorted(NETWORKS), help="which network (that of --init, else compact)")
    train.add_argument("--init", type=Path, help="weights file to begin from, such as an official checkpoint")
    train.add_argument(
        "--patch-order", choices=("current", "legacy"), help="of --init (what the weights say); docs/export.md"
    )
    train.add_argument(
        "--classes",
        action="store_true",
        help="let an auxiliary head learn what the subject is, as the data names it",
    )
    train.add_argument("--size", type=int, help=f"working size of the last phase (default {_SIZE})")
    train.add_argument("--phases", help="SIZExBATCH:SHARE,... instead of the default three")
    budget = train.add_mutually_exclusive_group()
    budget.add_argument("--hours", type=float, help=f"running time (default {_HOURS})")
    budget.add_argument("--steps", type=int, help="number of updates, instead of a time")
    train.add_argument("--rate", type=float, help="peak learning rate (default 0.001)")
    train.add_argument(
        "--backbone-rate", type=float, metavar="FACTOR", help="of the rate in the backbone (default 1; 0 freezes it)"
    )
    train.add_argument(
        "--layer-decay", type=float, metavar="FACTOR", help="of the rate for each stage nearer to the image (default 1)"
    )
    train.add_argument("--accumulate", type=int, metavar="N", help="batches whose mean makes one update (default 1)")
    train.add_argument("--precision", choices=list(PRECISIONS), help="arithmetic of the network (default fp32)")
    train.add_argument("--bf16", action="store_const", const="bf16", dest="precision", help="--precision bf16")
    train.add_argument("--seed", type=int, help="of weights, data and order (default 7)")
    _add_losses(train)


def _add_losses(train: argparse.ArgumentParser) -> None:
    train.add_argument("--loss", choices=sorted(PRESETS), help="weights of the loss terms (default general)")
    train.add_argument("--weights", help="TERM=WEIGHT,... beside the preset's, such as structure=1")
    train.add_argument(
        "--fine-tune-from",
        type=float,
        metavar="SHARE",
        help="share of the budget from which region-level fine-tuning is on; 1, the default, is never",
    )
    train.add_argument(
        "--gradient-dilation",
        type=int,
        metavar="PX",
        help="the paper's gradient label, dilated by this radius, instead of the official code's",
    )
    train.add_argument(
        "--inverse-form",
        type=float,
        metavar="WEIGHT",
        help="weight of the InverseForm loss (default 0); see its patent notice in docs/training.md",
    )
    train.add_argument("--inverse-distance", choices=sorted(DISTANCES), help="(default euclidean)")

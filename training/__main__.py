"""`python -m training …`: what is done with the training code."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

import torch

from modeling.birefnet.network import BiRefNet
from modeling.weights import load_network, load_state, read_metadata, save_state
from training.checkpoint import ema_weights, read_header
from training.comparison.commands import add_compare
from training.config import NETWORKS, Budget, Phase, TrainingConfig
from training.curve import draw
from training.data.augmentation import NONE, Augmentation
from training.data.folders import FolderError
from training.data.photographs import open_folder
from training.data.sets import SETS
from training.data.stream import Source
from training.data_commands import add_data
from training.evaluate import evaluate
from training.instances.commands import add_instances
from training.lean import LeanBiRefNet
from training.loop import source_of
from training.losses import FINE_TUNING, PRESETS, LossWeights
from training.losses.inverse_form import DISTANCES, InverseFormOptions
from training.losses.inverse_form.commands import add_inverse_form
from training.parallel import launch
from training.preview import preview
from training.refiner.commands import add_refiner
from training.report import as_text, write
from training.session import RunOptions, train_in_group

_BATCH_AREA = 16 * 192 * 192


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


def trained(path: Path) -> BiRefNet:
    """The averaged network of a run's checkpoint, or the network of a plain weights file."""
    if "progress" not in read_metadata(path):
        return load_network(path)
    config, _ = read_header(path)
    network = LeanBiRefNet(config.network)
    load_state(network, ema_weights(path))
    return network.eval()


def _configured(options: argparse.Namespace) -> TrainingConfig:
    phases = parse_phases(options.phases) if options.phases else default_phases(options.size)
    return TrainingConfig(
        NETWORKS[options.config],
        phases,
        _budget(options),
        seed=options.seed,
        learning_rate=options.rate or 1e-3,
        loss=replace(PRESETS[options.loss], **parse_weights(options.weights)),
        fine_tuning=replace(FINE_TUNING[options.loss], begins=options.fine_tune_from),
        gradient_dilation=options.gradient_dilation,
        data_folder=str(options.data.absolute()) if options.data else "",
        augmentation=parse_augmentation(options.augment),
        inverse_form=InverseFormOptions(options.inverse_form, distance=options.inverse_distance),
        bfloat16=options.bf16,
    )


def _budget(options: argparse.Namespace) -> Budget:
    if options.steps:
        return Budget(steps=options.steps)
    return Budget(seconds=(options.hours or 1.5) * 3600)


def _changed(config: TrainingConfig, options: argparse.Namespace) -> TrainingConfig:
    """A resumed run's configuration with what its command line names anew: phases, peak rate, budget, folder."""
    if options.phases:
        config = replace(config, phases=parse_phases(options.phases))
    if options.rate:
        config = replace(config, learning_rate=options.rate)
    if options.steps or options.hours:
        config = replace(config, budget=_budget(options))
    if options.data:
        config = replace(config, data_folder=str(options.data.absolute()))
    return config


def _train(options: argparse.Namespace) -> None:
    config, checkpoint = _configured(options), options.out / "last.safetensors"
    if checkpoint.exists():
        if not options.resume:
            raise SystemExit(
                f"{options.out} already holds a run; pass --resume to continue it, or choose another --out"
            )
        config, progress = read_header(checkpoint)
        config = _changed(config, options)
        spent = config.budget.share(progress.step, progress.elapsed)
        print(f"resuming at step {progress.step}, {spent:.1%} of the budget")
    try:
        source_of(config)  # a folder's faults are told before anything starts
    except FolderError as error:
        raise SystemExit(str(error)) from error
    launch(
        options.processes,
        train_in_group,
        config,
        RunOptions(options.out, options.threads, options.workers, options.preview_every, options.init),
    )


def _evaluate(options: argparse.Namespace) -> None:
    torch.set_num_threads(options.threads)
    network = trained(options.checkpoint)
    results = {
        name: evaluate(network, source, options.size, count, options.workers)
        for name, (source, count) in _evaluated(options).items()
    }
    print(as_text(results))
    if options.out:
        about = {
            "checkpoint": str(options.checkpoint),
            "size": options.size,
            "command": shlex.join(["python", "-m", "training", *options.arguments]),
        }
        write(options.out, results, about)


def _evaluated(options: argparse.Namespace) -> dict[str, tuple[Source, int]]:
    """The sources by name, and how many images of each: a folder, or the procedural sets."""
    if not options.data:
        return {name: (SETS[name], options.count) for name in options.sets}
    try:
        folder = open_folder(options.data, 0, None)
    except FolderError as error:
        raise SystemExit(str(error)) from error
    return {options.data.name or str(options.data): (folder, min(options.count, len(folder)))}


def _preview(options: argparse.Namespace) -> None:
    preview(trained(options.checkpoint), options.out, options.size, SETS["heldout"])


def _weights(options: argparse.Namespace) -> None:
    config, progress = read_header(options.checkpoint)
    network = BiRefNet(config.network)
    load_state(network, ema_weights(options.checkpoint))
    network.half()  # half the size in the repository; what is exported and scored is this very file
    about = {
        "step": str(progress.step),
        "images": str(progress.next_index),
        "seconds": f"{progress.elapsed:.0f}",
        "seed": str(config.seed),
        "command": options.command,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    save_state(network, options.out, about)
    print(f"{options.out}: {options.out.stat().st_size / 1e6:.1f} MB, step {progress.step}")


def _curve(options: argparse.Namespace) -> None:
    draw(options.logs, options.out)


def _add_train(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    train = commands.add_parser("train", help="train a network on procedural photographs, or on a folder's")
    train.add_argument("--data", type=Path, metavar="FOLDER", help="photographs and mattes; docs/training.md: layouts")
    train.add_argument(
        "--augment",
        default="flip,enhance,rotate,pepper",
        help="of a folder's photographs: some of flip, enhance, rotate, pepper, crop (default all but crop)",
    )
    train.add_argument("--config", choices=sorted(NETWORKS), default="compact", help="which network")
    train.add_argument("--size", type=int, default=384, help="working size of the last phase (default 384)")
    train.add_argument("--phases", help="SIZExBATCH:SHARE,... instead of the default three")
    budget = train.add_mutually_exclusive_group()
    budget.add_argument("--hours", type=float, help="running time (default 1.5)")
    budget.add_argument("--steps", type=int, help="number of updates, instead of a time")
    train.add_argument("--rate", type=float, help="peak learning rate (default 0.001)")
    train.add_argument("--loss", choices=sorted(PRESETS), default="general", help="weights of the loss terms")
    train.add_argument("--weights", default="", help="TERM=WEIGHT,... beside the preset's, such as structure=1")
    train.add_argument(
        "--fine-tune-from",
        type=float,
        default=1.0,
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
        default=0.0,
        metavar="WEIGHT",
        help="weight of the InverseForm loss (default 0); see its patent notice in docs/training.md",
    )
    train.add_argument("--inverse-distance", choices=sorted(DISTANCES), default="euclidean")
    train.add_argument("--seed", type=int, default=7)
    train.add_argument("--bf16", action="store_true", help="bfloat16 autocast")
    train.add_argument("--processes", type=int, default=1, help="processes that share every batch; 2 on two cores")
    train.add_argument("--threads", type=int, default=1, help="threads of each process")
    train.add_argument("--workers", type=int, default=0, help="data processes of each process; 0: makes its own")
    train.add_argument("--preview-every", type=float, default=600.0, help="seconds between preview sheets")
    train.add_argument(
        "--resume", action="store_true", help="continue the run in --out; phases, rate, budget, folder may change"
    )
    train.add_argument("--init", type=Path, help="weights file to begin from, such as an earlier run's")
    train.add_argument("--out", type=Path, required=True)
    train.set_defaults(run=_train)


def _add_evaluate(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    score = commands.add_parser("evaluate", help="the full table of figures on held-out procedural sets or a folder")
    score.add_argument("checkpoint", type=Path)
    score.add_argument("--sets", nargs="+", choices=sorted(SETS), default=["heldout", "heldout-easy", "heldout-hard"])
    score.add_argument("--data", type=Path, metavar="FOLDER", help="photographs and mattes instead of the sets")
    score.add_argument("--count", type=int, default=200, help="images of each set (default 200)")
    score.add_argument("--size", type=int, default=384)
    score.add_argument("--threads", type=int, default=2)
    score.add_argument("--workers", type=int, default=0)
    score.add_argument("--out", type=Path, help="folder for evaluation.json, .csv and .html")
    score.set_defaults(run=_evaluate)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    commands = parser.add_subparsers(dest="command_name", required=True)
    _add_train(commands)
    _add_evaluate(commands)
    add_refiner(commands)
    add_inverse_form(commands)
    add_instances(commands)
    add_data(commands)
    add_compare(commands)

    show = commands.add_parser("preview", help="contact sheet of photographs and held-out images")
    show.add_argument("checkpoint", type=Path)
    show.add_argument("--size", type=int, default=384)
    show.add_argument("--out", type=Path, default=Path("preview.png"))
    show.set_defaults(run=_preview)

    weights = commands.add_parser("weights", help="write a run's averaged weights as a plain weights file")
    weights.add_argument("checkpoint", type=Path)
    weights.add_argument("--out", type=Path, required=True)
    weights.add_argument("--command", default="", help="the training command, kept in the file")
    weights.set_defaults(run=_weights)

    curve = commands.add_parser("curve", help="picture of a run's loss and error against time")
    curve.add_argument("logs", type=Path, nargs="+", help="the run's log.csv; several, of runs that went on")
    curve.add_argument("--out", type=Path, default=Path("curve.png"))
    curve.set_defaults(run=_curve)
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command; `arguments` are those after the program's name, else the process's own."""
    options = _parser().parse_args(arguments)
    options.arguments = list(sys.argv[1:] if arguments is None else arguments)
    options.run(options)


if __name__ == "__main__":
    main()

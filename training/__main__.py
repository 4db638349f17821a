"""`python -m training …`: what is done with the training code."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from training.averaged import trained, write_weights
from training.commands import add_train
from training.comparison.commands import add_compare
from training.curve import draw
from training.data.folders import FolderError
from training.data.sets import SETS
from training.data_commands import add_data
from training.evaluate import evaluate, held_out
from training.instances.commands import add_instances
from training.losses.inverse_form.commands import add_inverse_form
from training.making import add_make
from training.preview import preview
from training.refiner.commands import add_refiner
from training.report import as_text, write


def _evaluate(options: argparse.Namespace) -> None:
    torch.set_num_threads(options.threads)
    network = trained(options.checkpoint).to(options.device)
    try:
        chosen = held_out(options.data, options.sets, options.count)
    except FolderError as error:
        raise SystemExit(str(error)) from error
    results = {
        name: evaluate(network, source, options.size, count, options.workers)
        for name, (source, count) in chosen.items()
    }
    print(as_text(results))
    if options.out:
        about = {
            "checkpoint": str(options.checkpoint),
            "size": options.size,
            "command": shlex.join(["python", "-m", "training", *options.arguments]),
        }
        write(options.out, results, about)


def _preview(options: argparse.Namespace) -> None:
    preview(trained(options.checkpoint), options.out, options.size, SETS["heldout"])


def _weights(options: argparse.Namespace) -> None:
    step = write_weights(options.checkpoint, options.out, options.command)
    print(f"{options.out}: {options.out.stat().st_size / 1e6:.1f} MB, step {step}")


def _curve(options: argparse.Namespace) -> None:
    draw(options.logs, options.out)


def _add_evaluate(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    score = commands.add_parser("evaluate", help="the full table of figures on held-out procedural sets or a folder")
    score.add_argument("checkpoint", type=Path)
    score.add_argument("--sets", nargs="+", choices=sorted(SETS), default=["heldout", "heldout-easy", "heldout-hard"])
    score.add_argument("--data", type=Path, metavar="FOLDER", help="photographs and mattes instead of the sets")
    score.add_argument("--count", type=int, default=200, help="images of each set (default 200)")
    score.add_argument("--size", type=int, default=384)
    score.add_argument("--threads", type=int, default=2)
    score.add_argument("--workers", type=int, default=0)
    score.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="of the network (default cpu)")
    score.add_argument("--out", type=Path, help="folder for evaluation.json, .csv and .html")
    score.set_defaults(run=_evaluate)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    commands = parser.add_subparsers(dest="command_name", required=True)
    add_train(commands)
    add_make(commands)
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

"""`python -m training make`: one command from nothing to an exported, verified and evaluated artifact.

Every step leaves its result in the folder, and is skipped where that result is there and was made of what the step
before has left: the same command goes on where it was stopped, and after a change does again what depends on it.
"""

import argparse
import json
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from artifact import MANIFEST_NAME, ArtifactError
from artifact.directory import file_sha256
from model_export.checkpoint import CheckpointOptions
from model_export.errors import ExportError
from model_export.onnx_export import ExportRequest, check_size, export_onnx
from model_export.verify import verify
from modeling.weights import read_metadata
from training.averaged import trained, write_weights
from training.checkpoint import read_header
from training.commands import add_execution_options, carry_out, configuration
from training.config import TrainingConfig
from training.data.folders import FolderError
from training.evaluate import evaluate, held_out
from training.options import add_training_options
from training.parallel import told_rank
from training.report import as_text, write

_SETS = ("heldout", "heldout-easy", "heldout-hard")


@dataclass(frozen=True)
class Making:
    """What is made where."""

    options: argparse.Namespace
    config: TrainingConfig
    command: str

    @property
    def folder(self) -> Path:
        return Path(self.options.out)

    @property
    def checkpoint(self) -> Path:
        return self.folder / "run" / "last.safetensors"

    @property
    def weights(self) -> Path:
        return self.folder / "weights.safetensors"

    @property
    def artifact(self) -> Path:
        return self.folder / "artifact"

    @property
    def proof(self) -> Path:
        return self.folder / "proof.json"

    @property
    def size(self) -> int:
        """The working size that the run ends with."""
        return self.config.phases[-1].size

    def is_trained(self) -> bool:
        if not self.checkpoint.exists():
            return False
        _, progress = read_header(self.checkpoint)
        return self.config.budget.share(progress.step, progress.elapsed) >= 1

    def train(self) -> None:
        carry_out(self.options, self.config, self.folder / "run")

    def has_weights(self) -> bool:
        """Whether the weights are the checkpoint's: they name its hash."""
        return self.weights.exists() and read_metadata(self.weights).get("checkpoint") == file_sha256(self.checkpoint)

    def write_weights(self) -> None:
        write_weights(self.checkpoint, self.weights, self.command)

    def _manifest(self) -> dict[str, Any]:
        path = self.artifact / MANIFEST_NAME
        return json.loads(path.read_text("utf-8")) if path.exists() else {}

    def is_exported(self) -> bool:
        manifest = self._manifest()
        height, width = self._exported_size()
        return (
            manifest.get("origin", {}).get("sha256") == file_sha256(self.weights)
            and manifest.get("input_size") == [height, width]
            and self.options.name in {None, manifest.get("name")}
            and self.options.licence in {None, manifest.get("licence")}
        )

    def _exported_size(self) -> tuple[int, int]:
        chosen: tuple[int, int] | None = self.options.export_size
        return chosen or (self.size, self.size)

    def export(self) -> None:
        request = ExportRequest(
            source=str(self.weights),
            directory=self.artifact,
            checkpoint=CheckpointOptions(licence=self.options.licence, size=self._exported_size()),
            name=self.options.name or self.folder.absolute().name,
            origin=f"trained by `{self.command}`",
        )
        export_onnx(request, print)

    def is_verified(self) -> bool:
        """Whether the proof is of the artifact's very files."""
        if not self.proof.exists():
            return False
        found = json.loads(self.proof.read_text("utf-8"))
        return found["passed"] and found["files"] == self._manifest()["files"]

    def verify(self) -> None:
        proofs = verify(self.artifact, str(self.weights), print)
        passed = all(proof.passed for proof in proofs.values())
        tables = {role: proof.table() for role, proof in proofs.items()}
        print("\n".join(f"{role}\n{table}" for role, table in tables.items()))
        about = {"passed": passed, "files": self._manifest()["files"], "tables": tables}
        self.proof.write_text(json.dumps(about, indent=2) + "\n", "utf-8")
        if not passed:
            raise SystemExit(f"{self.artifact}: not what the network computes; the figures are in {self.proof}")

    def _about(self) -> dict[str, object]:
        validation = self.options.validation or self.options.data
        return {
            "weights": file_sha256(self.weights),
            "size": self.size,
            "count": self.options.count,
            "data": str(validation or ", ".join(_SETS)),
        }

    def is_evaluated(self) -> bool:
        path = self.folder / "report" / "evaluation.json"
        if not path.exists():
            return False
        found = json.loads(path.read_text("utf-8"))
        return all(found.get(name) == value for name, value in self._about().items())

    def evaluate(self) -> None:
        validation = self.options.validation
        if validation is None and self.options.data is not None:
            validation = self.options.data
            print("without --validation the figures are those of the images that were learned")
        network = trained(self.weights)
        results = {
            name: evaluate(network, source, self.size, count, self.options.workers)
            for name, (source, count) in held_out(validation, _SETS, self.options.count).items()
        }
        print(as_text(results))
        write(self.folder / "report", results, {**self._about(), "command": self.command})


def _make(options: argparse.Namespace) -> None:
    if told_rank() is not None:
        raise SystemExit("make starts its own processes: expected --processes, found torchrun")
    torch.set_num_threads(options.threads)
    config = configuration(options, options.out / "run")
    making = Making(options, config, shlex.join(["python", "-m", "training", *options.arguments]))
    if options.export_size is not None:
        _checked(check_size, options.export_size)
    if options.validation is not None:
        _checked(held_out, options.validation, (), 1)
    steps: tuple[tuple[str, Callable[[], bool], Callable[[], None]], ...] = (
        ("train", making.is_trained, making.train),
        ("weights", making.has_weights, making.write_weights),
        ("export", making.is_exported, making.export),
        ("verify", making.is_verified, making.verify),
        ("evaluate", making.is_evaluated, making.evaluate),
    )
    for name, is_done, do in steps:
        if is_done():
            print(f"{name}: done before", flush=True)
        else:
            print(f"{name}: begins", flush=True)
            _checked(do)
    print(f"{making.artifact}: verified; report in {making.folder / 'report'}")


def _checked(do: Callable[..., object], *arguments: object) -> None:
    try:
        do(*arguments)
    except (ExportError, ArtifactError, FolderError) as error:
        raise SystemExit(str(error)) from error


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"expected HEIGHTxWIDTH such as 1024x1024, found {text!r}")
    return int(match[1]), int(match[2])


def add_make(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `make`."""
    make = commands.add_parser(
        "make", help="train, export, verify and evaluate, in one go; goes on where it was stopped"
    )
    add_training_options(make)
    add_execution_options(make)
    make.add_argument("--out", type=Path, required=True, metavar="DIR", help="for run, weights, artifact and report")
    make.add_argument("--export-size", type=_size, metavar="HxW", help="of the artifact (the last phase's)")
    make.add_argument("--name", help="of the model (the folder's)")
    make.add_argument("--licence", help="of the weights; it travels in the manifest")
    make.add_argument("--validation", type=Path, metavar="FOLDER", help="to evaluate on (the held-out sets, or --data)")
    make.add_argument("--count", type=int, default=200, help="images of each set to evaluate on (default 200)")
    make.set_defaults(run=_make)

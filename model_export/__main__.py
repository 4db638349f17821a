"""`birefnet-export` and `python -m model_export`: the command line of the torch side.

torch is imported by the commands that need it, not by this module.
"""

import argparse
import re
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from artifact import ArtifactError, ManifestError, Profile
from model_export.errors import ExportError, ParityError

OUT_OF_TOLERANCE, FAILED, INTERRUPTED = 1, 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        0 when it succeeded, 1 when an artifact is out of tolerance, 2 when the command could not be carried out.
    """
    arguments = _parser().parse_args(argv)
    # Otherwise it would end at once, and leave gigabytes behind in the temporary folder.
    ended = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        code: int = arguments.run(arguments)
    except (ExportError, ArtifactError, ManifestError, OSError) as error:
        print(f"birefnet-export: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("birefnet-export: interrupted; nothing was written", file=sys.stderr)
        return INTERRUPTED
    finally:
        signal.signal(signal.SIGTERM, ended)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="birefnet-export", description="Trained BiRefNet networks become artifacts.")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    onnx = commands.add_parser("onnx", help="export a checkpoint to an artifact directory", description=_onnx.__doc__)
    onnx.add_argument(
        "source",
        metavar="SOURCE",
        help="a .safetensors or .pth file, a directory that holds one, or a Hugging Face id, OWNER/NAME[@REVISION]",
    )
    onnx.add_argument("-o", "--output", type=_folder, required=True, metavar="DIR", help="the artifact directory")
    onnx.add_argument(
        "--size", type=_size, metavar="HxW", help="working size, multiples of 32 (the checkpoint's own, else 1024x1024)"
    )
    onnx.add_argument("--name", help="name of the model (the name of the source)")
    onnx.add_argument("--licence", help="licence of the weights, which travels in the manifest (the registry's)")
    onnx.add_argument(
        "--patch-order",
        choices=("current", "legacy"),
        help="order of the image patches that the weights were trained for (what registry and weights agree on)",
    )
    onnx.add_argument(
        "--precision",
        action="append",
        default=[],
        choices=("fp32", "fp16", "fp16-tensorrt"),
        help="a graph beside the fp32 one, which is always made; repeatable. fp16 is for ONNX Runtime on a GPU",
    )
    onnx.add_argument(
        "--io",
        choices=("image", "tensor"),
        default="image",
        help="image: bytes in, alpha out, what the server runs (the default). tensor: normalised floats in, logits "
        "out, what other programs expect",
    )
    onnx.add_argument("--with-weights", action="store_true", help="also keep the weights, for the torch backend")
    onnx.add_argument("--origin", help="a sentence on where the weights come from")
    onnx.add_argument(
        "--max-batch", type=int, default=16, metavar="N", help="largest batch that a server should form (16)"
    )
    onnx.set_defaults(run=_onnx)
    _add_adopt(commands)
    _add_refiner(commands)
    _add_tensorrt(commands)
    verify = commands.add_parser("verify", help="prove an artifact against its network", description=_verify.__doc__)
    verify.add_argument("directory", type=Path, metavar="DIR", help="the artifact directory")
    verify.add_argument(
        "--source",
        metavar="SOURCE",
        help="the checkpoint or ONNX file that it was made from (the recorded one, if still there)",
    )
    verify.set_defaults(run=_verify)
    return parser


def _add_adopt(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    adopt = commands.add_parser(
        "adopt", help="make an artifact of an ONNX file that is there already", description=_adopt.__doc__
    )
    adopt.add_argument("source", type=Path, metavar="FILE.onnx", help="normalised floats in, logits or alpha out")
    adopt.add_argument("-o", "--output", type=_folder, required=True, metavar="DIR", help="the artifact directory")
    adopt.add_argument("--size", type=_size, metavar="HxW", help="for a graph that leaves height and width free")
    adopt.add_argument(
        "--gives", choices=("logits", "alpha"), help="what the last output is (found out on sample images)"
    )
    adopt.add_argument("--name", help="name of the model (the file's)")
    adopt.add_argument("--licence", default="unspecified", help="licence of the weights; it travels in the manifest")
    adopt.add_argument("--origin", help="a sentence on where the file comes from")
    adopt.add_argument(
        "--max-batch", type=int, default=16, metavar="N", help="largest batch, where the graph leaves it free (16)"
    )
    adopt.set_defaults(run=_adopt)


def _add_refiner(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    refiner = commands.add_parser(
        "refiner", help="export a refiner to an artifact directory", description=_refiner.__doc__
    )
    refiner.add_argument(
        "source", type=Path, metavar="SOURCE", help="a .safetensors file of `python -m training refiner weights`"
    )
    refiner.add_argument("-o", "--output", type=_folder, required=True, metavar="DIR", help="the artifact directory")
    refiner.add_argument(
        "--tile", type=int, default=256, metavar="T", help="side of the tiles, a multiple of 8, halo included (256)"
    )
    refiner.add_argument("--name", help="name of the model (the file's)")
    refiner.add_argument("--licence", default="unspecified", help="licence of the weights; it travels in the manifest")
    refiner.add_argument("--origin", help="a sentence on where the weights come from")
    refiner.add_argument(
        "--max-batch", type=int, default=16, metavar="N", help="largest batch that a server should form (16)"
    )
    refiner.add_argument("--with-weights", action="store_true", help="also keep the weights, for the torch backend")
    refiner.set_defaults(run=_refiner)


def _add_tensorrt(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    tensorrt = commands.add_parser(
        "tensorrt", help="add a TensorRT plan for this machine's GPU to an artifact", description=_tensorrt.__doc__
    )
    tensorrt.add_argument("directory", type=Path, metavar="DIR", help="the artifact directory, with model.trt.onnx")
    tensorrt.add_argument(
        "--batch",
        type=_batches,
        metavar="MIN,OPT,MAX",
        help="batch sizes: smallest, the one that kernels are chosen for, largest (1, 8 and the manifest's largest)",
    )
    tensorrt.add_argument("--device", type=int, default=0, metavar="N", help="index of the GPU (0)")
    tensorrt.add_argument(
        "--workspace-mib", type=int, metavar="N", help="device memory that a kernel may use beside its tensors (all)"
    )
    tensorrt.add_argument(
        "--level", type=int, choices=range(6), help="how long kernels are searched for (TensorRT's own, 3)"
    )
    tensorrt.add_argument(
        "--timing-cache",
        type=Path,
        metavar="FILE",
        help="what TensorRT measured in earlier builds, to be used and added to (a file in DIR)",
    )
    tensorrt.set_defaults(run=_tensorrt)


def _onnx(arguments: argparse.Namespace) -> int:
    """Export a checkpoint: ONNX graphs that are proven equal to the network, a self-test, and a manifest."""
    from model_export.checkpoint import CheckpointOptions
    from model_export.onnx_export import ExportRequest, export_onnx

    artifact = export_onnx(
        ExportRequest(
            source=arguments.source,
            directory=arguments.output,
            checkpoint=CheckpointOptions(arguments.patch_order, arguments.licence, arguments.size),
            name=arguments.name,
            origin=arguments.origin,
            max_batch=arguments.max_batch,
            precisions=tuple(arguments.precision),
            io=arguments.io,
            with_weights=arguments.with_weights,
        ),
        _Reporter(),
    )
    print(f"{artifact.directory}: `{artifact.manifest.name}`, licence {artifact.manifest.licence}")
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    """Run network and artifact on the same inputs, write the figures into the manifest, fail when out of tolerance."""
    from model_export.verify import verify

    proofs = verify(arguments.directory, arguments.source, _Reporter())
    print("\n\n".join(f"{role}\n{proof.table()}" for role, proof in proofs.items()))
    return 0 if all(proof.passed for proof in proofs.values()) else OUT_OF_TOLERANCE


def _adopt(arguments: argparse.Namespace) -> int:
    """Make an artifact of a BiRefNet ONNX file: layout, normalisation and sigmoid are added, and nothing else."""
    from model_export.adopt import AdoptRequest, adopt

    artifact = adopt(
        AdoptRequest(
            source=arguments.source,
            directory=arguments.output,
            size=arguments.size,
            gives=arguments.gives,
            name=arguments.name,
            licence=arguments.licence,
            origin=arguments.origin,
            max_batch=arguments.max_batch,
        ),
        _Reporter(),
    )
    print(f"{artifact.directory}: `{artifact.manifest.name}`, licence {artifact.manifest.licence}")
    return 0


def _refiner(arguments: argparse.Namespace) -> int:
    """Export a refiner: an ONNX graph over tiles that is proven equal to the network, a self-test, and a manifest."""
    from model_export.refiner.export import RefinerRequest, export_refiner

    artifact = export_refiner(
        RefinerRequest(
            source=arguments.source,
            directory=arguments.output,
            tile=arguments.tile,
            name=arguments.name,
            licence=arguments.licence,
            origin=arguments.origin,
            max_batch=arguments.max_batch,
            with_weights=arguments.with_weights,
        ),
        _Reporter(),
    )
    manifest = artifact.manifest
    print(f"{artifact.directory}: `{manifest.name}`, halo {manifest.halo}, licence {manifest.licence}")
    return 0


def _tensorrt(arguments: argparse.Namespace) -> int:
    """Build a TensorRT plan on the GPU that will run it, hold it against the fp32 graph, and keep it if it is near."""
    from model_export.tensorrt_build import PlanRequest, build_tensorrt

    request = PlanRequest(
        directory=arguments.directory,
        profile=arguments.batch,
        device=arguments.device,
        workspace_mib=arguments.workspace_mib,
        level=arguments.level,
        timing_cache=arguments.timing_cache,
    )
    try:
        plan, proof = build_tensorrt(request, _Reporter())
    except ParityError as error:
        print(f"birefnet-export: {error}", file=sys.stderr)
        return OUT_OF_TOLERANCE
    print(f"{plan}\n{proof.table()}")
    return 0


class _Reporter:
    """Lines on stderr with the seconds since the start: exports are long, and stdout is for the result."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    def __call__(self, message: str) -> None:
        print(f"[{time.monotonic() - self._start:7.1f} s] {message}", file=sys.stderr, flush=True)


def _folder(text: str) -> Path:
    if not text:
        raise argparse.ArgumentTypeError("expected a folder, found an empty name")
    return Path(text)


def _batches(text: str) -> Profile:
    match = re.fullmatch(r"(\d+),(\d+),(\d+)", text)
    try:
        return Profile(*map(int, match.groups() if match else ()))
    except (TypeError, ValueError):
        raise argparse.ArgumentTypeError(
            f"expected MIN,OPT,MAX in ascending order, such as 1,8,16, found {text!r}"
        ) from None


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"expected HEIGHTxWIDTH such as 1024x1024, found {text!r}")
    return int(match[1]), int(match[2])


if __name__ == "__main__":
    sys.exit(main())

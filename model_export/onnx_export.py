"""A checkpoint becomes an artifact directory: fold, trace, prove, publish."""

import importlib.metadata
import resource
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from artifact import (
    SELF_TEST_ROLE,
    Artifact,
    Deviation,
    Io,
    Manifest,
    NewFile,
    SelfTest,
    check_target,
    write_artifact,
)
from model_export.checkpoint import Checkpoint, CheckpointOptions, resolve_checkpoint
from model_export.errors import ExportError, ParityError
from model_export.graph import OPSET, signature, write_graph
from model_export.parity import BATCH, Reference, Report
from model_export.precision import Precision, chosen
from model_export.proof import (
    SELF_TEST_TOLERANCE,
    Candidate,
    Proof,
    make_self_test,
    proof_size,
    prove,
    run_self_test,
    with_rounding,
    write_self_test,
)
from model_export.runner import OnnxRunner
from model_export.traceable import traceable
from modeling.birefnet.config import backbone_name
from modeling.birefnet.network import SIZE_MULTIPLE, BiRefNet
from modeling.weights import save_state

SELF_TEST_FILE = "self_test.npz"
WEIGHTS_ROLE, WEIGHTS_FILE = "weights", "weights.safetensors"


@dataclass(frozen=True, slots=True)
class ExportRequest:
    """What to export, and what its manifest shall say.

    Attributes:
        source: A checkpoint file, a directory that holds one, or a Hugging Face id.
        directory: Where the artifact goes; an artifact that is there already is replaced.
        checkpoint: What the user says of the checkpoint: patch order, licence, working size.
        name: Of the model; None takes the source's.
        origin: A sentence on where the weights come from.
        max_batch: Largest batch that a server should form.
        precisions: Names of further graphs beside the canonical one (`model_export.precision`).
        io: What the graphs take and give.
        with_weights: Whether the artifact also holds the weights, for the torch backend.
    """

    source: str
    directory: Path
    checkpoint: CheckpointOptions = field(default_factory=CheckpointOptions)
    name: str | None = None
    origin: str | None = None
    max_batch: int = 16
    precisions: tuple[str, ...] = ()
    io: Io = "image"
    with_weights: bool = False


def export_onnx(request: ExportRequest, report: Report) -> Artifact:
    """Export, prove and publish; nothing is published that does not compute what the network computes.

    Raises:
        ExportError: The request cannot be carried out, or a graph is not equal to the network.
        artifact.ArtifactError: The directory holds files that are not an artifact's.
    """
    started = time.monotonic()
    if request.checkpoint.size is not None:
        check_size(request.checkpoint.size)
    precisions = chosen(request.precisions)
    weights = [WEIGHTS_FILE] if request.with_weights else []
    check_target(request.directory, (*(each.file for each in precisions), SELF_TEST_FILE, *weights))
    checkpoint = resolve_checkpoint(request.source, request.checkpoint, report)
    manifest = _manifest(request, checkpoint)
    with tempfile.TemporaryDirectory(prefix="birefnet-export-") as folder:
        scratch = Path(folder)
        tracer = _Tracer(checkpoint.network, manifest, report)
        files = {
            each.role: NewFile(tracer.trace(each, checkpoint.size, scratch / each.file), each.file, each.dtype)
            for each in precisions
        }
        self_test, deviations = _self_tested(checkpoint, request.io, precisions, scratch, report)
        manifest = replace(manifest, self_test=self_test.tolerance)
        write_self_test(self_test, scratch / SELF_TEST_FILE)
        files[SELF_TEST_ROLE] = NewFile(scratch / SELF_TEST_FILE, SELF_TEST_FILE)
        proofs = _proven(tracer, checkpoint, deviations, scratch)
        if request.with_weights:
            save_state(checkpoint.network, scratch / WEIGHTS_FILE)
            files[WEIGHTS_ROLE] = NewFile(scratch / WEIGHTS_FILE, WEIGHTS_FILE, "fp32")
        report(f"writing {request.directory}")
        figures = {role: proof.to_mapping(versions()) for role, proof in proofs.items()}
        artifact = write_artifact(request.directory, replace(manifest, parity=figures), files)
    report(f"done after {time.monotonic() - started:.0f} s; peak memory {peak_gib():.1f} GiB")
    return artifact


def _self_tested(
    checkpoint: Checkpoint, io: Io, precisions: Sequence[Precision], scratch: Path, report: Report
) -> tuple[SelfTest, Mapping[Precision, Deviation]]:
    """The self-test, and how far every graph is from it."""
    report("running the network in float64 for the self-test")
    self_test = make_self_test(checkpoint.network, io, checkpoint.size)
    found = {each: run_self_test(self_test, OnnxRunner(scratch / each.file, io), each.dtype) for each in precisions}
    if any(each.dtype == "fp16" and not deviation.passed for each, deviation in found.items()):
        report("a graph in fp16 is far from it: measuring what the network itself loses in fp16")
        self_test = with_rounding(self_test, checkpoint.network, io, checkpoint.size)
    tolerance = self_test.tolerance
    return self_test, {each: replace(deviation, tolerance=tolerance[each.dtype]) for each, deviation in found.items()}


def _proven(
    tracer: "_Tracer", checkpoint: Checkpoint, deviations: Mapping[Precision, Deviation], scratch: Path
) -> Mapping[str, Proof]:
    """The proof of every graph, by role; all passed.

    Raises:
        ParityError: One did not.
    """
    size = proof_size(checkpoint.size)
    reference = Reference(checkpoint.network, size)
    proofs = {}
    for each, deviation in deviations.items():
        graph = scratch / each.file
        if size != checkpoint.size:
            graph = tracer.trace(each, size, scratch / f"proof-{each.file}")
        batch = min(BATCH, tracer.manifest.max_batch)
        candidate = Candidate(OnnxRunner(graph, tracer.manifest.io), size, batch, each.dtype, each.tolerance)
        proofs[each.role] = prove(candidate, reference, deviation, tracer.report)
        tracer.report(f"{each.name}\n{proofs[each.role].table()}")
    wrong = [role for role, proof in proofs.items() if not proof.passed]
    if wrong:
        raise ParityError(f"{', '.join(wrong)}: not what the network computes; nothing was written")
    return proofs


def versions() -> dict[str, str]:
    """Of everything whose version the figures depend on."""
    return {name: importlib.metadata.version(name) for name in ("birefnet-server", "torch", "onnx", "onnxruntime")}


def peak_gib() -> float:
    """The most memory this process has held, in GiB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


@dataclass(frozen=True, slots=True)
class _Tracer:
    """Writes the graphs of one network."""

    network: BiRefNet
    manifest: Manifest
    report: Report

    def trace(self, precision: Precision, size: tuple[int, int], path: Path) -> Path:
        name = f"{self.manifest.backbone} in {precision.name} at {size[0]}x{size[1]}"
        self.report(f"tracing {name} (Swin-L takes minutes)")
        module = traceable(self.network, precision, self.manifest.io)
        write_graph(module, size, path, _metadata(self.manifest))
        return path


def check_size(size: tuple[int, int]) -> None:
    """Refuse a working size that the network cannot take, with an ExportError."""
    if any(side < SIZE_MULTIPLE or side % SIZE_MULTIPLE for side in size):
        raise ExportError(f"expected a size of multiples of {SIZE_MULTIPLE}, found {size[0]}x{size[1]}")


def _manifest(request: ExportRequest, checkpoint: Checkpoint) -> Manifest:
    statement = {} if request.origin is None else {"statement": request.origin}
    taken, given = signature(request.io, checkpoint.size)
    manifest = Manifest(
        name=checkpoint.name if request.name is None else request.name,
        kind="matte",
        io=request.io,
        inputs=(taken,),
        outputs=(given,),
        input_size=checkpoint.size,
        max_batch=request.max_batch,
        backbone=backbone_name(checkpoint.network.config),
        patch_order=checkpoint.patch_order,
        licence=checkpoint.licence,
        origin={**statement, **checkpoint.origin, "exported_with": versions()},
        self_test=SELF_TEST_TOLERANCE[request.io],
    )
    return Manifest.parse(manifest.to_mapping())  # refuses a bad name before minutes are spent


def _metadata(manifest: Manifest) -> dict[str, str]:
    return {
        "name": manifest.name,
        "backbone": manifest.backbone,
        "licence": manifest.licence,
        "checkpoint_sha256": str(manifest.origin["sha256"]),
        "tensor_sha256": str(manifest.origin["tensor_sha256"]),
        "opset": str(OPSET),
        "exported_by": f"birefnet-server {importlib.metadata.version('birefnet-server')}, torch {torch.__version__}",
    }

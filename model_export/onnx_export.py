"""A checkpoint becomes an artifact directory: fold, trace, prove, publish."""

import importlib.metadata
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from artifact import SELF_TEST_ROLE, Artifact, Deviation, Manifest, NewFile, Tolerance, check_target, write_artifact
from model_export.checkpoint import Checkpoint, CheckpointOptions, resolve_checkpoint
from model_export.errors import ExportError, ParityError
from model_export.graph import OPSET, matte_inputs, matte_outputs, write_graph
from model_export.parity import BATCH, MAX_ABS_FP32, ParityReport, Report, batch_deviation, compare
from model_export.runner import NetworkRunner, OnnxRunner
from model_export.sample_inputs import subject
from model_export.traceable import traceable
from modeling.birefnet.config import backbone_name
from modeling.birefnet.network import SIZE_MULTIPLE, BiRefNet

MODEL_ROLE = "model"
MODEL_FILE, SELF_TEST_FILE = "model.onnx", "self_test.npz"

SELF_TEST_TOLERANCE = {"fp32": Tolerance(1e-3, 1e-4), "fp16": Tolerance(5e-3, 5e-4)}
"""Wider than the parity's: other processors and kernels round differently, and a wrong plan is off by tenths."""

PROVEN_PIXELS = 512 * 512
"""Up to this working size the whole proof is cheap enough to belong to every export."""

SELF_TEST_LEVELS = 1 << 15
"""Expected alpha is stored in steps of 3e-5: it compresses, and the tolerance is thirty times that."""


@dataclass(frozen=True, slots=True)
class ExportRequest:
    """What to export, and what its manifest shall say.

    Attributes:
        source: A checkpoint file, or a directory that holds one.
        directory: Where the artifact goes; an artifact that is there already is replaced.
        checkpoint: What the user says of the checkpoint: patch order, licence, working size.
        name: Of the model; None takes the source's.
        origin: A sentence on where the weights come from.
        max_batch: Largest batch that a server should form.
    """

    source: str
    directory: Path
    checkpoint: CheckpointOptions = field(default_factory=CheckpointOptions)
    name: str | None = None
    origin: str | None = None
    max_batch: int = 16


def export_onnx(request: ExportRequest, report: Report) -> Artifact:
    """Export, prove and publish; nothing is published that does not compute what the network computes.

    Raises:
        ExportError: The request cannot be carried out, or the graph is not equal to the network.
        artifact.ArtifactError: The directory holds files that are not an artifact's.
    """
    if request.checkpoint.size is not None:
        _check_size(request.checkpoint.size)
    check_target(request.directory, (MODEL_FILE, SELF_TEST_FILE))
    checkpoint = resolve_checkpoint(request.source, request.checkpoint, report)
    network, size = checkpoint.network, checkpoint.size
    manifest = _manifest(request, checkpoint)
    with tempfile.TemporaryDirectory(prefix="birefnet-export-") as scratch:
        graph, self_test = Path(scratch) / MODEL_FILE, Path(scratch) / SELF_TEST_FILE
        report(f"tracing {manifest.backbone} at {size[0]}x{size[1]} (Swin-L takes minutes)")
        write_graph(traceable(network), size, graph, _metadata(manifest))
        report("running the network in float64 for the self-test")
        runner = OnnxRunner(graph)
        deviation = _write_self_test(self_test, network, runner, size)
        manifest = _with_proof(manifest, network, runner, deviation, report)
        report(f"writing {request.directory}")
        return write_artifact(
            request.directory,
            manifest,
            {
                MODEL_ROLE: NewFile(graph, MODEL_FILE, "fp32"),
                SELF_TEST_ROLE: NewFile(self_test, SELF_TEST_FILE),
            },
        )


def versions() -> dict[str, str]:
    """Of everything whose version the figures depend on."""
    return {name: importlib.metadata.version(name) for name in ("birefnet-server", "torch", "onnx", "onnxruntime")}


def _check_size(size: tuple[int, int]) -> None:
    if any(side < SIZE_MULTIPLE or side % SIZE_MULTIPLE for side in size):
        raise ExportError(f"expected a size of multiples of {SIZE_MULTIPLE}, found {size[0]}x{size[1]}")


def _manifest(request: ExportRequest, checkpoint: Checkpoint) -> Manifest:
    statement = {} if request.origin is None else {"statement": request.origin}
    manifest = Manifest(
        name=checkpoint.name if request.name is None else request.name,
        kind="matte",
        inputs=matte_inputs(checkpoint.size),
        outputs=matte_outputs(checkpoint.size),
        input_size=checkpoint.size,
        max_batch=request.max_batch,
        backbone=backbone_name(checkpoint.network.config),
        patch_order=checkpoint.patch_order,
        licence=checkpoint.licence,
        origin={**statement, **checkpoint.origin, "exported_with": versions()},
        self_test=SELF_TEST_TOLERANCE,
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


def _write_self_test(path: Path, network: BiRefNet, runner: OnnxRunner, size: tuple[int, int]) -> Deviation:
    image = subject(*size)[None]
    truth = NetworkRunner(network, torch.float64)(image)
    alpha = np.rint(truth * SELF_TEST_LEVELS).astype(np.float32) / np.float32(SELF_TEST_LEVELS)
    np.savez_compressed(path, image=image, alpha=alpha)
    difference = np.abs(runner(image) - alpha)
    return Deviation(float(difference.max()), float(difference.mean()), SELF_TEST_TOLERANCE["fp32"])


def _with_proof(
    manifest: Manifest, network: BiRefNet, runner: OnnxRunner, self_test: Deviation, report: Report
) -> Manifest:
    """The manifest with the figures, after the whole proof at small sizes and the self-test alone at large ones."""
    size = manifest.input_size
    if size[0] * size[1] > PROVEN_PIXELS:
        if not self_test.passed:
            raise ParityError(f"the graph does not pass its own self-test: {self_test}")
        report("the whole proof at this size takes minutes: birefnet-export verify runs it")
        return manifest
    inputs = compare(runner, network, size, report)
    batch = min(BATCH, manifest.max_batch)
    batch_max_abs, deterministic = batch_deviation(runner, size, batch)
    proof = ParityReport(self_test, inputs, batch, batch_max_abs, deterministic, MAX_ABS_FP32)
    report(proof.table())
    if not proof.passed:
        raise ParityError("the graph does not compute what the network computes; nothing was written")
    return replace(manifest, parity={MODEL_ROLE: proof.to_mapping(versions())})

"""Proves an artifact that exists: against its network where that is at hand, and against itself in any case."""

import hashlib
from dataclasses import replace
from pathlib import Path

from artifact import Artifact, load_self_test, open_artifact, rewrite_manifest
from model_export.checkpoint import load_reference
from model_export.onnx_export import MODEL_ROLE, versions
from model_export.parity import BATCH, MAX_ABS_FP32, InputParity, ParityReport, Report, batch_deviation, compare
from model_export.runner import OnnxRunner


def verify(directory: Path, source: str | None, report: Report) -> ParityReport:
    """Measure an artifact and write the figures into its manifest, good or bad.

    Args:
        directory: The artifact's.
        source: The checkpoint it was made from; None takes the recorded one if it is still there, unchanged.
        report: Told what is being done.

    Raises:
        ExportError: `source` is no checkpoint or does not fit, or the graph cannot be loaded.
        artifact.ArtifactError: The directory is no artifact, or a damaged one.
    """
    artifact = open_artifact(directory)
    manifest = artifact.manifest
    runner = OnnxRunner(artifact.file(MODEL_ROLE))
    report("running the self-test")
    self_test = load_self_test(artifact)
    image = self_test.inputs["image"]
    deviation = self_test.compare({"alpha": runner(image)})  # type: ignore[arg-type]
    checkpoint = source if source is not None else _recorded_source(artifact, report)
    inputs: tuple[InputParity, ...] = ()
    if checkpoint is not None:
        network = load_reference(checkpoint, manifest.patch_order, report)
        inputs = compare(runner, network, manifest.input_size, report)
    report("comparing a batch with its images one by one")
    batch = _batch(artifact)
    batch_max_abs, deterministic = batch_deviation(runner, manifest.input_size, batch)
    proof = ParityReport(deviation, inputs, batch, batch_max_abs, deterministic, MAX_ABS_FP32)
    figures = {**manifest.parity, MODEL_ROLE: proof.to_mapping(versions())}
    rewrite_manifest(artifact, replace(manifest, parity=figures))
    return proof


def _batch(artifact: Artifact) -> int:
    fixed = artifact.manifest.inputs[0].shape[0]
    return fixed if isinstance(fixed, int) else min(BATCH, artifact.manifest.max_batch)


def _recorded_source(artifact: Artifact, report: Report) -> str | None:
    recorded, wanted = artifact.manifest.origin.get("source"), artifact.manifest.origin.get("sha256")
    if not isinstance(recorded, str) or not Path(recorded).is_file():
        report("the checkpoint that was exported is not at hand")
        return None
    with Path(recorded).open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != wanted:
        report(f"{recorded} is not the checkpoint that was exported: expected SHA-256 {wanted}, found {found}")
        return None
    return recorded

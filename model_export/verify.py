"""Proves an artifact: against what it was made from where that is at hand, and against itself in any case."""

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from artifact import Artifact, SelfTest, check_refiner, load_self_test, open_artifact, rewrite_manifest
from model_export.adopt import ADOPTED, source_graph
from model_export.checkpoint import load_reference
from model_export.onnx_export import versions
from model_export.parity import BATCH, REFERENCES, GraphReference, Reference, Report
from model_export.precision import CANONICAL, PRECISIONS, tolerance_of
from model_export.proof import Candidate, Proof, prove, run_self_test
from model_export.refiner.export import prove_refiner, read_refiner
from model_export.refiner.runner import RefinerOnnxRunner
from model_export.runner import OnnxRunner


def verify(directory: Path, source: str | None, report: Report) -> Mapping[str, Proof]:
    """Measure every graph of an artifact and write the figures into its manifest, good or bad.

    Args:
        directory: The artifact's.
        source: What it was made from: a checkpoint, or the ONNX file that was adopted. None takes the recorded one if
            it is still there, unchanged.
        report: Told what is being done.

    Returns:
        By role.

    Raises:
        ExportError: `source` is no checkpoint or does not fit, or a graph cannot be loaded.
        artifact.ArtifactError: The directory is no artifact, or a damaged one.
    """
    artifact = open_artifact(directory)
    manifest = artifact.manifest
    self_test = load_self_test(artifact)
    if manifest.kind == "refine":
        return _verify_refiner(artifact, self_test, source, report)
    graphs = {each: artifact.file(each.role) for each in PRECISIONS if each.role in manifest.files}
    runners = {each: OnnxRunner(path, manifest.io) for each, path in graphs.items()}
    # The file's own: an adopted graph in the canonical role may be fp16.
    dtypes = {each: manifest.files[each.role].precision or each.dtype for each in graphs}
    report("running the self-test")
    deviations = {each: run_self_test(self_test, runner, dtypes[each]) for each, runner in runners.items()}
    source = source if source is not None else _recorded_source(artifact, report)
    reference = None if source is None else _reference(artifact, source, report)
    proofs = {}
    for each, runner in runners.items():
        report(f"proving {each.name}")
        dtype = dtypes[each]
        candidate = Candidate(runner, manifest.input_size, _batch(artifact), dtype, tolerance_of(dtype))
        proofs[each.role] = prove(candidate, reference, deviations[each], report)
    _record(artifact, proofs)
    return proofs


def _verify_refiner(artifact: Artifact, self_test: SelfTest, source: str | None, report: Report) -> Mapping[str, Proof]:
    check_refiner(artifact)
    runner = RefinerOnnxRunner(artifact.file(CANONICAL.role))
    source = source if source is not None else _recorded_source(artifact, report)
    network = None if source is None else read_refiner(Path(source))
    proofs = {CANONICAL.role: prove_refiner(runner, artifact.manifest, network, self_test, report)}
    _record(artifact, proofs)
    return proofs


def _record(artifact: Artifact, proofs: Mapping[str, Proof]) -> None:
    manifest = artifact.manifest
    figures = {role: _kept(manifest.parity.get(role), proof) for role, proof in proofs.items()}
    rewrite_manifest(artifact, replace(manifest, parity={**manifest.parity, **figures}))


def _reference(artifact: Artifact, source: str, report: Report) -> Reference | GraphReference:
    manifest = artifact.manifest
    if ADOPTED in manifest.origin:
        return GraphReference(source_graph(Path(source), manifest), manifest.input_size)
    return Reference(load_reference(source, manifest.patch_order or "current", report), manifest.input_size)


def _kept(earlier: Any, proof: Proof) -> dict[str, Any]:  # noqa: ANN401  whatever the manifest has there
    """The figures of a proof, and where it had no reference those of an earlier one of the same files."""
    found = proof.to_mapping(versions())
    if proof.report.inputs or not isinstance(earlier, dict):
        return found
    references = {name: earlier[name] for name in REFERENCES if earlier.get(name) is not None}
    return {**found, **references, "passed": found["passed"] and earlier.get("passed", True)}


def _batch(artifact: Artifact) -> int:
    fixed = artifact.manifest.inputs[0].shape[0]
    return fixed if isinstance(fixed, int) else min(BATCH, artifact.manifest.max_batch)


def _recorded_source(artifact: Artifact, report: Report) -> str | None:
    recorded, wanted = artifact.manifest.origin.get("source"), artifact.manifest.origin.get("sha256")
    if not isinstance(recorded, str) or not Path(recorded).is_file():
        report("what was exported is not at hand")
        return None
    with Path(recorded).open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != wanted:
        report(f"{recorded} is not what was exported: expected SHA-256 {wanted}, found {found}")
        return None
    return recorded

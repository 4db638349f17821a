"""`birefnet-export tensorrt`: an artifact gets a plan for the GPU of this machine, held against its canonical graph.

Torch-free: it runs where plans are served.
"""

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnxruntime

from artifact import (
    Artifact,
    NewFile,
    PlanKey,
    Profile,
    check_refiner,
    check_target,
    load_self_test,
    open_artifact,
    plan_source,
    write_artifact,
)
from model_export.errors import ExportError, ParityError
from model_export.sessions import open_session
from model_export.tensorrt_builder import BuildOptions, Report, TimingCache, build_plan
from model_export.tensorrt_proof import Arrays, PlanCandidate, PlanProof, Run, prove_plan
from plans import PlanError, PlanRunner, Platform, open_platform

_USUAL_BATCH = 8


@dataclass(frozen=True, slots=True)
class PlanRequest:
    """What to build.

    Attributes:
        directory: The artifact's.
        profile: Batch sizes; None is 1, 8 and the manifest's largest.
        device: Index of the GPU.
        workspace_mib: As in `BuildOptions`.
        level: As in `BuildOptions`.
        timing_cache: File of the builder's measurements; None is one in the artifact directory.
    """

    directory: Path
    profile: Profile | None = None
    device: int = 0
    workspace_mib: int | None = None
    level: int | None = None
    timing_cache: Path | None = None


def build_tensorrt(request: PlanRequest, report: Report, platform: Platform | None = None) -> tuple[Path, PlanProof]:
    """Build a plan, prove it on the GPU, and put it into the artifact.

    Args:
        request: What.
        report: Told what is being done.
        platform: Instead of what this machine has.

    Returns:
        The file, and the proof.

    Raises:
        ArtifactError: The directory is no artifact, holds no graph for TensorRT, or cannot be written to.
        ExportError: There is no TensorRT or no GPU, the graph cannot be built, or its plan does not run.
        ParityError: The plan's answers are off; nothing was written but the timing cache.
    """
    artifact = open_artifact(request.directory)
    if artifact.manifest.kind == "refine":
        check_refiner(artifact)
    _, entry = plan_source(artifact)
    if artifact.manifest.io != "image":
        raise ExportError(f"{artifact.directory}: expected a model that the server runs, found one of --io tensor")
    platform = platform if platform is not None else _open_platform(request.device)
    key = PlanKey(platform.cuda.name, platform.version, entry.sha256, _profile(request, artifact))
    check_target(artifact.directory, [key.file])
    report(f"building for {key.gpu} with TensorRT {key.tensorrt}")
    plan = _build(request, artifact, key, platform, report)
    proof = _prove(artifact, key, plan, platform, report)
    if not proof.passed:
        raise ParityError(f"the plan is out of tolerance, and was not kept:\n{proof.table()}")
    return _record(artifact.directory, key, plan, proof).file(key.role), proof


def _open_platform(device: int) -> Platform:
    try:
        return open_platform(device)
    except PlanError as error:
        raise ExportError(f"a plan is built on the GPU that will run it: {error}") from error


def _profile(request: PlanRequest, artifact: Artifact) -> Profile:
    most = artifact.manifest.max_batch
    if request.profile is None:
        return Profile(1, min(_USUAL_BATCH, most), most)
    if request.profile.most > most:
        raise ExportError(f"expected a largest batch of at most {most}, as the manifest, found {request.profile.most}")
    return request.profile


def _build(request: PlanRequest, artifact: Artifact, key: PlanKey, platform: Platform, report: Report) -> bytes:
    role, entry = plan_source(artifact)
    options = BuildOptions(
        key.profile, request.workspace_mib, request.level, tf32=(entry.precision or "fp16") == "fp16"
    )
    path = request.timing_cache or artifact.directory / f"timing.{key.machine}.cache"
    cache = TimingCache(path.read_bytes() if path.exists() else b"")
    plan = build_plan(platform.tensorrt, artifact.file(role), options, report, cache)
    try:
        _replace_file(path, cache.content)
    except OSError as error:  # no reason to throw a plan away
        report(f"{path}: the timing cache cannot be written: {error.strerror}")
    return plan


def _prove(artifact: Artifact, key: PlanKey, plan: bytes, platform: Platform, report: Report) -> PlanProof:
    manifest = artifact.manifest
    role, _ = plan_source(artifact)
    profile = key.profile
    try:
        runner = PlanRunner(platform, plan, manifest)
        try:
            candidate = PlanCandidate(runner.run, manifest, role, (profile.least, profile.usual, profile.most))
            return prove_plan(candidate, _canonical(artifact), load_self_test(artifact), report)
        finally:
            runner.close()
    except PlanError as error:
        raise ExportError(f"the plan was built, but does not run here: {error}") from error


def _canonical(artifact: Artifact) -> Run:
    session = open_session(artifact.file("model"))
    names = [spec.name for spec in artifact.manifest.outputs]

    def run(arrays: Arrays) -> Arrays:
        return {name: np.asarray(output) for name, output in zip(names, session.run(names, dict(arrays)), strict=True)}

    return run


def _record(directory: Path, key: PlanKey, plan: bytes, proof: PlanProof) -> Artifact:
    with _only_writer(directory), tempfile.TemporaryDirectory(prefix=".birefnet-", dir=directory) as scratch:
        source = Path(scratch) / key.file
        source.write_bytes(plan)
        current = open_artifact(directory)  # another machine may have added its plan meanwhile
        _, entry = plan_source(current)
        if entry.sha256 != key.graph_sha256:
            raise ExportError(f"{directory}: the graph was exchanged while its plan was built; build it again")
        parity = {**current.manifest.parity, key.role: proof.to_mapping(_versions(key))}
        plan_file = NewFile(source, key.file, entry.precision, key.entry_fields)
        return write_artifact(directory, replace(current.manifest, parity=parity), {key.role: plan_file})


@contextmanager
def _only_writer(directory: Path) -> Iterator[None]:
    """Two machines that share the directory write its manifest one after the other."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _replace_file(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.partial")
    temporary.write_bytes(content)
    temporary.replace(path)


def _versions(key: PlanKey) -> dict[str, str]:
    return {
        "birefnet-server": version("birefnet-server"),
        "tensorrt": key.tensorrt,
        "onnxruntime": onnxruntime.__version__,
    }

"""Artifacts with plans for the fake GPU, and the platform that runs them."""

from dataclasses import dataclass, replace
from pathlib import Path

from artifact import Artifact, NewFile, PlanKey, Profile, Tolerance, plan_source, write_artifact
from plans import Platform
from tests.support.backends import tiny_onnx_artifact
from tests.support.fake_cuda import FakeCuda
from tests.support.fake_tensorrt import FakeTensorrt, plan_bytes

PROFILE = Profile(1, 2, 4)


@dataclass
class FakePlatform:
    """A fake GPU with a fake TensorRT."""

    cuda: FakeCuda
    tensorrt: FakeTensorrt

    @property
    def platform(self) -> Platform:
        return Platform(self.tensorrt, self.cuda)

    def key(self, artifact: Artifact, profile: Profile = PROFILE) -> PlanKey:
        """Of a plan that this platform may run."""
        _, graph = plan_source(artifact)
        return PlanKey(self.cuda.name, str(self.tensorrt.__version__), graph.sha256, profile)


def fake_platform(**cuda: object) -> FakePlatform:
    """A platform whose GPU has these attributes."""
    gpu = FakeCuda(**cuda)  # type: ignore[arg-type]
    return FakePlatform(gpu, FakeTensorrt(gpu))


def typed_artifact(directory: Path) -> Artifact:
    """The tiny ONNX model with a graph for TensorRT, which is the same graph: fakes need not round."""
    artifact = tiny_onnx_artifact(directory)
    tolerances = {"fp32": Tolerance(1e-4, 1e-5), "fp16": Tolerance(5e-3, 5e-4)}
    graph = NewFile(artifact.file("model"), "model.trt.onnx", "fp16")
    return write_artifact(directory, replace(artifact.manifest, self_test=tolerances), {"model_trt": graph})


def with_plan(artifact: Artifact, key: PlanKey, scratch: Path) -> Artifact:
    """The artifact with a plan of a key."""
    source = scratch / "plan"
    role, _ = plan_source(artifact)
    profile = key.profile
    source.write_bytes(plan_bytes(artifact.file(role).read_bytes(), (profile.least, profile.usual, profile.most)))
    plan = NewFile(source, key.file, "fp16", key.entry_fields)
    return write_artifact(artifact.directory, artifact.manifest, {key.role: plan})

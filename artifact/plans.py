"""Which of an artifact's files are TensorRT plans, what each was built for, and which one a device may run.

A plan is valid for one type of GPU and one version of TensorRT, and is stale once its graph is another. It is a file of
the artifact like any other, in a role that begins with `plan.`; its manifest entry carries the key.

Rules of this module: TensorRT is not known here, and nothing is built.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from artifact.directory import Artifact, ArtifactError
from artifact.fields import Fields, ManifestError, checked
from artifact.manifest import PLAN_PREFIX, FileEntry, Manifest

_FIELD = "plan"
_TYPED_GRAPH = "model_trt"
_CANONICAL_GRAPH = "model"


@dataclass(frozen=True, slots=True)
class Profile:
    """Batch sizes of a plan.

    Attributes:
        least: Smallest batch that it runs.
        usual: The batch that its kernels were chosen for.
        most: Largest batch that it runs.
    """

    least: int
    usual: int
    most: int

    def __post_init__(self) -> None:
        if not 1 <= self.least <= self.usual <= self.most:
            raise ValueError(f"expected 1 ≤ least ≤ usual ≤ most, found {self.least}, {self.usual}, {self.most}")

    def __str__(self) -> str:
        return f"{self.least}-{self.usual}-{self.most}"


@dataclass(frozen=True, slots=True)
class PlanKey:
    """What a plan was built for and of; two that agree in everything are interchangeable.

    Attributes:
        gpu: Name of the GPU, as CUDA gives it.
        tensorrt: Version of TensorRT, all four numbers: plans are not read by any other.
        graph_sha256: Of the ONNX graph that it was built from.
        profile: Batch sizes.
    """

    gpu: str
    tensorrt: str
    graph_sha256: str
    profile: Profile

    @property
    def machine(self) -> str:
        """GPU and TensorRT, as part of names."""
        return f"{_slug(self.gpu)}.trt-{self.tensorrt}"

    @property
    def role(self) -> str:
        """In the manifest. Without the graph: a plan of a newer graph takes the place of the older one."""
        return f"{PLAN_PREFIX}{self.machine}.b{self.profile}"

    @property
    def file(self) -> str:
        """Name of the file."""
        return f"model.{self.machine}.b{self.profile}.{self.graph_sha256[:8]}.plan"

    @classmethod
    def parse(cls, value: object, path: str) -> Self:
        fields = Fields(value, path)
        sizes = fields.take("profile", list)
        name = fields.name("profile")
        try:
            profile = Profile(*(checked(size, int, name) for size in sizes))
        except (TypeError, ValueError) as error:
            raise ManifestError(name, "three batch sizes in ascending order", sizes) from error
        return cls(fields.take("gpu", str), fields.take("tensorrt", str), fields.take("graph_sha256", str), profile)

    def to_mapping(self) -> dict[str, Any]:
        """As JSON types."""
        return {
            "gpu": self.gpu,
            "tensorrt": self.tensorrt,
            "graph_sha256": self.graph_sha256,
            "profile": [self.profile.least, self.profile.usual, self.profile.most],
        }

    @property
    def entry_fields(self) -> dict[str, Any]:
        """What the plan's manifest entry has beside path, hash and precision."""
        return {_FIELD: self.to_mapping()}


def plan_source(artifact: Artifact) -> tuple[str, FileEntry]:
    """Role and entry of the graph that plans of an artifact are built from.

    The strongly typed half-precision graph of a matte model; a refiner has one graph, in fp32.

    Raises:
        ArtifactError: There is none that TensorRT takes.
    """
    manifest = artifact.manifest
    role = _CANONICAL_GRAPH if manifest.kind == "refine" else _TYPED_GRAPH
    entry = manifest.files.get(role)
    if entry is not None:
        return role, entry
    source = manifest.origin.get("source", "CHECKPOINT")
    raise ArtifactError(
        f"{artifact.directory}: expected a graph for TensorRT, model.trt.onnx, found the roles "
        f"{', '.join(sorted(manifest.files)) or 'none'}; export the checkpoint again with it: "
        f"birefnet-export onnx {source} -o {artifact.directory} --precision fp16-tensorrt"
    )


def plans_of(manifest: Manifest) -> Mapping[str, PlanKey]:
    """The plans of an artifact, by role.

    Raises:
        ManifestError: An entry in a plan's role has no key, or a wrong one.
    """
    return {
        role: PlanKey.parse(entry.extra.get(_FIELD), f"files.{role}.{_FIELD}")
        for role, entry in manifest.files.items()
        if role.startswith(PLAN_PREFIX)
    }


def find_plan(artifact: Artifact, gpu: str, tensorrt: str) -> str:
    """The role of the plan that a device runs; of several the one for the largest batches.

    Raises:
        ArtifactError: There is none for this GPU, this TensorRT and this graph. The message says which there are, and
            what builds one.
        ManifestError: As `plans_of`.
    """
    _, graph = plan_source(artifact)
    plans = plans_of(artifact.manifest)
    fitting = {
        role: key
        for role, key in plans.items()
        if (key.gpu, key.tensorrt, key.graph_sha256) == (gpu, tensorrt, graph.sha256)
    }
    if fitting:
        return max(fitting, key=lambda role: (fitting[role].profile.most, role))
    raise ArtifactError(
        f"{artifact.directory}: expected a plan for {gpu} and TensorRT {tensorrt}, found "
        f"{'; '.join(_described(key, graph.sha256) for key in plans.values()) or 'none'}; build one here: "
        f"birefnet-export tensorrt {artifact.directory}"
    )


def _described(key: PlanKey, graph_sha256: str) -> str:
    stale = "" if key.graph_sha256 == graph_sha256 else ", of another graph"
    return f"one for {key.gpu} and TensorRT {key.tensorrt}{stale}"


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")

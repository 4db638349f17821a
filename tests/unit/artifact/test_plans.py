"""Plans in an artifact: their keys, which one a device may run, and what is said when there is none."""

from dataclasses import replace
from pathlib import Path

import pytest

from artifact import (
    Artifact,
    ArtifactError,
    ManifestError,
    PlanKey,
    Profile,
    find_plan,
    open_artifact,
    plan_source,
    plans_of,
)
from tests.support.backends import tiny_onnx_artifact
from tests.support.plans import fake_platform, typed_artifact, with_plan

GPU, TENSORRT = "Fake GPU 9000", "10.13.2.6"


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    return typed_artifact(tmp_path / "artifact")


def key_of(artifact: Artifact, **fields: object) -> PlanKey:
    return replace(fake_platform().key(artifact), **fields)  # type: ignore[arg-type]


def test_the_key_is_in_the_name_of_the_file_and_in_the_manifest(artifact, tmp_path):
    key = key_of(artifact, gpu="NVIDIA H200 (SXM)", profile=Profile(1, 8, 8))
    planned = with_plan(artifact, key, tmp_path)
    assert key.role == "plan.nvidia-h200-sxm.trt-10.13.2.6.b1-8-8"
    assert key.file == f"model.nvidia-h200-sxm.trt-10.13.2.6.b1-8-8.{key.graph_sha256[:8]}.plan"
    assert planned.file(key.role).name == key.file
    assert plans_of(open_artifact(planned.directory).manifest) == {key.role: key}


def test_a_plan_is_found_by_gpu_tensorrt_and_graph(artifact, tmp_path):
    key = key_of(artifact)
    planned = with_plan(artifact, key, tmp_path)
    assert find_plan(planned, GPU, TENSORRT) == key.role
    for gpu, tensorrt in (("Fake GPU 9001", TENSORRT), (GPU, "10.13.2.7")):
        with pytest.raises(ArtifactError, match=f"expected a plan for {gpu} and TensorRT {tensorrt}, found one for"):
            find_plan(planned, gpu, tensorrt)


def test_a_plan_of_an_older_graph_is_not_taken(artifact, tmp_path):
    planned = with_plan(artifact, key_of(artifact, graph_sha256="0" * 64), tmp_path)
    with pytest.raises(ArtifactError, match=r"found one for Fake GPU 9000 and TensorRT 10\.13\.2\.6, of another graph"):
        find_plan(planned, GPU, TENSORRT)


def test_of_several_the_one_for_the_largest_batches_is_taken(artifact, tmp_path):
    wide, narrow = (key_of(artifact, profile=Profile(1, 2, most)) for most in (16, 4))
    planned = with_plan(with_plan(artifact, wide, tmp_path), narrow, tmp_path)
    assert find_plan(planned, GPU, TENSORRT) == wide.role


def test_without_a_plan_the_error_says_what_builds_one(artifact):
    with pytest.raises(
        ArtifactError, match=rf"found none; build one here: birefnet-export tensorrt {artifact.directory}$"
    ):
        find_plan(artifact, GPU, TENSORRT)


def test_without_a_graph_for_tensorrt_the_error_says_what_exports_one(tmp_path):
    artifact = tiny_onnx_artifact(tmp_path / "plain")
    with pytest.raises(ArtifactError, match=r"found the roles model, self_test; export .* --precision fp16-tensorrt$"):
        plan_source(artifact)


def test_a_refiners_plan_is_built_from_its_only_graph(artifact):
    refiner = Artifact(artifact.directory, replace(artifact.manifest, kind="refine"))
    assert plan_source(refiner)[0] == "model"


def test_replicas_on_different_gpus_serve_the_same_artifact(artifact, tmp_path):
    planned = with_plan(artifact, key_of(artifact), tmp_path)
    assert planned.sha256 == artifact.sha256
    assert planned.manifest.files != artifact.manifest.files


@pytest.mark.parametrize("sizes", [(0, 1, 2), (2, 1, 4), (1, 5, 4)])
def test_batch_sizes_ascend_from_one(sizes):
    with pytest.raises(ValueError, match="expected 1 ≤ least ≤ usual ≤ most"):
        Profile(*sizes)


@pytest.mark.parametrize("broken", [{"gpu": 3}, {"profile": [1, 2]}, {"profile": [2, 1, 3]}, {"profile": "1-2-3"}])
def test_a_damaged_key_is_an_error_that_names_the_field(artifact, tmp_path, broken):
    key = key_of(artifact)
    planned = with_plan(artifact, key, tmp_path)
    entry = replace(planned.manifest.files[key.role], extra={"plan": {**key.to_mapping(), **broken}})
    manifest = replace(planned.manifest, files={**planned.manifest.files, key.role: entry})
    with pytest.raises(ManifestError, match=rf"files\.{key.role}\.plan\.{next(iter(broken))}"):
        plans_of(manifest)

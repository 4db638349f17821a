"""`birefnet-export tensorrt` on a fake GPU: what is built, proven, kept and refused."""

import itertools
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from artifact import Artifact, ArtifactError, NewFile, Profile, find_plan, open_artifact, plans_of, write_artifact
from model_export import tensorrt_build, tensorrt_proof
from model_export.__main__ import main
from model_export.errors import ExportError, ParityError
from model_export.sample_inputs import sample_inputs
from model_export.tensorrt_build import PlanRequest, build_tensorrt
from tests.support.backends import tiny_onnx_artifact
from tests.support.plans import FakePlatform, fake_platform, typed_artifact
from tests.support.processes import ROOT, clean_environment


@pytest.fixture
def gpu() -> FakePlatform:
    return fake_platform()


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    return typed_artifact(tmp_path / "artifact")


@pytest.fixture
def command(gpu: FakePlatform, monkeypatch: pytest.MonkeyPatch):
    """The command line, on a machine with the fake GPU."""
    monkeypatch.setattr(tensorrt_build, "open_platform", lambda device: gpu.platform)
    return lambda *arguments: main(["tensorrt", *map(str, arguments)])


def files_of(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_an_artifact_gets_a_plan_that_is_proven(gpu, artifact, command, capsys):
    assert command(artifact.directory) == 0
    said = capsys.readouterr()
    planned = open_artifact(artifact.directory)
    role = find_plan(planned, gpu.cuda.name, gpu.tensorrt.__version__)
    assert role == "plan.fake-gpu-9000.trt-10.13.2.6.b1-8-8"
    entry = planned.manifest.files[role]
    assert entry.precision == "fp16"
    assert plans_of(planned.manifest)[role].graph_sha256 == planned.manifest.files["model_trt"].sha256
    proof = planned.manifest.parity[role]
    assert proof["passed"]
    assert proof["canonical_graph"]["max_abs"] < 1e-5
    assert {"subject", "black", "noise"} <= set(proof["canonical_graph"]["inputs"])
    assert proof["batches"].keys() == {"1", "8"}
    assert said.out.splitlines()[0] == str(planned.directory / entry.path)
    assert "self-test" in said.out
    assert "building for Fake GPU 9000 with TensorRT 10.13.2.6" in said.err
    assert not gpu.cuda.held


def test_the_network_is_strongly_typed_and_the_profile_the_manifests(gpu, artifact, command):
    assert command(artifact.directory) == 0
    assert gpu.tensorrt.flags == [1 << 1]
    assert gpu.tensorrt.configured["profile"] == (1, 8, 8)
    assert "TF32" not in gpu.tensorrt.configured


def test_tensorrt_11_needs_no_flag_for_what_it_always_does(gpu, artifact, command):
    gpu.tensorrt.__version__ = "11.4.0.106"
    assert command(artifact.directory) == 0
    assert gpu.tensorrt.flags == [0]


def test_options_reach_the_builder(gpu, artifact, command):
    assert command(artifact.directory, "--batch", "2,3,4", "--workspace-mib", 512, "--level", 5) == 0
    configured = gpu.tensorrt.configured
    assert (configured["profile"], configured["WORKSPACE"], configured["builder_optimization_level"]) == (
        (2, 3, 4),
        512 << 20,
        5,
    )


@pytest.mark.parametrize("text", ["1,2", "3,2,1", "0,1,2", "a,b,c", "1-2-3"])
def test_batches_that_are_none(artifact, command, capsys, text):
    with pytest.raises(SystemExit) as caught:
        command(artifact.directory, "--batch", text)
    assert caught.value.code == 2
    assert f"expected MIN,OPT,MAX in ascending order, such as 1,8,16, found '{text}'" in capsys.readouterr().err


def test_a_batch_that_the_manifest_does_not_allow(artifact, command, capsys):
    assert command(artifact.directory, "--batch", "1,8,32") == 2
    assert "expected a largest batch of at most 8, as the manifest, found 32" in capsys.readouterr().err


def test_a_plan_that_is_out_of_tolerance_is_refused_with_its_figures(gpu, artifact, command, capsys):
    gpu.tensorrt.error_offset = 0.006
    before = files_of(artifact.directory)
    assert command(artifact.directory) == 1
    said = capsys.readouterr().err
    assert "the plan is out of tolerance, and was not kept" in said
    assert "BAD  max 6.0" in said
    after = files_of(artifact.directory)
    assert after.pop("timing.fake-gpu-9000.trt-10.13.2.6.cache")
    assert after == before


def test_an_answer_that_is_no_number_is_out_of_tolerance(gpu, artifact):
    gpu.tensorrt.error_offset = float("nan")
    with pytest.raises(ParityError, match="max nan"):
        build_tensorrt(PlanRequest(artifact.directory), print, gpu.platform)


def test_a_graph_that_the_export_proved_with_more_tolerance_is_given_it(gpu, artifact):
    """What a network loses in half precision on an image, its plan may lose too."""
    gpu.tensorrt.error_offset = 0.006
    wide = {"max_abs": 0.02, "mean_abs": 0.01}
    tolerances = {**artifact.manifest.self_test, "fp16": replace(artifact.manifest.self_test["fp16"], **wide)}
    manifest = replace(artifact.manifest, self_test=tolerances)
    write_artifact(artifact.directory, manifest, {})
    build_tensorrt(PlanRequest(artifact.directory), print, gpu.platform)


def test_one_images_own_allowance_counts_for_it_alone(gpu, artifact):
    inputs = {"noise": {"allowed": {"max_abs": 0.02, "mean_abs": 0.01}}}
    manifest = replace(artifact.manifest, parity={"model_trt": {"network": {"inputs": inputs}}})
    write_artifact(artifact.directory, manifest, {})
    gpu.tensorrt.error_offset = 0.006
    with pytest.raises(ParityError) as caught:
        build_tensorrt(PlanRequest(artifact.directory), print, gpu.platform)
    lines = {line.split()[0]: line for line in str(caught.value).splitlines()}
    assert " ok " in lines["noise"]
    assert "BAD" in lines["black"]


def test_building_again_takes_the_place_of_the_plan_and_uses_the_timings(gpu, artifact, command):
    assert command(artifact.directory) == 0
    first = open_artifact(artifact.directory)
    assert command(artifact.directory) == 0
    assert open_artifact(artifact.directory).manifest.files.keys() == first.manifest.files.keys()
    assert (artifact.directory / "timing.fake-gpu-9000.trt-10.13.2.6.cache").read_bytes() == b"timed;timed;"


@pytest.mark.parametrize("content", [b"damaged", b"of another GPU"])
def test_a_timing_cache_that_is_of_no_use_is_replaced(gpu, artifact, command, capsys, tmp_path, content):
    cache = tmp_path / "cache"
    cache.write_bytes(content)
    assert command(artifact.directory, "--timing-cache", cache) == 0
    assert "timing cache is damaged, or of another GPU or TensorRT" in capsys.readouterr().err
    assert cache.read_bytes() == b"timed;"
    assert not list(artifact.directory.glob("timing.*"))


def test_a_timing_cache_that_cannot_be_written_costs_no_plan(gpu, artifact, command, capsys, tmp_path):
    assert command(artifact.directory, "--timing-cache", tmp_path / "nowhere" / "cache") == 0
    assert "nowhere/cache: the timing cache cannot be written: No such file" in capsys.readouterr().err
    assert plans_of(open_artifact(artifact.directory).manifest)


def test_plans_of_other_gpus_and_profiles_stay(gpu, artifact):
    build_tensorrt(PlanRequest(artifact.directory), print, gpu.platform)
    other = fake_platform(name="Fake GPU 1")
    build_tensorrt(PlanRequest(artifact.directory), print, other.platform)
    build_tensorrt(PlanRequest(artifact.directory, Profile(1, 1, 1)), print, gpu.platform)
    assert len(plans_of(open_artifact(artifact.directory).manifest)) == 3


def test_a_plan_that_another_machine_adds_meanwhile_stays(gpu, artifact):
    other = fake_platform(name="Fake GPU 1")
    gpu.tensorrt.on_step = _once(lambda: build_tensorrt(PlanRequest(artifact.directory), print, other.platform))
    build_tensorrt(PlanRequest(artifact.directory), print, gpu.platform)
    assert {key.gpu for key in plans_of(open_artifact(artifact.directory).manifest).values()} == {
        "Fake GPU 1",
        "Fake GPU 9000",
    }


def test_a_graph_that_is_exchanged_meanwhile_gets_no_plan_of_the_old_one(gpu, artifact, tmp_path):
    def exchange() -> None:
        model = onnx.load(artifact.file("model_trt"))
        model.doc_string = "another"
        onnx.save(model, tmp_path / "other.onnx")
        graph = NewFile(tmp_path / "other.onnx", "model.trt.onnx", "fp16")
        write_artifact(artifact.directory, artifact.manifest, {"model_trt": graph})

    gpu.tensorrt.on_step = _once(exchange)
    with pytest.raises(ExportError, match="the graph was exchanged while its plan was built"):
        build_tensorrt(PlanRequest(artifact.directory), print, gpu.platform)
    assert not plans_of(open_artifact(artifact.directory).manifest)


def test_an_interrupted_build_leaves_nothing(gpu, artifact, command, capsys):
    def interrupt() -> None:
        raise KeyboardInterrupt

    gpu.tensorrt.on_step = interrupt
    before = files_of(artifact.directory)
    assert command(artifact.directory) == 130
    assert "interrupted; nothing was written" in capsys.readouterr().err
    assert files_of(artifact.directory) == before


@pytest.mark.parametrize(
    ("said", "hint"),
    [
        ("Error Code 2: OutOfMemory (Requested size was 123 bytes.)", True),
        ("Could not find any implementation due to insufficient workspace", True),
        ("Error Code 10: Could not find any implementation for node {ForeignNode}", False),
    ],
)
def test_a_build_that_fails_says_why(gpu, artifact, command, capsys, said, hint):
    gpu.tensorrt.broken["build"] = said
    assert command(artifact.directory) == 2
    error = capsys.readouterr().err
    assert f"expected TensorRT to build a plan, found: {said}" in error
    assert ("Free the GPU of other processes, lower the largest batch (--batch)" in error) is hint


def test_a_plan_that_does_not_run_is_not_kept(gpu, artifact, command, capsys):
    gpu.tensorrt.broken["execute"] = "Myelin failed"
    assert command(artifact.directory) == 2
    assert "the plan was built, but does not run here: a batch of 1 failed: Myelin failed" in capsys.readouterr().err
    assert not gpu.cuda.held
    assert not plans_of(open_artifact(artifact.directory).manifest)


def test_an_artifact_without_a_graph_for_tensorrt(command, capsys, tmp_path):
    plain = tiny_onnx_artifact(tmp_path / "plain")
    assert command(plain.directory) == 2
    assert "export the checkpoint again with it: birefnet-export onnx" in capsys.readouterr().err


def test_the_bare_network_gets_no_plan(artifact, command, capsys):
    write_artifact(artifact.directory, replace(artifact.manifest, io="tensor"), {})
    assert command(artifact.directory) == 2
    assert "expected a model that the server runs, found one of --io tensor" in capsys.readouterr().err


def test_a_directory_that_cannot_be_written_to_is_found_out_before_the_build(gpu, artifact):
    key = gpu.key(artifact, Profile(1, 8, 8))
    (artifact.directory / key.file).write_text("somebody's")
    with pytest.raises(ArtifactError, match="found a foreign file"):
        build_tensorrt(PlanRequest(artifact.directory), print, gpu.platform)
    assert not gpu.tensorrt.flags


def test_a_refiners_plan_keeps_all_of_fp32(gpu, tmp_path, monkeypatch):
    """Its tiles are made of the sample images, and its graph is held to the tolerance of fp32."""
    few = list(itertools.islice(sample_inputs((256, 256)), 1))
    monkeypatch.setattr(tensorrt_proof, "sample_inputs", lambda size: few)
    directory = tmp_path / "refine"
    shutil.copytree(ROOT / "server" / "default_model" / "refine", directory)
    build_tensorrt(PlanRequest(directory, Profile(1, 1, 2)), print, gpu.platform)
    assert gpu.tensorrt.configured["TF32"] is False
    manifest = open_artifact(directory).manifest
    ((role, _),) = plans_of(manifest).items()
    assert manifest.files[role].precision == "fp32"
    assert manifest.parity[role]["tolerance"] == manifest.self_test["fp32"].to_mapping()


def test_without_a_gpu_it_is_refused_and_said(artifact):
    """The real command in a process of its own, on a machine that has no TensorRT."""
    command = [sys.executable, "-m", "model_export", "tensorrt", str(artifact.directory)]
    result = subprocess.run(command, cwd=ROOT, env=clean_environment(), capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert result.stdout == ""
    assert "a plan is built on the GPU that will run it: expected" in result.stderr
    assert not plans_of(open_artifact(artifact.directory).manifest)


def test_no_torch_is_loaded():
    code = "import model_export.__main__, model_export.tensorrt_build, plans, sys; print(*sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=clean_environment(), capture_output=True, text=True, check=True
    )
    loaded = {name.partition(".")[0] for name in result.stdout.split()}
    assert loaded.isdisjoint({"torch", "onnx", "modeling", "tensorrt", "cuda"})


def _once(action):
    done: list[bool] = []

    def act() -> None:
        if not done:
            done.append(True)
            action()

    return act


def test_batches_are_held_against_their_images(gpu, artifact, monkeypatch):
    """A plan that mixes up the images of a batch is found out, though every single image is right."""
    from plans import PlanRunner

    run = PlanRunner.run
    monkeypatch.setattr(
        PlanRunner,
        "run",
        lambda self, arrays: {name: np.flip(array, 0) for name, array in run(self, arrays).items()},
    )
    with pytest.raises(ParityError) as caught:
        build_tensorrt(PlanRequest(artifact.directory), print, gpu.platform)
    bad = [line.split("  ")[0] for line in str(caught.value).splitlines() if "BAD" in line]
    assert all(line.startswith("batch of 8") for line in bad)
    assert bad

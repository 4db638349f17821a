"""A plan on a real GPU: built, proven, served, captured, out of memory. `python -m pytest -m gpu` where TensorRT is."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from artifact import Artifact, Profile, load_self_test, open_artifact
from model_export.__main__ import main
from model_export.tensorrt_build import PlanRequest, build_tensorrt
from plans import PlanError, PlanRunner, Platform, open_platform
from server.backends.base import BackendFault, OutOfMemoryFault
from server.backends.trt import TrtBackend, TrtOptions
from server.engine.warmup import Search, warm_up
from tests.support.networks import tiny_checkpoint
from tests.support.processes import live_server

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(1800)]

BATCHES = Profile(1, 2, 4)


@pytest.fixture(scope="module")
def platform() -> Platform:
    return open_platform()


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """The tiny network, from its checkpoint to a plan, by the command line."""
    folder = tmp_path_factory.mktemp("plan")
    out = folder / "out"
    options = ["--size", "96x64", "--precision", "fp16-tensorrt", "--max-batch", "4"]
    assert main(["onnx", str(tiny_checkpoint(folder)), "-o", str(out), *options]) == 0
    assert main(["tensorrt", str(out), "--batch", "1,2,4"]) == 0
    return open_artifact(out)


@pytest.fixture
def backend(platform: Platform, artifact: Artifact) -> TrtBackend:
    backend = TrtBackend(TrtOptions(), platform)
    backend.load("tiny", artifact)
    return backend


def test_every_batch_size_passes_the_self_test(platform: Platform, artifact: Artifact) -> None:
    slices = warm_up(TrtBackend(TrtOptions(), platform), "tiny", artifact, Search(8))
    while True:
        try:
            next(slices)
        except StopIteration as end:
            warm = end.value
            break
    assert warm.max_batch == 4
    assert warm.deviation is not None
    assert warm.deviation.passed


def test_a_captured_batch_answers_what_the_first_did(backend: TrtBackend, artifact: Artifact) -> None:
    rng = np.random.default_rng(5)
    for size in (3, 1, 4, 2):
        images = rng.integers(0, 256, (size, 96, 64, 3), dtype=np.uint8)
        first = backend.run("tiny", {"image": images})["alpha"].copy()
        others = rng.integers(0, 256, (size, 96, 64, 3), dtype=np.uint8)
        between = backend.run("tiny", {"image": others})["alpha"].copy()
        again = backend.run("tiny", {"image": images})["alpha"]
        assert np.array_equal(first, again)
        assert not np.array_equal(first, between)
    backend.close()


def test_plans_are_captured(platform: Platform, artifact: Artifact, caplog: pytest.LogCaptureFixture) -> None:
    (plan,) = artifact.directory.glob("*.plan")
    runner = PlanRunner(platform, plan.read_bytes(), artifact.manifest)
    test = load_self_test(artifact)
    runner.run(test.inputs)
    assert "cannot be captured" not in caplog.text
    runner.close()


def test_memory_is_given_back(platform: Platform, artifact: Artifact) -> None:
    from importlib import import_module

    runtime = import_module("cuda.bindings.runtime")
    backend = TrtBackend(TrtOptions(), platform)
    free = []
    for _ in range(4):
        backend.load("tiny", artifact)
        backend.run("tiny", load_self_test(artifact).inputs)
        backend.unload("tiny")
        free.append(runtime.cudaMemGetInfo()[1])
    assert free[-1] >= free[1] - (1 << 20), "what the first two took for good, the others do not take again"


def test_running_out_of_memory_is_a_fault_that_a_smaller_batch_survives(
    platform: Platform, artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = TrtBackend(TrtOptions(), platform)
    backend.load("tiny", artifact)
    inputs = load_self_test(artifact).inputs
    allocate = platform.cuda.allocate
    monkeypatch.setattr(platform.cuda, "allocate", lambda size: allocate(1 << 46))
    with pytest.raises(OutOfMemoryFault, match="CUDA error 2"):
        backend.run("tiny", inputs)
    monkeypatch.undo()
    backend.run("tiny", inputs)
    backend.close()


def test_a_damaged_plan_is_refused_in_tensorrts_words(platform: Platform, artifact: Artifact) -> None:
    (plan,) = artifact.directory.glob("*.plan")
    with pytest.raises(PlanError, match="the plan cannot be loaded: "):
        PlanRunner(platform, plan.read_bytes()[:1000], artifact.manifest)


def test_a_plan_for_another_gpu_is_not_run(platform: Platform, artifact: Artifact) -> None:
    (role,) = (role for role in artifact.manifest.files if role.startswith("plan."))
    entry = artifact.manifest.files[role]
    other = replace(entry, extra={"plan": {**entry.extra["plan"], "gpu": "NVIDIA A10"}})
    changed = replace(artifact.manifest, files={**artifact.manifest.files, role: other})
    with pytest.raises(BackendFault, match="found one for NVIDIA A10"):
        TrtBackend(TrtOptions(), platform).load("tiny", Artifact(artifact.directory, changed))


def test_a_live_server_runs_it(artifact: Artifact) -> None:
    with live_server("--backend", "trt", "--refiner", "none", "--model", f"tiny={artifact.directory}") as live:
        warm = live.wait_for("model is warm")
        assert (warm["device"], warm["precision"]) == ("trt-cuda:0", "fp16")


def test_the_embedded_refiner_keeps_the_tolerance_of_fp32(platform: Platform, tmp_path: Path) -> None:
    import shutil

    import server

    directory = tmp_path / "refine"
    shutil.copytree(Path(server.__path__[0]) / "default_model" / "refine", directory)
    _, proof = build_tensorrt(PlanRequest(directory, BATCHES), print, platform)
    assert proof.passed

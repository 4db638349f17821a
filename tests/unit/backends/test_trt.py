"""TensorRT's boundary: which plan is run, what is said without one, and how faults come out."""

import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from artifact import Artifact
from plans import DeviceError
from server.backends.base import BackendFault, OutOfMemoryFault
from server.backends.trt import TrtBackend, TrtOptions, run_logged
from server.engine.warmup import Search, SelfTestFailedError, warm_up
from tests.support.backends import tiny_alpha, tiny_onnx_artifact
from tests.support.plans import FakePlatform, fake_platform, typed_artifact, with_plan
from tests.support.tolerance import ORT_TINY

IMAGES = np.random.default_rng(1).integers(0, 256, (3, 16, 24, 3), dtype=np.uint8)


@pytest.fixture
def gpu() -> FakePlatform:
    return fake_platform()


@pytest.fixture
def unplanned(tmp_path: Path) -> Artifact:
    return typed_artifact(tmp_path / "artifact")


@pytest.fixture
def planned(unplanned: Artifact, gpu: FakePlatform, tmp_path: Path) -> Artifact:
    return with_plan(unplanned, gpu.key(unplanned), tmp_path)


def backend_of(gpu: FakePlatform, **options: object) -> TrtBackend:
    return TrtBackend(TrtOptions(**options), gpu.platform)  # type: ignore[arg-type]


def test_a_plan_runs_at_the_precision_of_its_graph(gpu, planned):
    backend = backend_of(gpu)
    assert backend.load("tiny", planned) == "fp16"
    alpha = backend.run("tiny", {"image": IMAGES})["alpha"]
    assert np.abs(np.subtract(alpha, tiny_alpha(IMAGES))).max() < ORT_TINY
    backend.unload("tiny")
    backend.unload("tiny")
    assert not gpu.cuda.held
    with pytest.raises(BackendFault, match="tiny is not loaded"):
        backend.run("tiny", {"image": IMAGES})


def test_the_device_is_fed_ahead_with_batches(gpu):
    device = backend_of(gpu, device=1).device
    assert (device.name, device.max_batch, device.look_ahead) == ("trt-cuda:1", 16, 1)


def test_a_model_that_is_loaded_again_takes_the_place_of_the_old(gpu, planned):
    backend = backend_of(gpu)
    for _ in range(2):
        backend.load("tiny", planned)
        backend.run("tiny", {"image": IMAGES})
    held = gpu.cuda.held
    assert held["streams"] == 2
    backend.close()
    assert not gpu.cuda.held


def test_without_a_plan_the_error_says_what_to_run(gpu, unplanned):
    expected = (
        f"tiny: {unplanned.directory}: expected a plan for Fake GPU 9000 and TensorRT 10.13.2.6, found none; build one "
        f"here: birefnet-export tensorrt {unplanned.directory}, or let the server do it: --build-plans"
    )
    with pytest.raises(BackendFault, match=re.escape(expected)) as caught:
        backend_of(gpu).load("tiny", unplanned)
    assert not caught.value.fatal


def test_a_plan_for_another_gpu_is_not_run(gpu, unplanned, tmp_path):
    elsewhere = with_plan(unplanned, replace(gpu.key(unplanned), gpu="NVIDIA A10"), tmp_path)
    with pytest.raises(BackendFault, match=r"found one for NVIDIA A10 and TensorRT 10\.13\.2\.6; build one here"):
        backend_of(gpu).load("tiny", elsewhere)


def test_a_missing_plan_is_built_where_that_was_asked_for(gpu, unplanned, tmp_path):
    commands = []

    def build(command):
        commands.append(tuple(command))
        with_plan(unplanned, gpu.key(unplanned), tmp_path)

    backend = TrtBackend(TrtOptions(device=2, build_plans=True), gpu.platform, build)
    backend.load("tiny", unplanned)
    backend.run("tiny", {"image": IMAGES})
    directory = str(unplanned.directory)
    assert commands == [(sys.executable, "-m", "model_export", "tensorrt", directory, "--device", "2")]


def test_a_plan_that_was_built_meanwhile_is_taken(gpu, unplanned, tmp_path):
    """Two device threads that share a GPU, or two replicas a volume: the second finds the first one's."""
    with_plan(unplanned, gpu.key(unplanned), tmp_path)

    def build(command):
        raise AssertionError(command)

    TrtBackend(TrtOptions(build_plans=True), gpu.platform, build).load("tiny", unplanned)


def test_a_build_that_leaves_no_plan_is_an_error(gpu, unplanned):
    backend = TrtBackend(TrtOptions(build_plans=True), gpu.platform, lambda command: None)
    with pytest.raises(BackendFault, match="expected a plan for"):
        backend.load("tiny", unplanned)


def test_nothing_is_built_of_an_artifact_without_a_graph_for_tensorrt(gpu, tmp_path):
    def build(command):
        raise AssertionError(command)

    backend = TrtBackend(TrtOptions(build_plans=True), gpu.platform, build)
    with pytest.raises(BackendFault, match="--precision fp16-tensorrt"):
        backend.load("plain", tiny_onnx_artifact(tmp_path / "plain"))


def test_a_build_says_its_lines_in_the_log_and_its_last_ones_in_the_error(caplog):
    code = "import sys; print('one'); print('two', file=sys.stderr); sys.exit(2)"
    with caplog.at_level("INFO", "server.backends.trt"), pytest.raises(BackendFault, match=r"status 2: one \| two"):
        run_logged((sys.executable, "-u", "-c", code))
    assert [record.getMessage() for record in caplog.records] == ["one", "two"]
    run_logged((sys.executable, "-c", ""))


def test_a_damaged_plan_is_a_fault_that_names_the_file(gpu, planned):
    (path,) = planned.directory.glob("*.plan")
    path.write_bytes(b"")
    with pytest.raises(BackendFault, match=rf"tiny: {re.escape(str(path))} cannot be used: the plan cannot be loaded"):
        backend_of(gpu).load("tiny", planned)
    path.unlink()
    with pytest.raises(BackendFault, match="cannot be read: No such file"):
        backend_of(gpu).load("tiny", planned)


@pytest.mark.parametrize(
    ("error", "kind", "fatal"),
    [
        (DeviceError("taking 9 MiB of device memory", 2, "out of memory"), OutOfMemoryFault, False),
        (DeviceError("waiting for the device", 700, "an illegal memory access was encountered"), BackendFault, True),
        (DeviceError("waiting for the device", 719, "unspecified launch failure"), BackendFault, True),
        (DeviceError("waiting for the device", 214, "uncorrectable ECC error"), BackendFault, True),
        (DeviceError("copying to the device", 1, "invalid argument"), BackendFault, False),
    ],
)
def test_faults(gpu, planned, error, kind, fatal):
    backend = backend_of(gpu)
    backend.load("tiny", planned)
    gpu.cuda.failures["synchronise"] = [error]
    with pytest.raises(BackendFault, match=f"tiny: a batch of 3 failed: {error}") as caught:
        backend.run("tiny", {"image": IMAGES})
    assert type(caught.value) is kind
    assert caught.value.fatal is fatal


def test_warming_up_finds_the_largest_batch_of_the_plan_and_tests_every_size(gpu, planned):
    warm = finish(warm_up(backend_of(gpu), "tiny", planned, Search(8)))
    assert warm.max_batch == 4
    assert warm.precision == "fp16"
    assert gpu.tensorrt.executed == [4, 3, 2, 1]


def test_warming_up_finds_what_fits_into_memory(planned):
    gpu = fake_platform(capacity=2 * (16 * 24 * 7 + 1000))
    assert finish(warm_up(backend_of(gpu), "tiny", planned, Search(4))).max_batch == 2


def test_a_plan_that_answers_something_else_does_not_become_ready(gpu, planned):
    gpu.tensorrt.error_offset = 0.01
    with pytest.raises(SelfTestFailedError, match="at fp16 on trt-cuda:0"):
        finish(warm_up(backend_of(gpu), "tiny", planned, Search(4)))


def finish(slices):
    """Run a generator to its end."""
    while True:
        try:
            next(slices)
        except StopIteration as end:
            return end.value

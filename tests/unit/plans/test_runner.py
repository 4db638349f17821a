"""A plan runs: in any order that CUDA allows, one graph per batch size, and nothing is kept when something fails."""

import logging
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from artifact import Artifact, TensorSpec
from plans import DeviceError, PlanError, PlanRunner
from plans.errors import OUT_OF_MEMORY
from tests.support.backends import tiny_alpha
from tests.support.fake_tensorrt import Severity, plan_bytes
from tests.support.plans import PROFILE, FakePlatform, fake_platform, typed_artifact
from tests.support.tolerance import ORT_TINY

LOST = DeviceError("copying", 700, "an illegal memory access was encountered")
OTHER = DeviceError("copying", 1, "invalid argument")


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return typed_artifact(Path(tmp_path_factory.mktemp("plans") / "artifact"))


def open_runner(gpu: FakePlatform, artifact: Artifact, profile: tuple[int, int, int] = (1, 2, 4)) -> PlanRunner:
    return PlanRunner(gpu.platform, plan_bytes(artifact.file("model_trt").read_bytes(), profile), artifact.manifest)


def images(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 16, 24, 3), dtype=np.uint8)


def check(runner: PlanRunner, count: int, seed: int = 0) -> None:
    batch = images(count, seed)
    alpha = runner.run({"image": batch})["alpha"]
    assert alpha.shape == (count, 16, 24)
    assert np.abs(np.subtract(alpha, tiny_alpha(batch))).max() < ORT_TINY


def check_several(runner: PlanRunner, batches: int) -> None:
    for seed in range(batches):
        check(runner, 2, seed)


@pytest.mark.parametrize("eager", [(), (0,), (1,), (0, 1)], ids=["lazy", "copies first", "kernels first", "both"])
def test_answers_are_right_in_every_order_that_cuda_allows(artifact, eager):
    gpu = fake_platform(eager=eager)
    runner = open_runner(gpu, artifact)
    for seed, count in enumerate((3, 1, 3, 4, 2, 1, 4, 3)):
        check(runner, count, seed)


def test_the_first_batch_of_a_size_is_executed_and_the_rest_are_one_launch(artifact):
    gpu = fake_platform()
    runner = open_runner(gpu, artifact)
    for seed, count in enumerate((2, 1, 2, 1, 2)):
        check(runner, count, seed)
    assert gpu.tensorrt.executed == [2, 1]
    assert gpu.cuda.calls.count("launch") == 3
    assert gpu.cuda.held["graphs"] == 2


def test_nothing_is_taken_for_a_batch_that_was_run_before(artifact):
    gpu = fake_platform()
    runner = open_runner(gpu, artifact)
    check(runner, 4)
    before = len(gpu.cuda.calls)
    check(runner, 4, seed=1)
    assert set(gpu.cuda.calls[before:]) == {"upload", "record", "wait", "launch", "download", "synchronise"}


def test_smaller_batches_run_in_the_memory_of_larger_ones(artifact):
    gpu = fake_platform()
    runner = open_runner(gpu, artifact)
    check(runner, 4)
    held = gpu.cuda.held
    check(runner, 1)
    assert gpu.cuda.held == held + Counter(graphs=1)


def test_a_larger_batch_takes_the_place_of_what_was_prepared(artifact):
    gpu = fake_platform()
    runner = open_runner(gpu, artifact)
    check(runner, 2)
    held = gpu.cuda.held
    check(runner, 4)
    assert gpu.cuda.held == held, "the graph of two images is gone, its memory too"
    check(runner, 2, seed=1)


def test_a_batch_below_the_profile_is_filled_up(artifact):
    gpu = fake_platform()
    runner = open_runner(gpu, artifact, (3, 3, 4))
    check(runner, 1)
    assert gpu.tensorrt.executed == [3]


def test_closing_gives_everything_back(artifact):
    gpu = fake_platform()
    runner = open_runner(gpu, artifact)
    for count in (2, 4, 1):
        check(runner, count)
    assert gpu.cuda.held["streams"] == 2
    runner.close()
    assert not gpu.cuda.held


def test_closing_a_lost_device_raises_nothing(artifact):
    gpu = fake_platform()
    runner = open_runner(gpu, artifact)
    check(runner, 2)
    for call in ("free", "free_pinned", "destroy_stream", "destroy_event", "destroy_graph"):
        gpu.cuda.failures[call] = [LOST] * 9
    runner.close()


@pytest.mark.parametrize("call", ["allocate", "allocate_pinned", "upload", "record", "wait", "download", "synchronise"])
@pytest.mark.parametrize("successes", [0, 1])
def test_a_call_that_fails_fails_the_batch_alone_and_leaves_nothing_behind(artifact, call, successes):
    gpu = fake_platform()
    runner = open_runner(gpu, artifact)
    gpu.cuda.failures[call] = [*[None] * successes, OTHER]
    with pytest.raises(DeviceError, match="invalid argument"):
        check_several(runner, successes + 1)
    check(runner, 2)
    check(runner, 3)
    runner.close()
    assert not gpu.cuda.held


@pytest.mark.parametrize("call", ["create_stream", "create_event"])
@pytest.mark.parametrize("successes", [0, 1])
def test_what_was_made_before_a_failure_at_the_start_is_given_back(artifact, call, successes):
    gpu = fake_platform()
    gpu.cuda.failures[call] = [*[None] * successes, OTHER]
    with pytest.raises(DeviceError):
        open_runner(gpu, artifact)
    assert not gpu.cuda.held


def test_a_batch_that_does_not_fit_leaves_room_for_a_smaller_one(artifact):
    row = 16 * 24 * (3 + 4) + 1000
    gpu = fake_platform(capacity=2 * row)
    runner = open_runner(gpu, artifact)
    for count in (4, 3):
        with pytest.raises(DeviceError) as caught:
            check(runner, count)
        assert caught.value.out_of_memory
        assert not caught.value.fatal
    check(runner, 2)
    check(runner, 1)


def test_scratch_that_does_not_fit_is_out_of_memory_too(artifact):
    gpu = fake_platform(capacity=4 * 16 * 24 * (3 + 4) + 2500)
    runner = open_runner(gpu, artifact)
    with pytest.raises(DeviceError) as caught:
        check(runner, 4)
    assert caught.value.out_of_memory
    check(runner, 2)
    check(runner, 2, seed=1)


def test_what_was_captured_with_less_scratch_is_forgotten_when_there_is_more(artifact):
    gpu = fake_platform(capacity=4 * 16 * 24 * (3 + 4) + 2500)
    runner = open_runner(gpu, artifact)
    with pytest.raises(DeviceError):
        check(runner, 4)
    check_several(runner, 2)
    gpu.cuda.capacity *= 2  # another process has gone
    check(runner, 4)
    check_several(runner, 2)
    assert gpu.tensorrt.executed == [2, 4, 2]


def test_a_plan_that_cannot_be_captured_runs_kernel_by_kernel_and_says_so_once(artifact, caplog):
    gpu = fake_platform()
    gpu.tensorrt.capturable = False
    runner = open_runner(gpu, artifact)
    with caplog.at_level(logging.WARNING, "plans.runner"):
        for seed, count in enumerate((2, 2, 1, 2)):
            check(runner, count, seed)
    assert gpu.tensorrt.executed == [2, 2, 1, 2]
    assert not gpu.cuda.held["graphs"]
    said = [record.getMessage() for record in caplog.records if record.name == "plans.runner"]
    assert len(said) == 1
    assert "cannot be captured into a CUDA graph" in said[0]
    assert "operation not permitted when stream is capturing" in said[0]


@pytest.mark.parametrize("call", ["begin_capture", "end_capture"])
def test_a_failed_capture_costs_nothing_but_the_graph(artifact, call):
    gpu = fake_platform()
    gpu.cuda.failures[call] = [DeviceError("ending a capture", 901, "operation failed due to a previous error")]
    runner = open_runner(gpu, artifact)
    check(runner, 2)
    check(runner, 2, seed=1)
    runner.close()
    assert not gpu.cuda.held


def test_a_device_that_is_lost_while_capturing_is_lost(artifact):
    gpu = fake_platform()
    gpu.cuda.failures["end_capture"] = [LOST]
    with pytest.raises(DeviceError) as caught:
        check(open_runner(gpu, artifact), 2)
    assert caught.value.fatal


def test_what_tensorrt_says_is_in_the_error_once(artifact):
    gpu = fake_platform()
    runner = open_runner(gpu, artifact)
    gpu.tensorrt.broken["execute"] = "IExecutionContext::enqueueV3: Error Code 1:\nMyelin failed"
    with pytest.raises(PlanError, match=r"^a batch of 2 failed: .*Error Code 1: Myelin failed$") as caught:
        check(runner, 2)
    assert not isinstance(caught.value, DeviceError)
    gpu.tensorrt.broken.clear()
    gpu.tensorrt.broken["shape"] = "bad shape"
    with pytest.raises(PlanError, match=r"^a batch of 3 is not taken: bad shape$"):
        check(runner, 3)
    gpu.tensorrt.broken.clear()
    check(runner, 2)


def test_what_was_said_and_failed_before_is_not_the_cause(artifact):
    gpu = fake_platform()
    gpu.tensorrt.capturable = False
    runner = open_runner(gpu, artifact)
    gpu.cuda.sticky = DeviceError("inside TensorRT", 901, "operation failed due to a previous error during capture")
    check(runner, 2)
    assert gpu.tensorrt.logger is not None
    gpu.tensorrt.logger.log(Severity.ERROR, "something earlier")
    gpu.tensorrt.broken["execute"] = "Myelin failed"
    with pytest.raises(PlanError, match=r"^a batch of 2 failed: Myelin failed$"):
        check(runner, 2)


def test_the_cause_of_a_failure_inside_tensorrt_is_cudas(artifact):
    gpu = fake_platform()
    runner = open_runner(gpu, artifact)
    gpu.tensorrt.broken["execute"] = "Cuda Runtime (an illegal memory access was encountered)"
    gpu.cuda.sticky = DeviceError("inside TensorRT", 700, "an illegal memory access was encountered")
    with pytest.raises(DeviceError, match="CUDA error 700, an illegal memory access") as caught:
        check(runner, 2)
    assert caught.value.fatal


@pytest.mark.parametrize(
    "said", ["Error Code 2: OutOfMemory (Requested size was 9 bytes.)", "Cuda Runtime (out of memory)"]
)
def test_tensorrts_own_out_of_memory_is_one(artifact, said):
    gpu = fake_platform()
    runner = open_runner(gpu, artifact)
    gpu.tensorrt.broken["context"] = said
    with pytest.raises(DeviceError) as caught:
        check(runner, 2)
    assert (caught.value.code, caught.value.fatal) == (OUT_OF_MEMORY, False)


def test_bytes_that_are_no_plan(artifact):
    gpu = fake_platform()
    gpu.tensorrt.broken["load"] = "The engine plan file is not compatible with this version of TensorRT"
    with pytest.raises(PlanError, match="the plan cannot be loaded: The engine plan file is not compatible"):
        open_runner(gpu, artifact)
    assert not gpu.cuda.held


@pytest.mark.parametrize(
    ("kind", "spec", "message"),
    [
        ("inputs", TensorSpec("picture", "uint8", ("batch", 16, 24, 3)), "expected the tensors alpha, picture"),
        ("inputs", TensorSpec("image", "float32", ("batch", 16, 24, 3)), "found uint8"),
        (
            "inputs",
            TensorSpec("image", "uint8", ("batch", 16, 25, 3)),
            r"16, 25, 3.* found uint8 \['batch', 16, 24, 3\]",
        ),
        ("outputs", TensorSpec("alpha", "float16", ("batch", 16, 24)), "expected `alpha` float16 .*found float32"),
    ],
)
def test_a_plan_that_is_not_what_the_manifest_says_is_refused(artifact, kind, spec, message):
    gpu = fake_platform()
    changed = Artifact(artifact.directory, replace(artifact.manifest, **{kind: (spec,)}))
    with pytest.raises(PlanError, match=message):
        open_runner(gpu, changed)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (np.zeros((5, 16, 24, 3), np.uint8), "expected a batch of 1 to 4, found 5"),
        (np.zeros((0, 16, 24, 3), np.uint8), "expected a batch of 1 to 4, found 0"),
        (np.zeros((1, 16, 24, 3), np.float32), "found float32"),
        (np.zeros((1, 16, 25, 3), np.uint8), r"found uint8 \[1, 16, 25, 3\]"),
    ],
)
def test_a_batch_that_the_plan_does_not_take_is_refused(artifact, batch, message):
    runner = open_runner(fake_platform(), artifact, (PROFILE.least, PROFILE.usual, PROFILE.most))
    with pytest.raises(PlanError, match=message):
        runner.run({"image": batch})

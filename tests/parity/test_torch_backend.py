"""The torch backend on the CPU against ONNX Runtime on the same artifact, alone and through the engine."""

import asyncio
import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from artifact import Artifact, NewFile, open_artifact, write_artifact
from model_export.sample_inputs import sample_inputs
from server.backends.ort import OrtBackend, OrtOptions
from server.backends.torch_cuda import TorchBackend, TorchOptions
from server.engine import Engine, EngineLimits, Item
from server.observability.metrics import Metrics
from tests.support.backends import counted
from tests.support.networks import tiny_checkpoint
from tests.support.tolerance import EXPORT_ALPHA

SIZE = (96, 64)


@pytest.fixture(scope="module")
def artifact(tiny_export: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """The exported tiny network, its weights beside its graph."""
    folder = tmp_path_factory.mktemp("with-weights")
    shutil.copytree(tiny_export.directory, folder / "tiny")
    copy = open_artifact(folder / "tiny")
    weights = NewFile(tiny_checkpoint(folder), "weights.safetensors", "fp32")
    return write_artifact(copy.directory, copy.manifest, {"weights": weights})


@pytest.fixture(scope="module")
def images() -> NDArray[np.uint8]:
    return np.stack([image for _, image in sample_inputs(SIZE)])


def torch_backend() -> TorchBackend:
    return TorchBackend(TorchOptions(threads=1))


def alphas(backend: TorchBackend | OrtBackend, artifact: Artifact, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    backend.load("tiny", artifact)
    return backend.run("tiny", {"image": images})["alpha"].astype(np.float32, casting="no")


def test_it_answers_what_onnx_runtime_answers(artifact: Artifact, images: NDArray[np.uint8]) -> None:
    found = alphas(torch_backend(), artifact, images)
    expected = alphas(OrtBackend(OrtOptions(threads=1)), artifact, images)
    assert expected.std() > 0.05
    np.testing.assert_allclose(found, expected, rtol=0, atol=EXPORT_ALPHA)


def test_a_batch_equals_its_images_one_by_one(artifact: Artifact, images: NDArray[np.uint8]) -> None:
    backend = torch_backend()
    together = alphas(backend, artifact, images)
    alone = np.concatenate([backend.run("tiny", {"image": image[None]})["alpha"] for image in images])
    np.testing.assert_allclose(together, alone, rtol=0, atol=EXPORT_ALPHA)


async def test_through_the_engine_each_image_gets_its_own_matte(artifact: Artifact, images: NDArray[np.uint8]) -> None:
    """The engine proves the artifact's self-test at every batch size before it is ready."""
    expected = alphas(torch_backend(), artifact, images)
    metrics = Metrics()
    engine = Engine([torch_backend], EngineLimits(max_batch=3), metrics)
    await engine.start({"tiny": artifact})
    outcomes = await asyncio.gather(*(engine.submit(Item("tiny", {"image": image}, SIZE)) for image in images))
    found = np.stack([outcome.arrays["alpha"] for outcome in outcomes])
    np.testing.assert_allclose(found, expected, rtol=0, atol=EXPORT_ALPHA)
    assert max(outcome.batch_size for outcome in outcomes) == 3
    assert counted(metrics, "birefnet_batch_size_sum") == len(images)
    await engine.close()


async def test_wrong_weights_do_not_pass_the_self_test(artifact: Artifact, tmp_path: Path) -> None:
    from modeling.weights import load_network, save_state
    from server.engine.warmup import SelfTestFailedError

    shutil.copytree(artifact.directory, tmp_path / "tiny")
    copy = open_artifact(tmp_path / "tiny")
    network = load_network(copy.file("weights"))
    network.decoder.conv_out1[0].get_parameter("bias").data.add_(1.0)
    save_state(network, tmp_path / "other.safetensors")
    changed = write_artifact(
        copy.directory, copy.manifest, {"weights": NewFile(tmp_path / "other.safetensors", "weights.safetensors")}
    )
    engine = Engine([torch_backend], EngineLimits(max_batch=1), Metrics())
    with pytest.raises(SelfTestFailedError, match="torch-cpu"):
        await engine.start({"tiny": changed})
    await engine.close()

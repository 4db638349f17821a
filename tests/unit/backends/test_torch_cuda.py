"""The torch backend's boundary: what it refuses, and how torch's errors come out."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from triton.runtime.errors import OutOfResources

from artifact import Artifact, Manifest, NewFile, TensorSpec, write_artifact
from modeling.crm.decoder import TileWindow
from modeling.crm.weights import save_refiner
from server.app.composition import _backend_maker, compose
from server.backends.base import BackendFault, OutOfMemoryFault
from server.backends.fake import FakeBackend
from server.backends.torch_cuda import TorchBackend, TorchOptions
from server.backends.torch_cuda.backend import _translated
from server.pipeline.refiner import embedded_refiner
from server.settings import Settings
from tests.support.crm import small_refiner
from tests.support.networks import tiny_checkpoint

SIZE = (32, 64)


def matte_artifact(folder: Path) -> Artifact:
    manifest = Manifest(
        name="tiny",
        kind="matte",
        inputs=(TensorSpec("image", "uint8", ("batch", *SIZE, 3)),),
        outputs=(TensorSpec("alpha", "float32", ("batch", *SIZE)),),
        input_size=SIZE,
        max_batch=4,
        backbone="tiny",
        licence="MIT",
    )
    weights = NewFile(tiny_checkpoint(folder), "weights.safetensors", "fp32")
    return write_artifact(folder / "tiny", manifest, {"weights": weights})


def refine_artifact(folder: Path) -> Artifact:
    save_refiner(small_refiner(), folder / "small.safetensors")
    manifest = replace(embedded_refiner().artifact.manifest, files={})
    weights = NewFile(folder / "small.safetensors", "weights.safetensors", "fp32")
    return write_artifact(folder / "refiner", manifest, {"weights": weights})


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    return matte_artifact(tmp_path)


@pytest.fixture
def backend() -> TorchBackend:
    return TorchBackend(TorchOptions(threads=1))


def test_a_cpu_takes_small_batches_and_none_ahead(backend: TorchBackend) -> None:
    assert (backend.device.name, backend.device.max_batch, backend.device.look_ahead) == ("torch-cpu", 2, 0)


def test_on_the_cpu_it_runs_at_full_precision(backend: TorchBackend, artifact: Artifact) -> None:
    assert backend.load("tiny", artifact) == "fp32"
    images = np.random.default_rng(0).integers(0, 256, (2, *SIZE, 3), dtype=np.uint8)
    together = backend.run("tiny", {"image": images})["alpha"]
    assert together.shape == (2, *SIZE)
    assert together.dtype == np.float32
    assert 0 <= together.min() < together.max() <= 1
    backend.unload("tiny")
    backend.unload("tiny")
    with pytest.raises(BackendFault, match="tiny is not loaded"):
        backend.run("tiny", {"image": images})


def test_an_artifact_without_weights_says_how_to_get_them(backend: TorchBackend, artifact: Artifact) -> None:
    bare = Artifact(artifact.directory, replace(artifact.manifest, files={}))
    with pytest.raises(BackendFault, match=r"tiny: .*role `weights`.* needs an export --with-weights"):
        backend.load("tiny", bare)


def test_an_artifact_that_takes_tensors_is_refused(backend: TorchBackend, artifact: Artifact) -> None:
    with pytest.raises(BackendFault, match="expected an artifact that takes images, found io `tensor`"):
        backend.load("tiny", Artifact(artifact.directory, replace(artifact.manifest, io="tensor")))


def test_a_damaged_file_is_a_fault_that_names_it(backend: TorchBackend, artifact: Artifact) -> None:
    artifact.file("weights").write_bytes(b"no tensors")
    with pytest.raises(BackendFault, match=r"tiny: .*weights\.safetensors: not a readable") as caught:
        backend.load("tiny", artifact)
    assert not caught.value.fatal


def test_arrays_that_do_not_fit_are_a_fault_of_the_batch(backend: TorchBackend, artifact: Artifact) -> None:
    backend.load("tiny", artifact)
    with pytest.raises(BackendFault, match="tiny: a batch of 1 failed: BiRefNet needs") as caught:
        backend.run("tiny", {"image": np.zeros((1, 8, 8, 3), np.uint8)})
    assert not caught.value.fatal
    assert backend.run("tiny", {"image": np.zeros((1, *SIZE, 3), np.uint8)})["alpha"].shape == (1, *SIZE)


def test_a_refiner_runs_from_its_weights(backend: TorchBackend, tmp_path: Path) -> None:
    refiner = refine_artifact(tmp_path)
    assert backend.load("refiner", refiner) == "fp32"
    side = refiner.manifest.input_size[0]
    rng = np.random.default_rng(0)
    tiles: dict[str, NDArray[Any]] = {
        "image": rng.integers(0, 256, (1, side, side, 3), dtype=np.uint8),
        "mask": rng.random((1, side, side), dtype=np.float32),
        "frame": np.array([[0, 0, side, side, 80, 8]], np.float32),
    }
    found = backend.run("refiner", tiles)["alpha"]
    answer = refiner.manifest.outputs[0].shape[1]
    window = TileWindow(side, torch.tensor([[40, 4]]), int(answer))
    image = torch.from_numpy(tiles["image"]).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        frame = torch.from_numpy(tiles["frame"][:, :4])
        expected = small_refiner().answer(image, torch.from_numpy(tiles["mask"]), frame, window)
    assert found.shape == (1, answer, answer)
    np.testing.assert_array_equal(found, expected.numpy())


def test_a_refiner_without_weights_runs_all_the_same(backend: TorchBackend) -> None:
    refiner = embedded_refiner().artifact
    assert backend.load("refiner", refiner) == "fp32"
    side = refiner.manifest.input_size[0]
    tiles: dict[str, NDArray[Any]] = {
        "image": np.zeros((1, side, side, 3), np.uint8),
        "mask": np.zeros((1, side, side), np.float32),
        "frame": np.array([[0, 0, side, side, 0, 0]], np.float32),
    }
    answer = refiner.manifest.outputs[0].shape[1]
    assert backend.run("refiner", tiles)["alpha"].shape == (1, answer, answer)
    backend.unload("refiner")
    with pytest.raises(BackendFault, match="refiner is not loaded"):
        backend.run("refiner", tiles)
    backend.close()


def test_loading_again_replaces(backend: TorchBackend, artifact: Artifact, tmp_path: Path) -> None:
    backend.load("one", artifact)
    shutil.rmtree(artifact.directory)
    with pytest.raises(BackendFault):
        backend.load("one", artifact)
    with pytest.raises(BackendFault, match="one is not loaded"):
        backend.run("one", {"image": np.zeros((1, *SIZE, 3), np.uint8)})


def test_asking_for_a_gpu_that_is_not_there_fails_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BackendFault, match=r"expected CUDA device 1, but torch .* sees no GPUs"):
        TorchBackend(TorchOptions(threads=1, cuda_device=1))
    allowed = TorchBackend(TorchOptions(threads=1, cuda_device=1, allow_cpu=True))
    assert allowed.device.name == "torch-cpu"


def test_a_gpu_beyond_the_last_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(BackendFault, match=r"expected CUDA device 2, but torch .* sees 2 GPUs"):
        TorchBackend(TorchOptions(threads=1, cuda_device=2))


@pytest.mark.parametrize(
    ("error", "kind", "fatal"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), OutOfMemoryFault, False),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"), OutOfMemoryFault, False),
        (RuntimeError("CUDA error: an illegal memory access was encountered\nCUDA kernel"), BackendFault, True),
        (RuntimeError("CUDA error: device-side assert triggered"), BackendFault, True),
        (RuntimeError("CUDA error: unspecified launch failure"), BackendFault, True),
        (RuntimeError("The size of tensor a (3) must match"), BackendFault, False),
        (MemoryError(), OutOfMemoryFault, False),
        (ValueError("expected something else"), BackendFault, False),
        (OutOfResources(300_000, 232_448, "shared memory"), BackendFault, False),
    ],
)
def test_errors_are_told_apart(error: Exception, kind: type[BackendFault], fatal: bool) -> None:
    with (
        pytest.raises(BackendFault, match=r"^tiny: a batch of 1 failed: ") as caught,
        _translated("tiny: a batch of 1 failed"),
    ):
        raise error
    assert type(caught.value) is kind
    assert caught.value.fatal is fatal
    assert "\n" not in str(caught.value)


async def test_streams_are_device_threads_on_one_queue() -> None:
    settings = Settings(backend="torch", gpu_streams=2, refiner="none")
    engine = compose(settings, FakeBackend).engine
    await engine.start({})
    assert len(engine.devices) == 2
    await engine.close()


async def test_each_gpu_that_is_named_has_a_thread() -> None:
    engine = compose(Settings(backend="fake", gpus=(1, 3), refiner="none")).engine
    await engine.start({})
    assert [device.name for device in engine.devices] == ["fake:1", "fake:3"]
    await engine.close()


@pytest.mark.parametrize("settings", [{"gpus": (2,)}, {"gpus": (2,), "device": "cuda"}], ids=["auto", "cuda"])
@pytest.mark.parametrize("backend", ["torch", "ort"])
def test_a_gpu_that_is_named_is_used_or_the_start_fails(backend: str, settings: dict[str, Any]) -> None:
    if torch.cuda.device_count() > 2:
        pytest.skip("there is such a GPU")
    make = _backend_maker(Settings.model_validate({"backend": backend, **settings}), 2)
    with pytest.raises(BackendFault, match="expected CUDA device 2"):
        make()


def test_the_backend_that_is_asked_for_is_made() -> None:
    """In the thread of its device, and not before."""
    settings = Settings(backend="torch", device="cpu", threads=1)
    made = _backend_maker(settings, 0)()
    assert made.device.name == "torch-cpu"

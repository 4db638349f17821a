"""What only a GPU can show. `python -m pytest -m gpu`; deselected elsewhere."""

import asyncio
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from artifact import SELF_TEST_ROLE, Artifact, Manifest, NewFile, TensorSpec, Tolerance, refiner_tensors, write_artifact
from matting.refinement import TileShape
from model_export.refiner.tiles import tile_inputs
from model_export.sample_inputs import sample_inputs, subject
from modeling.birefnet.config import SWIN_T
from modeling.contract import ImageToAlpha
from modeling.crm.weights import save_refiner
from modeling.deform_conv import deform_conv2d
from modeling.fused import fuse
from modeling.weights import load_network, save_state
from server.backends.base import Arrays, BackendFault, OutOfMemoryFault
from server.backends.ort import OrtBackend, OrtOptions, has_cuda
from server.backends.torch_cuda import TorchBackend, TorchOptions
from server.engine import Engine, EngineLimits, Item
from server.engine.warmup import Search, warm_up
from server.observability.metrics import Metrics
from server.pipeline.refiner import embedded_refiner
from tests.support.backends import counted
from tests.support.crm import small_refiner
from tests.support.deform_cases import geometry_of, operands
from tests.support.kernels import fused
from tests.support.networks import seeded_network
from tests.support.processes import ROOT
from tests.support.tolerance import (
    BATCH_ALPHA,
    CRM_TILES,
    DEFORM_CONV_FP32,
    FUSED_FP16_RELATIVE,
    FUSED_FP32,
    HALF_ALPHA_MAX,
    HALF_ALPHA_MEAN,
)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU"),
    pytest.mark.filterwarnings("ignore:.*TF32.*"),  # newer versions would rather be told in another way
]

CHECKPOINT = ROOT / "training" / "checkpoints" / "compact.safetensors"
SIZE = (256, 320)
CUDA = torch.device("cuda")
BATCHES = ((0, 1), (1, 3), (4, 1), (0, 3), (5, 2), (2, 3), (7, 1))
"""First item and size: every size that comes again comes with other items."""


@pytest.fixture(autouse=True)
def exact() -> Iterator[None]:
    """No TF32, which torch allows convolutions by default."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


def decoder_case(kernel: int) -> dict[str, Any]:
    return {"kernel": (kernel, kernel), "padding": (kernel // 2, kernel // 2), "size": (61, 131), "spread": 5.0}


@pytest.mark.parametrize("kernel", [1, 3, 7])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_the_kernel_is_the_reference_on_maps_of_a_real_size(kernel: int, dtype: torch.dtype) -> None:
    case = decoder_case(kernel)
    generator = torch.Generator().manual_seed(kernel)
    _, offset, mask, _, _ = operands(**case, dtype=torch.float32)
    x = torch.randn(2, 64, 61, 131, generator=generator)
    weight = torch.randn(256, 64, kernel, kernel, generator=generator) / (8 * kernel)
    bias = torch.randn(256, generator=generator)
    logits = torch.logit(mask / 2).to(dtype).float()
    rounded = [each.to(dtype).float() for each in (x, offset)]
    tensors = (*rounded, 2 * torch.sigmoid(logits), weight.to(dtype).float(), bias)
    truth = deform_conv2d(*(each.double() for each in tensors), **geometry_of(case))
    found = fused(case, tensors, dtype)
    if dtype == torch.float32:
        torch.testing.assert_close(found, truth.float(), rtol=0, atol=FUSED_FP32)
    else:
        assert (found.double() - truth).norm() < FUSED_FP16_RELATIVE * truth.norm()


@pytest.mark.parametrize("kernel", [1, 3, 7])
def test_the_reference_is_torchvisions_cuda_operator(kernel: int) -> None:
    stock = pytest.importorskip("torchvision.ops").deform_conv2d
    case = decoder_case(kernel)
    x, offset, mask, weight, bias = (each.to(CUDA) for each in operands(**case, dtype=torch.float32))
    theirs = stock(x, offset, weight, bias, padding=kernel // 2, mask=mask)
    ours = deform_conv2d(x, offset, mask, weight, bias, **geometry_of(case))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=DEFORM_CONV_FP32)
    kernels = fused(case, tuple(each.cpu() for each in (x, offset, mask, weight, bias)), torch.float32)
    torch.testing.assert_close(kernels, theirs.cpu(), rtol=0, atol=DEFORM_CONV_FP32)


@torch.inference_mode()
def test_the_embedded_model_in_half_precision_on_photographs() -> None:
    network = load_network(CHECKPOINT)
    plain, half = ImageToAlpha(network).to(CUDA), ImageToAlpha(fuse(network)).to(CUDA)
    for name, image in sample_inputs((512, 512)):
        pixels = torch.from_numpy(image[None]).to(CUDA)
        error = (half(pixels).float() - plain(pixels)).abs()
        assert error.max() < HALF_ALPHA_MAX, name
        assert error.mean() < HALF_ALPHA_MEAN, name


@torch.inference_mode()
def test_windows_of_seven_are_the_plain_ones_in_full_precision() -> None:
    network = seeded_network(SWIN_T)
    image = torch.from_numpy(subject(*SIZE)[None]).to(CUDA)
    found = ImageToAlpha(fuse(network, torch.float32)).to(CUDA)(image)
    torch.testing.assert_close(found, ImageToAlpha(network).to(CUDA)(image), rtol=0, atol=1e-4)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """The embedded model's weights and a self-test from the plain network."""
    folder = tmp_path_factory.mktemp("embedded")
    network = load_network(CHECKPOINT)
    save_state(network, folder / "weights.safetensors")
    image = subject(*SIZE)[None]
    with torch.inference_mode():
        alpha = ImageToAlpha(network)(torch.from_numpy(image)).numpy()
    np.savez(folder / "self_test.npz", image=image, alpha=alpha)
    manifest = Manifest(
        name="embedded",
        kind="matte",
        inputs=(TensorSpec("image", "uint8", ("batch", *SIZE, 3)),),
        outputs=(TensorSpec("alpha", "float32", ("batch", *SIZE)),),
        input_size=SIZE,
        max_batch=8,
        backbone="compact",
        licence="MIT",
        self_test={"fp16": Tolerance(HALF_ALPHA_MAX, HALF_ALPHA_MEAN)},
    )
    files = {
        "weights": NewFile(folder / "weights.safetensors", "weights.safetensors", "fp32"),
        SELF_TEST_ROLE: NewFile(folder / "self_test.npz", "self_test.npz"),
    }
    return write_artifact(folder / "artifact", manifest, files)


@pytest.fixture
def backend() -> Iterator[TorchBackend]:
    made = TorchBackend(TorchOptions(threads=1, cuda_device=0))
    yield made
    made.close()


def images(count: int) -> NDArray[np.uint8]:
    return np.stack([subject(*SIZE, shift=9 * index) for index in range(count)])


def alpha_of(backend: TorchBackend, pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
    """A copy: what a backend gives holds until its next run."""
    return backend.run("embedded", {"image": pictures})["alpha"].astype(np.float32)


def test_the_backend_warms_up_and_passes_its_self_test(backend: TorchBackend, artifact: Artifact) -> None:
    assert backend.device.name == "torch-cuda:0"
    steps = warm_up(backend, "embedded", artifact, Search(5))
    while True:
        try:
            next(steps)
        except StopIteration as end:
            warm = end.value
            break
    assert warm.precision == "fp16"
    assert warm.max_batch == 5
    assert warm.deviation.passed


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="torch sees one GPU")
async def test_two_gpus_behind_one_queue_answer_alike(artifact: Artifact) -> None:
    def maker(index: int) -> Callable[[], TorchBackend]:
        return lambda: TorchBackend(TorchOptions(threads=1, cuda_device=index))

    metrics = Metrics()
    engine = Engine([maker(0), maker(1)], EngineLimits(max_batch=2), metrics)
    await engine.start({"embedded": artifact})
    pictures = images(2)
    items = [Item("embedded", {"image": pictures[index % 2]}, SIZE) for index in range(32)]
    outcomes = await asyncio.gather(*(engine.submit(item) for item in items))
    alphas = [outcome.arrays["alpha"].astype(np.float32) for outcome in outcomes]
    for index, alpha in enumerate(alphas):
        np.testing.assert_allclose(alpha, alphas[index % 2], rtol=0, atol=HALF_ALPHA_MAX)
    for name in ("torch-cuda:0", "torch-cuda:1"):
        assert counted(metrics, "birefnet_device_batches_total", device=name) > 0
    await engine.close()


def test_a_batch_equals_its_images_one_by_one(backend: TorchBackend, artifact: Artifact) -> None:
    backend.load("embedded", artifact)
    pictures = images(7)
    together = alpha_of(backend, pictures)
    alone = np.concatenate([alpha_of(backend, each[None]) for each in pictures])
    # Other batches choose other kernels, whose half-precision sums round differently.
    np.testing.assert_allclose(together, alone, rtol=0, atol=HALF_ALPHA_MAX)
    assert np.abs(together - alone).mean() < HALF_ALPHA_MEAN
    np.testing.assert_array_equal(alpha_of(backend, pictures), together)


@torch.inference_mode()
def test_a_graph_gives_what_the_same_kernels_give_eagerly(backend: TorchBackend, artifact: Artifact) -> None:
    backend.load("embedded", artifact)
    pictures = images(4)
    captured = alpha_of(backend, pictures)
    network = backend._runners["embedded"]._network  # type: ignore[attr-defined]  # the very one that was captured
    eager = network(torch.from_numpy(pictures).to(CUDA)).cpu().numpy()
    np.testing.assert_array_equal(captured, eager)


def test_a_batch_without_room_is_told_from_a_lost_device(backend: TorchBackend, artifact: Artifact) -> None:
    backend.load("embedded", artifact)
    before = alpha_of(backend, images(1))
    total = torch.cuda.get_device_properties(0).total_memory
    room = torch.cuda.memory_reserved() + (64 << 20)
    torch.cuda.set_per_process_memory_fraction(room / total)
    try:
        with pytest.raises(OutOfMemoryFault, match="a batch of 64 failed"):
            backend.run("embedded", {"image": images(64)})
        after = alpha_of(backend, images(1))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    np.testing.assert_array_equal(after, before)
    assert backend.run("embedded", {"image": images(64)})["alpha"].shape == (64, *SIZE)


LOSE_THE_DEVICE = """
import torch
from server.backends.base import BackendFault
from server.backends.torch_cuda.backend import _translated
try:
    with _translated("x"):
        torch.zeros(4, device="cuda")[torch.tensor([9], device="cuda")].cpu()
except BackendFault as fault:
    print("fatal" if fault.fatal else "not fatal", fault, flush=True)
"""


def test_a_lost_device_is_fatal() -> None:
    """In a process of its own: nothing runs on the device after it."""
    command = [sys.executable, "-c", LOSE_THE_DEVICE]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)  # it may not end well either
    assert done.stdout.startswith("fatal x: "), done.stderr[-2000:]


def test_a_refiner_runs_as_a_graph(backend: TorchBackend, tmp_path: Path) -> None:
    tile = TileShape(64, 8)
    side, answer = tile.side, tile.answer
    inputs, outputs = refiner_tensors(side, answer)
    save_refiner(small_refiner(), tmp_path / "small.safetensors")
    manifest = Manifest(
        name="refiner",
        kind="refine",
        inputs=inputs,
        outputs=outputs,
        input_size=(side, side),
        max_batch=8,
        backbone="crm-small",
        licence="MIT",
        halo=8,
    )
    weights = NewFile(tmp_path / "small.safetensors", "weights.safetensors", "fp32")
    backend.load("refiner", write_artifact(tmp_path / "refiner", manifest, {"weights": weights}))
    rng = np.random.default_rng(0)
    tiles: dict[str, NDArray[Any]] = {
        "image": rng.integers(0, 256, (3, side, side, 3), dtype=np.uint8),
        "mask": rng.random((3, side, side), dtype=np.float32),
        "frame": np.array([[0, 0, side, side, 0, 0], [32, 64, 512, 300, 8, 16], [0, 64, 128, 128, 16, 8]], np.float32),
    }
    found = backend.run("refiner", tiles)["alpha"].astype(np.float32)
    with torch.no_grad():
        image = torch.from_numpy(tiles["image"]).permute(0, 3, 1, 2).float() / 255
        whole = small_refiner()(image, torch.from_numpy(tiles["mask"]), torch.from_numpy(tiles["frame"][:, :4])).numpy()
    for alpha, truth, (top, left) in zip(found, whole, tiles["frame"][:, 4:].astype(int), strict=True):
        expected = truth[top : top + answer, left : left + answer]
        np.testing.assert_allclose(alpha, expected, rtol=0, atol=CRM_TILES + BATCH_ALPHA)


def alpha_in(outputs: Arrays) -> NDArray[np.float32]:
    return outputs["alpha"].astype(np.float32)


@pytest.mark.skipif(not has_cuda(), reason="this ONNX Runtime has no CUDA")
def test_a_refiner_in_onnx_runtime_answers_the_same_again_and_in_other_batches() -> None:
    """As a graph, which is recorded once for each batch size: what it read then must be there when it is replayed."""
    refiner = embedded_refiner()
    cpu, gpu = OrtBackend(OrtOptions(threads=4)), OrtBackend(OrtOptions(threads=1, cuda_device=0))
    pixels = np.stack([image for _, image in sample_inputs((256, 256))])  # whose windows lie in different places
    for backend in (cpu, gpu):
        backend.load("refiner", refiner.artifact)
    for start, size in BATCHES:
        tiles = tile_inputs(pixels[start : start + size], refiner.shape.answer)
        expected, found = (alpha_in(backend.run("refiner", tiles)) for backend in (cpu, gpu))
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3)


def test_a_gpu_that_is_not_there_is_refused() -> None:
    with pytest.raises(BackendFault, match=r"expected CUDA device 99, but torch .* sees"):
        TorchBackend(TorchOptions(threads=1, cuda_device=99))


def test_tuned_kernels_give_the_same_answers(artifact: Artifact) -> None:
    tuned, shipped = (TorchBackend(TorchOptions(1, cuda_device=0, tune=tune)) for tune in (True, False))
    found = []
    for each in (tuned, shipped):
        each.load("embedded", artifact)
        found.append(alpha_of(each, images(2)))
        each.close()
    np.testing.assert_allclose(found[0], found[1], rtol=0, atol=HALF_ALPHA_MAX)

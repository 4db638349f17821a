"""Exported artifacts answer what their networks answer, batched or not, and say of themselves what they are."""

import collections
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray

import model_export.onnx_export
from artifact import Artifact, load_self_test, open_artifact
from matting.geometry import fit
from model_export.__main__ import main
from model_export.graph import write_graph
from model_export.runner import NetworkRunner, OnnxRunner
from model_export.sample_inputs import sample_inputs
from model_export.traceable import traceable
from modeling.birefnet.config import SWIN_L, SWIN_T, BiRefNetConfig
from modeling.birefnet.network import BiRefNet
from tests.support import images
from tests.support.networks import TINY_RESNET, seeded_network, tiny_network
from tests.support.tolerance import BATCH_ALPHA, EXPORT_ALPHA

SIZE = (96, 64)


def batch_of(count: int, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Different pictures: photographs, then noise."""
    pictures = [fit(photograph, size) for photograph in images.photographs().values()]
    return np.stack([*pictures, *(images.noise(*size, seed) for seed in range(count))][:count])


def assert_equal_to_network(graph: Path, network: BiRefNet, size: tuple[int, int], batches: tuple[int, ...]) -> None:
    runner, reference = OnnxRunner(graph), NetworkRunner(network, torch.float64)
    largest = batch_of(max(batches), size)
    truth = reference(largest)
    assert truth.std() > 0.05
    for batch in batches:
        alpha = runner(largest[:batch])
        assert alpha.shape == (batch, *size)
        assert alpha.dtype == np.float32
        assert np.abs(alpha - truth[:batch]).max() < EXPORT_ALPHA
    alone = np.concatenate([runner(image[None]) for image in largest])
    assert np.abs(runner(largest) - alone).max() < BATCH_ALPHA


def test_the_tiny_network(tiny_export: Artifact) -> None:
    assert_equal_to_network(tiny_export.file("model"), tiny_network(), SIZE, (1, 2, 4, 5))


@pytest.mark.parametrize(
    "config", [SWIN_T, pytest.param(SWIN_L, marks=pytest.mark.slow)], ids=["swin_v1_t", "swin_v1_l"]
)
def test_released_architectures_at_256(config: BiRefNetConfig, tmp_path: Path) -> None:
    network = seeded_network(config)
    write_graph(traceable(network), (256, 256), tmp_path / "model.onnx", {})
    assert_equal_to_network(tmp_path / "model.onnx", network, (256, 256), (1, 4))
    graph = onnx.load(tmp_path / "model.onnx").graph
    assert collections.Counter(node.op_type for node in graph.node)["DeformConv"] == 20


def test_a_residual_backbone(tmp_path: Path) -> None:
    network = seeded_network(TINY_RESNET)
    write_graph(traceable(network), SIZE, tmp_path / "model.onnx", {})
    assert_equal_to_network(tmp_path / "model.onnx", network, SIZE, (1, 4))


def operators(artifact: Artifact) -> collections.Counter[str]:
    graph = onnx.load(artifact.file("model")).graph
    return collections.Counter(node.op_type for node in graph.node)


def test_the_graph_is_clean(tiny_export: Artifact) -> None:
    """Native deformable convolutions with biases; no BatchNorm, no mask building, nothing computed per map size."""
    found = operators(tiny_export)
    assert found["DeformConv"] == 15
    forbidden = {"BatchNormalization", "ScatterND", "ScatterElements", "Where", "GatherND", "GridSample", "Range"}
    assert not forbidden & set(found)
    assert not {"NonZero", "Loop", "If", "ConstantOfShape", "Expand", "Less", "Equal"} & set(found)
    model = onnx.load(tiny_export.file("model"))
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 20)]
    assert not model.functions
    initialisers = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "DeformConv":
            assert len(node.input) == 5
            assert tuple(initialisers[node.input[3]].dims) == (8,)


def test_the_graph_has_the_contract(tiny_export: Artifact) -> None:
    session = onnxruntime.InferenceSession(tiny_export.file("model"), providers=["CPUExecutionProvider"])
    (taken,), (given,) = session.get_inputs(), session.get_outputs()
    assert (taken.name, taken.type, taken.shape) == ("image", "tensor(uint8)", ["batch", 96, 64, 3])
    assert (given.name, given.type, given.shape) == ("alpha", "tensor(float)", ["batch", 96, 64])
    metadata = session.get_modelmeta().custom_metadata_map
    assert metadata["licence"] == "MIT"
    assert metadata["checkpoint_sha256"] == tiny_export.manifest.origin["sha256"]


def test_the_manifest_says_what_it_is(tiny_export: Artifact) -> None:
    manifest = tiny_export.manifest
    assert (manifest.name, manifest.kind, manifest.licence) == ("tiny", "matte", "MIT")
    assert (manifest.input_size, manifest.max_batch, manifest.patch_order) == (SIZE, 8, "current")
    assert manifest.backbone == "swin_v1_e8d1-2-1-1w4"
    assert manifest.inputs[0].shape == ("batch", 96, 64, 3)
    assert manifest.origin["statement"] == "seeded"
    assert manifest.files["model"].precision == "fp32"
    parity = manifest.parity["model"]
    assert parity["passed"]
    assert parity["batch"]["size"] == 4
    assert {"subject", "black", "white", "noise", "one pixel off", "astronaut"} <= set(parity["network"]["inputs"])


def test_the_self_test_holds_the_networks_answer(tiny_export: Artifact) -> None:
    self_test = load_self_test(tiny_export)
    image = np.asarray(self_test.inputs["image"], dtype=np.uint8)
    assert image.std() > 20
    alpha = OnnxRunner(tiny_export.file("model"))(image)
    assert self_test.compare({"alpha": alpha}).passed
    assert not self_test.compare({"alpha": alpha[:, ::-1]}).passed


def test_alpha_is_within_bounds_on_hard_inputs(tiny_export: Artifact) -> None:
    runner = OnnxRunner(tiny_export.file("model"))
    for _, image in sample_inputs(SIZE):
        alpha = runner(image[None])
        assert np.isfinite(alpha).all()
        assert 0.0 <= alpha.min() <= alpha.max() <= 1.0


def test_exporting_again_replaces_the_artifact_alone(
    tiny_export: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the graph of the first export, whose tracing takes most of the time."""

    def copied(_: object, size: tuple[int, int], path: Path, metadata: dict[str, str]) -> None:
        assert (size, metadata["name"]) == (SIZE, "again")
        shutil.copy(tiny_export.file("model"), path)

    monkeypatch.setattr(model_export.onnx_export, "write_graph", copied)
    shutil.copytree(tiny_export.directory, tmp_path / "tiny")
    (tmp_path / "tiny" / "CARD.md").write_text("a card")
    checkpoint = str(tiny_export.manifest.origin["source"])
    assert main(["onnx", checkpoint, "-o", str(tmp_path / "tiny"), "--size", "96x64", "--name", "again"]) == 0
    names = sorted(path.name for path in (tmp_path / "tiny").iterdir())
    assert names == ["CARD.md", "model.json", "model.onnx", "self_test.npz"]
    again = open_artifact(tmp_path / "tiny")
    assert (again.manifest.name, again.manifest.licence) == ("again", "unspecified")
    assert again.sha256 == tiny_export.sha256

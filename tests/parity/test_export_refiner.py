"""Exported refiners answer what their networks answer, batched or not, and say of themselves what they are."""

import collections
import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch.nn import functional as F

from artifact import Artifact, load_self_test, open_artifact
from matting.refinement import TileShape
from matting.refinement.tiles import cut, plan
from model_export.__main__ import FAILED, OUT_OF_TOLERANCE, main
from model_export.refiner.runner import RefinerNetworkRunner, RefinerOnnxRunner
from model_export.refiner.tiles import tile_inputs
from model_export.refiner.traceable import traceable_refiner
from model_export.sample_inputs import sample_inputs
from modeling.crm.alignment import whole_frame
from modeling.crm.colour_cue import CELL
from modeling.crm.receptive_field import halo
from modeling.crm.weights import save_refiner
from server.backends.ort import OrtBackend, OrtOptions
from server.backends.torch_cuda import TorchBackend, TorchOptions
from tests.support.crm import SMALL, THIN_RESNET50, picture, seeded_refiner, small_refiner, soft_mask
from tests.support.tolerance import BATCH_ALPHA, EXPORT_ALPHA
from training.refiner.harmless import PHOTOGRAPHS, Harm, default_artifacts, measure_harm, record_harm

TILE = 96
ANSWER = TILE - 2 * halo(SMALL)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("refiner") / "small.safetensors"
    save_refiner(small_refiner(), path)
    return path


@pytest.fixture(scope="module")
def exported(checkpoint: Path) -> Artifact:
    target = checkpoint.parent / "artifact"
    options = ["--tile", str(TILE), "--licence", "MIT", "--origin", "seeded", "--max-batch", "6", "--with-weights"]
    assert main(["refiner", str(checkpoint), "-o", str(target), *options]) == 0
    return open_artifact(target)


def images() -> np.ndarray:
    return np.stack([image for _, image in sample_inputs((TILE, TILE))])


def test_it_computes_what_the_network_computes(exported: Artifact):
    truth = RefinerNetworkRunner(small_refiner(), ANSWER)(images())
    runner = RefinerOnnxRunner(exported.file("model"))
    alpha = runner(images())
    assert truth.std() > 0.05
    assert np.abs(alpha - truth).max() < EXPORT_ALPHA
    alone = np.concatenate([runner(image[None]) for image in images()])
    assert np.abs(alpha - alone).max() < BATCH_ALPHA


def test_the_torch_backend_runs_its_weights(exported: Artifact):
    torch_backend, ort_backend = TorchBackend(TorchOptions(threads=1)), OrtBackend(OrtOptions(threads=1))
    inputs = tile_inputs(images()[:2], ANSWER)
    alphas = []
    for backend in (torch_backend, ort_backend):
        assert backend.load("refiner", exported) == "fp32"
        alphas.append(backend.run("refiner", inputs)["alpha"].astype(np.float32))
    np.testing.assert_allclose(alphas[0], alphas[1], rtol=0, atol=EXPORT_ALPHA)


def test_the_frame_matters(exported: Artifact):
    """Positions are the canvas's: the same tile elsewhere has another answer, in graph and network alike."""
    inputs = tile_inputs(images()[:1], ANSWER)
    moved = {**inputs, "frame": np.array([[0, 0, TILE, TILE, *inputs["frame"][0, 4:]]], np.float32)}
    runner = RefinerOnnxRunner(exported.file("model"))
    first, second = runner.run(inputs), runner.run(moved)
    assert np.abs(first - second).max() > 1e-3
    assert np.abs(second - RefinerNetworkRunner(small_refiner(), ANSWER).run(moved)).max() < EXPORT_ALPHA


@pytest.mark.parametrize(("height", "width"), [(136, 158), (89, 96), (104, 20), (60, 1), (1, 130)])
def test_tiles_of_the_graph_are_the_whole_of_the_network(exported: Artifact, height: int, width: int):
    """What a server does, cut by the manifest's halo, is the network on the whole picture, its borders included.

    A canvas that is smaller than a tile is continued to it, as one that is no multiple of 8 is to that.
    """
    margin = exported.manifest.halo
    assert margin == halo(SMALL)
    image = (picture(height, width) * 255).round().byte()
    mask = soft_mask(height, width)
    with torch.no_grad():
        more = (0, max(0, TILE - width), 0, max(0, TILE - height))
        extended, soft = (F.pad(each, more, mode="replicate") for each in (image / 255, mask[:, None]))
        whole = small_refiner()(extended, soft[:, 0], whole_frame(1, (height, width)))[0, :height, :width].numpy()
    pixels = image[0].permute(1, 2, 0).numpy()
    runner = RefinerOnnxRunner(exported.file("model"))
    places, _ = plan((height, width), TileShape(TILE, margin), np.ones((height, width), np.uint8))
    found = np.full((height, width), np.nan, np.float32)
    for place in places:
        tile = cut(pixels, mask[0].numpy(), place, TILE)
        alpha = runner.run({"image": tile.image[None], "mask": tile.mask[None], "frame": tile.frame[None]})[0]
        found[place.cell] = alpha[place.inner]
    assert len(places) >= height * width / ANSWER**2
    assert np.abs(found - whole).max() < EXPORT_ALPHA


def test_the_manifest_says_what_it_is(exported: Artifact):
    manifest = exported.manifest
    assert (manifest.name, manifest.kind, manifest.io, manifest.licence) == ("small", "refine", "image", "MIT")
    assert (manifest.input_size, manifest.max_batch, manifest.patch_order) == ((TILE, TILE), 6, None)
    assert [(each.name, each.dtype, each.shape) for each in manifest.inputs] == [
        ("image", "uint8", ("batch", TILE, TILE, 3)),
        ("mask", "float32", ("batch", TILE, TILE)),
        ("frame", "float32", ("batch", 6)),
    ]
    assert [(each.name, each.shape) for each in manifest.outputs] == [("alpha", ("batch", ANSWER, ANSWER))]
    parity = manifest.parity["model"]
    assert parity["passed"]
    assert parity["deterministic"]
    assert {"subject", "black", "white", "noise"} <= set(parity["network"]["inputs"])


def test_the_self_test_tells_right_from_wrong(exported: Artifact):
    self_test = load_self_test(exported)
    alpha = RefinerOnnxRunner(exported.file("model")).run(self_test.inputs)
    assert self_test.compare({"alpha": alpha}).passed
    assert not self_test.compare({"alpha": np.asarray(self_test.inputs["mask"])[:, :ANSWER, :ANSWER]}).passed


def test_the_graph_is_clean(exported: Artifact):
    """Stencils and norms are constants, and no pooling has a large window, as ONNX Runtime adds up each anew."""
    nodes = onnx.load(exported.file("model")).graph.node
    found = collections.Counter(node.op_type for node in nodes)
    forbidden = {"BatchNormalization", "Floor", "ScatterND", "GridSample", "Loop", "If"}
    # Neither what a GPU's graph cannot hold (https://github.com/microsoft/onnxruntime/issues/32120).
    forbidden |= {"GatherND", "Range", "Split"}
    assert not forbidden & set(found), found
    windows = [each.ints for node in nodes if node.op_type == "AveragePool" for each in node.attribute if each.ints]
    assert windows
    assert all(max(window) <= CELL for window in windows)


def test_folding_leaves_the_network_as_it_was():
    for config in (SMALL, THIN_RESNET50):
        network = seeded_refiner(config)
        before = {key: value.clone() for key, value in network.state_dict().items()}
        image, mask = picture(TILE, TILE), soft_mask(TILE, TILE)
        with torch.no_grad():
            plain = network((image * 255).round() / 255, mask)
            folded = traceable_refiner(network, TILE)(
                (image * 255).round().byte().permute(0, 2, 3, 1), mask, torch.tensor([[0.0, 0.0, TILE, TILE, 0.0, 0.0]])
            )
        assert (plain - folded).abs().max() < EXPORT_ALPHA
        assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_verify_proves_it_again_and_finds_a_foreign_network(
    exported: Artifact, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    copy = tmp_path / "copy"
    shutil.copytree(exported.directory, copy)
    assert main(["verify", str(copy)]) == 0
    assert "within tolerance" in capsys.readouterr().out
    other = tmp_path / "other.safetensors"
    save_refiner(seeded_refiner(SMALL, seed=1), other)
    assert main(["verify", str(copy), "--source", str(other)]) == OUT_OF_TOLERANCE
    assert not open_artifact(copy).manifest.parity["model"]["passed"]


def test_harm_on_photographs_is_counted_and_recorded(exported: Artifact, tmp_path: Path):
    """The manifest says how many became worse, beside everything else in it."""
    copy = tmp_path / "copy"
    shutil.copytree(exported.directory, copy)
    names = PHOTOGRAPHS[-1:]
    found = measure_harm(open_artifact(default_artifacts()[0]), open_artifact(copy), names)
    assert [each.name for each in found] == ["rocket", "rocket, sharp"]
    assert all(each.upsampled > 0 for each in found)
    refined = sum(each.tiles > 0 for each in found)
    assert found[1].tiles > 0, "what is sharp is refined"
    made_up = [Harm("worse", 0.1, 0.2, 1), Harm("as before", 0.2, 0.2, 1), Harm("not refined", 0.2, 0.2, 0)]
    record_harm(open_artifact(copy), [*found, *made_up], "here")
    manifest = open_artifact(copy).manifest
    worse = 1 + sum(each.refined > each.upsampled for each in found)
    assert manifest.extra["no_harm"] == {"images": refined + 2, "worse": worse, "command": "here"}
    assert manifest.parity == exported.manifest.parity


def test_a_refiner_of_another_contract_is_refused_in_words(
    exported: Artifact, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    copy = tmp_path / "copy"
    shutil.copytree(exported.directory, copy)
    manifest = json.loads((copy / "model.json").read_text())
    manifest["halo"] = 48
    (copy / "model.json").write_text(json.dumps(manifest))
    assert main(["verify", str(copy)]) == FAILED
    assert "export the refiner anew, or copy the package's again" in capsys.readouterr().err


@pytest.mark.parametrize(("tile", "expected"), [(100, "multiple of 8"), (80, "both halos, 80")])
def test_a_tile_that_cannot_be_is_refused(
    checkpoint: Path, tmp_path: Path, tile: int, expected: str, capsys: pytest.CaptureFixture[str]
):
    assert main(["refiner", str(checkpoint), "-o", str(tmp_path / "no"), "--tile", str(tile)]) == FAILED
    assert expected in capsys.readouterr().err
    assert not (tmp_path / "no").exists()


def test_what_is_no_refiner_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    from tests.support.networks import tiny_checkpoint

    source = tiny_checkpoint(tmp_path)
    assert main(["refiner", str(source), "-o", str(tmp_path / "no")]) == FAILED
    assert "expected a refiner's configuration" in capsys.readouterr().err

"""`birefnet-export adopt`: other people's files become artifacts that serve, or a clear refusal."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from artifact import Artifact, open_artifact
from matting.normalisation import DEVIATION, MEAN
from model_export.__main__ import main
from model_export.runner import OnnxRunner
from model_export.sample_inputs import subject
from server.backends.ort import OrtBackend, OrtOptions

SIZE = (64, 96)


def published(
    path: Path,
    *,
    batch: int | str = "N",
    baked: int | None = None,
    size: tuple[int | str, int | str] = SIZE,
    logits: bool = True,
    dtype: int = TensorProto.FLOAT,
    extra_input: bool = False,
) -> Path:
    """A file as others publish them: side outputs before the matte; a 3x3 convolution stands for the network."""
    kind = np.float16 if dtype == TensorProto.FLOAT16 else np.float32
    kernel = np.random.default_rng(7).normal(0, 0.6, (1, 3, 3, 3)).astype(kind)
    nodes = [
        helper.make_node("Conv", ["x", "kernel"], ["side"], pads=[1, 1, 1, 1]),
        helper.make_node("Mul", ["side", "two"], ["logits"]),
    ]
    constants = {"kernel": kernel, "two": np.array(2, kind)}
    last = "logits"
    if not logits:
        nodes.append(helper.make_node("Sigmoid", ["logits"], ["matte"]))
        last = "matte"
    if baked is not None:
        constants["baked"] = np.array([baked, 1, *SIZE], np.int64)
        nodes.append(helper.make_node("Reshape", [last, "baked"], ["shaped"]))
        last = "shaped"
    inputs = [helper.make_tensor_value_info("x", dtype, [batch, 3, *size])]
    if extra_input:
        inputs.append(helper.make_tensor_value_info("prompt", dtype, [batch, 4]))
    shape = [batch, 1, *size]
    graph = helper.make_graph(
        nodes,
        "published",
        inputs,
        [helper.make_tensor_value_info(name, dtype, shape) for name in ("side", last)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def expected_alpha(image: np.ndarray) -> np.ndarray:
    """What `published` means, in numpy."""
    kernel = np.random.default_rng(7).normal(0, 0.6, (1, 3, 3, 3)).astype(np.float32)[0].astype(np.float64)
    x = np.pad((image / 255.0 - MEAN) / DEVIATION, ((1, 1), (1, 1), (0, 0)))
    height, width = image.shape[:2]
    total = sum(
        x[row : row + height, column : column + width] @ kernel[:, row, column]
        for row in range(3)
        for column in range(3)
    )
    return 1 / (1 + np.exp(-2 * total))


@pytest.mark.parametrize("logits", [True, False], ids=["logits", "alpha"])
@pytest.mark.parametrize("batch", ["N", 1, 2])
def test_a_file_becomes_an_artifact(tmp_path: Path, batch: int | str, logits: bool) -> None:
    source = published(tmp_path / "model.onnx", batch=batch, logits=logits)
    assert main(["adopt", str(source), "-o", str(tmp_path / "out"), "--licence", "MIT", "--name", "theirs"]) == 0
    artifact = open_artifact(tmp_path / "out")
    manifest = artifact.manifest
    assert (manifest.name, manifest.licence, manifest.input_size, manifest.patch_order) == ("theirs", "MIT", SIZE, None)
    assert manifest.inputs[0].shape == ("batch" if batch == "N" else batch, *SIZE, 3)
    assert manifest.max_batch == (16 if batch == "N" else batch)
    assert manifest.origin["adopted"]["gives"] == ("logits" if logits else "alpha")
    assert manifest.parity["model"]["passed"]
    image = subject(*SIZE)
    alpha = OnnxRunner(artifact.file("model"))(image[None])[0]
    assert alpha.std() > 0.1
    assert np.abs(alpha - expected_alpha(image)).max() < 1e-5


@pytest.mark.parametrize("batch", ["N", 1, 2])
def test_the_server_runs_it(tmp_path: Path, batch: int | str) -> None:
    source = published(tmp_path / "model.onnx", batch=batch)
    assert main(["adopt", str(source), "-o", str(tmp_path / "out")]) == 0
    backend = OrtBackend(OrtOptions(threads=1))
    backend.load("theirs", open_artifact(tmp_path / "out"))
    image = subject(*SIZE)
    alpha = backend.run("theirs", {"image": image[None]})["alpha"]
    assert np.abs(alpha[0] - expected_alpha(image)).max() < 1e-5


def test_a_batch_that_is_free_by_name_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As in the files that others publish: the signature says N, a reshape inside says one."""
    source = published(tmp_path / "model.onnx", baked=1)
    assert main(["adopt", str(source), "-o", str(tmp_path / "out")]) == 0
    assert "free by name only" in capsys.readouterr().err
    assert open_artifact(tmp_path / "out").manifest.inputs[0].shape == (1, *SIZE, 3)


def test_half_precision(tmp_path: Path) -> None:
    source = published(tmp_path / "model.onnx", dtype=TensorProto.FLOAT16)
    assert main(["adopt", str(source), "-o", str(tmp_path / "out")]) == 0
    artifact = open_artifact(tmp_path / "out")
    assert artifact.manifest.files["model"].precision == "fp16"
    image = subject(*SIZE)
    assert np.abs(OnnxRunner(artifact.file("model"))(image[None])[0] - expected_alpha(image)).max() < 5e-3
    assert main(["verify", str(artifact.directory)]) == 0
    assert open_artifact(artifact.directory).manifest.parity["model"]["tolerance"]["max_abs"] == 5e-3


def test_free_sides_need_a_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = published(tmp_path / "model.onnx", size=("H", "W"))
    assert main(["adopt", str(source), "-o", str(tmp_path / "out")]) == 2
    assert "say --size" in capsys.readouterr().err
    assert main(["adopt", str(source), "-o", str(tmp_path / "out"), "--size", "32x64"]) == 0
    assert open_artifact(tmp_path / "out").manifest.input_size == (32, 64)


def test_names_that_the_artifact_needs_are_free_afterwards(tmp_path: Path) -> None:
    source = published(tmp_path / "model.onnx")
    model = onnx.load(source)
    for node in model.graph.node:
        for names in (node.input, node.output):
            renamed = [{"x": "image", "side": "alpha"}.get(name, name) for name in names]
            del names[:]
            names.extend(renamed)
    model.graph.input[0].name, model.graph.output[0].name = "image", "alpha"
    onnx.save(model, source)
    assert main(["adopt", str(source), "-o", str(tmp_path / "out")]) == 0
    image = subject(*SIZE)
    alpha = OnnxRunner(open_artifact(tmp_path / "out").file("model"))(image[None])[0]
    assert np.abs(alpha - expected_alpha(image)).max() < 1e-5


def test_a_licence_that_forbids_commerce_warns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = published(tmp_path / "model.onnx")
    assert main(["adopt", str(source), "-o", str(tmp_path / "out"), "--licence", "CC-BY-NC-4.0"]) == 0
    assert "WARNING: CC-BY-NC-4.0 does not allow commercial use" in capsys.readouterr().err


REFUSED: dict[str, tuple[Callable[[Path], object], tuple[str, ...], str]] = {
    "another size than the fixed one": (published, ("--size", "32x32"), "expected 64x96"),
    "two inputs": (
        lambda path: published(path, extra_input=True),
        (),
        "expected one float input (N, 3, H, W), found `x` ['N', 3, 64, 96], `prompt`",
    ),
    "a size that only its inside is fixed to": (
        lambda path: published(path, size=("H", "W"), baked=1),
        ("--size", "32x64"),
        "expected a graph that takes (1, 3, 32, 64), found: ",
    ),
    "no graph": (lambda path: path.write_bytes(b"no graph"), (), "expected an ONNX model"),
    "nothing": (lambda _: None, (), "found nothing at"),
    "alpha that is none": (published, ("--gives", "alpha"), "expected alpha in [0, 1], found -"),
}


@pytest.mark.parametrize(("make", "options", "said"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_adopted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], make, options: tuple[str, ...], said: str
) -> None:
    make(tmp_path / "model.onnx")
    assert main(["adopt", str(tmp_path / "model.onnx"), "-o", str(tmp_path / "out"), *options]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_verify_compares_with_the_source(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = published(tmp_path / "model.onnx")
    assert main(["adopt", str(source), "-o", str(tmp_path / "out")]) == 0
    capsys.readouterr()
    assert main(["verify", str(tmp_path / "out")]) == 0
    assert "astronaut" in capsys.readouterr().out
    before = open_artifact(tmp_path / "out").manifest.parity["model"]
    moved = tmp_path / "moved.onnx"
    shutil.move(source, moved)
    assert main(["verify", str(tmp_path / "out")]) == 0
    assert "not compared with" in capsys.readouterr().out
    assert open_artifact(tmp_path / "out").manifest.parity["model"]["source_graph"] == before["source_graph"]
    model = onnx.load(moved)
    model.graph.initializer[1].CopyFrom(numpy_helper.from_array(np.array(2.1, np.float32), "two"))
    onnx.save(model, moved)
    assert main(["verify", str(tmp_path / "out"), "--source", str(moved)]) == 1
    assert "OUT OF TOLERANCE" in capsys.readouterr().out


def test_an_exported_bare_network_comes_back(tensor_export: Artifact, tiny_export: Artifact, tmp_path: Path) -> None:
    assert main(["adopt", str(tensor_export.file("model")), "-o", str(tmp_path / "out")]) == 0
    image = subject(*tiny_export.manifest.input_size)[None]
    back, direct = (OnnxRunner(each.file("model"))(image) for each in (open_artifact(tmp_path / "out"), tiny_export))
    assert np.abs(back - direct).max() < 1e-4

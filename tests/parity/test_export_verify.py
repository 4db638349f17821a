"""`birefnet-export verify`: figures into the manifest, and a non-zero exit for whatever is not the network."""

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from artifact import Artifact, open_artifact, rewrite_manifest
from model_export.__main__ import main
from modeling.patch_order import PatchOrder, current_to_legacy
from modeling.weights import save_state
from tests.support.networks import seeded_network


@pytest.fixture
def copied(tiny_export: Artifact, tmp_path: Path) -> Artifact:
    """A copy of the tiny artifact without figures."""
    shutil.copytree(tiny_export.directory, tmp_path / "tiny")
    artifact = open_artifact(tmp_path / "tiny")
    return rewrite_manifest(artifact, replace(artifact.manifest, parity={}))


def with_origin(artifact: Artifact, **changes: str) -> Artifact:
    """The artifact with another recorded origin."""
    return rewrite_manifest(artifact, replace(artifact.manifest, origin={**artifact.manifest.origin, **changes}))


def with_shifted_bias(artifact: Artifact, shift: float) -> Artifact:
    """The artifact with the last bias of its graph moved, and hashes that say that this is how it should be."""
    path = artifact.file("model")
    model = onnx.load(path)
    bias = next(tensor for tensor in model.graph.initializer if tensor.name.endswith("decoder_block1.conv_out.bias"))
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + np.float32(shift), bias.name))
    onnx.save(model, path)
    entry = replace(artifact.manifest.files["model"], sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    files = {**artifact.manifest.files, "model": entry}
    return rewrite_manifest(artifact, replace(artifact.manifest, files=files))


def figures(artifact: Artifact) -> Any:
    return open_artifact(artifact.directory).manifest.parity["model"]


def test_the_recorded_source_is_used(copied: Artifact, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(copied.directory)]) == 0
    said = capsys.readouterr()
    assert "astronaut" in said.out
    assert "within tolerance" in said.out
    assert "comparing on `noise`" in said.err
    found = figures(copied)
    assert found["passed"]
    assert 0 < found["network"]["max_abs"] < 1e-4
    assert found["deterministic"]
    assert found["batch"]["size"] == 4
    assert "onnxruntime" in found["versions"]


def test_without_a_source_it_says_so(copied: Artifact, capsys: pytest.CaptureFixture[str]) -> None:
    artifact = with_origin(copied, source="/nowhere/tiny.safetensors")
    assert main(["verify", str(artifact.directory)]) == 0
    assert "not compared with the network" in capsys.readouterr().out
    assert figures(artifact)["network"] is None
    assert figures(artifact)["self_test"]["max_abs"] < 1e-3


def test_a_source_that_has_changed_is_not_used(copied: Artifact, capsys: pytest.CaptureFixture[str]) -> None:
    artifact = with_origin(copied, sha256="0" * 64)
    assert main(["verify", str(artifact.directory)]) == 0
    said = capsys.readouterr()
    assert "is not what was exported: expected SHA-256 0000" in said.err
    assert "not compared" in said.out


def test_a_small_difference_is_found_against_the_network(copied: Artifact, capsys: pytest.CaptureFixture[str]) -> None:
    """0.002 on the logits passes the self-test, whose tolerance allows for other processors, but not the proof."""
    artifact = with_shifted_bias(copied, 0.002)
    assert main(["verify", str(artifact.directory)]) == 1
    assert "OUT OF TOLERANCE" in capsys.readouterr().out
    found = figures(artifact)
    assert not found["passed"]
    assert 1e-4 < found["network"]["max_abs"] < 1e-3


def test_a_large_difference_is_found_by_the_self_test(copied: Artifact) -> None:
    artifact = with_origin(with_shifted_bias(copied, 0.5), source="/nowhere")
    assert main(["verify", str(artifact.directory)]) == 1
    assert figures(artifact)["self_test"]["max_abs"] > 1e-2


def test_another_network_is_found_out(copied: Artifact, tmp_path: Path) -> None:
    other = seeded_network()
    other.decoder.ipt_blk5.conv1.weight.data *= 1.01
    save_state(other, tmp_path / "other.safetensors")
    assert main(["verify", str(copied.directory), "--source", str(tmp_path / "other.safetensors")]) == 1


@pytest.mark.parametrize(("order", "code"), [("legacy", 0), ("current", 1)])
def test_a_source_is_converted_as_the_export_converted_it(
    copied: Artifact, tmp_path: Path, order: PatchOrder, code: int
) -> None:
    old = seeded_network()
    old.load_state_dict(current_to_legacy(old.state_dict()))
    save_state(old, tmp_path / "old.safetensors")
    rewrite_manifest(copied, replace(copied.manifest, patch_order=order))
    assert main(["verify", str(copied.directory), "--source", str(tmp_path / "old.safetensors")]) == code


def test_a_tampered_file_is_refused(copied: Artifact, capsys: pytest.CaptureFixture[str]) -> None:
    with copied.file("model").open("r+b") as stream:
        stream.seek(-1, 2)
        stream.write(b"\1")
    assert main(["verify", str(copied.directory)]) == 2
    assert "model.onnx: expected SHA-256" in capsys.readouterr().err


def test_a_file_that_is_no_graph_is_refused(copied: Artifact, capsys: pytest.CaptureFixture[str]) -> None:
    copied.file("model").write_bytes(b"no graph")
    entry = replace(copied.manifest.files["model"], sha256=hashlib.sha256(b"no graph").hexdigest())
    rewrite_manifest(copied, replace(copied.manifest, files={**copied.manifest.files, "model": entry}))
    assert main(["verify", str(copied.directory)]) == 2
    assert "expected a graph that ONNX Runtime loads" in capsys.readouterr().err

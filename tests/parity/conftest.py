"""What several parity modules share: exports take long, so there is one."""

from pathlib import Path

import pytest

from artifact import Artifact, open_artifact
from model_export.__main__ import main
from tests.support.networks import tiny_checkpoint


@pytest.fixture(scope="session")
def tiny_export(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """The tiny network through the command line, 96x64 so that swapped sides cannot pass; not to be changed."""
    folder = tmp_path_factory.mktemp("export")
    checkpoint = tiny_checkpoint(folder)
    options = ["--size", "96x64", "--name", "tiny", "--licence", "MIT", "--origin", "seeded", "--max-batch", "8"]
    assert main(["onnx", str(checkpoint), "-o", str(folder / "tiny"), *options]) == 0
    return open_artifact(Path(folder / "tiny"))


@pytest.fixture(scope="session")
def tensor_export(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """The tiny network without the contract: normalised floats in, logits out; not to be changed."""
    folder = tmp_path_factory.mktemp("tensor")
    options = ["--size", "96x64", "--io", "tensor"]
    assert main(["onnx", str(tiny_checkpoint(folder)), "-o", str(folder / "out"), *options]) == 0
    return open_artifact(folder / "out")

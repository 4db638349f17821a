"""`python -m model_export onnx owner/name`, as people run it, against a hub that breaks off in the middle."""

import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from artifact import open_artifact
from modeling.tensor_digest import tensor_digest
from modeling.weights import load_network, save_state
from tests.support.hub import COMMIT, StubHub, StubRepository, stub_hub
from tests.support.processes import ROOT, clean_environment

TRAINED = ROOT / "training" / "checkpoints" / "compact.safetensors"
LIMIT_S = 900
WRITTEN = 10 * 2**20
"""huggingface_hub writes, and so keeps, a download in pieces of 10 MB."""


def export(hub: StubHub, folder: Path) -> "subprocess.CompletedProcess[str]":
    own = {name: value for name, value in clean_environment().items() if not name.startswith("HF_")}
    command = [
        sys.executable,
        "-m",
        "model_export",
        "onnx",
        "someone/compact@main",
        "-o",
        str(folder / "out"),
        "--size",
        "32x64",
    ]
    environment = {**own, "HF_ENDPOINT": hub.url, "HF_HOME": str(folder / "home")}
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=LIMIT_S
    )


@pytest.mark.timeout(2 * LIMIT_S)
def test_an_interrupted_download_goes_on_and_becomes_an_artifact(tmp_path: Path) -> None:
    checkpoint = tmp_path / "whole.safetensors"
    save_state(load_network(TRAINED), checkpoint)
    whole = checkpoint.read_bytes()
    cut = WRITTEN + 12_345
    assert len(whole) > cut
    with stub_hub(someone__compact=StubRepository({"model.safetensors": whole}, licence="cc-by-nc-4.0")) as hub:
        hub.cuts = [cut, 0, 0, 0, 0, 0]
        broken = export(hub, tmp_path)
        assert broken.returncode == 2, broken.stderr
        assert "what came is kept, the next run continues there" in broken.stderr
        assert "Traceback" not in broken.stderr
        assert not (tmp_path / "out").exists()
        assert hub.sent == cut
        done = export(hub, tmp_path)
        assert done.returncode == 0, done.stderr
        assert hub.downloads[-1].range == f"bytes={WRITTEN}-"
        assert hub.sent == cut + len(whole) - WRITTEN
    assert "model.safetensors" in done.stderr
    assert "WARNING: cc-by-nc-4.0 does not allow commercial use" in done.stderr
    assert "patch order current: written by this software" in done.stderr
    manifest = open_artifact(tmp_path / "out").manifest
    assert (manifest.name, manifest.input_size, manifest.licence) == ("compact", (32, 64), "cc-by-nc-4.0")
    assert manifest.origin["hub"] == {
        "id": "someone/compact",
        "revision": "main",
        "commit": COMMIT,
        "file": "model.safetensors",
    }
    assert manifest.origin["tensor_sha256"] == tensor_digest(load_file(checkpoint))
    assert manifest.origin["patch_order_evidence"]["decision"] == manifest.patch_order == "current"

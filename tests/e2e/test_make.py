"""One command from nothing to an exported, verified, evaluated artifact; stopped and repeated."""

import argparse
import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from artifact import open_artifact
from modeling.birefnet.network import BiRefNet
from modeling.weights import load_network, save_state
from tests.support.tiny_training import TINY_NETWORK, tiny_config, tiny_run
from training.__main__ import main
from training.making import Making

STEPS = ("train", "weights", "export", "verify", "evaluate")


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A command that was stopped after its first step, before anything was exported."""
    root = tmp_path_factory.mktemp("make")
    torch.manual_seed(1)
    save_state(BiRefNet(TINY_NETWORK), root / "tiny.safetensors")
    options = ["--init", str(root / "tiny.safetensors"), "--phases", "64x2:1", "--seed", "5"]
    main(["train", *options, "--steps", "1", "--out", str(root / "made" / "run")])
    return ["make", *options, "--steps", "2", "--count", "1", "--out", str(root / "made")]


def done_before(text: str) -> list[bool]:
    said = [line for line in text.splitlines() if line.endswith((": begins", ": done before"))]
    assert [line.partition(":")[0] for line in said] == list(STEPS)
    return [line.endswith("before") for line in said]


@pytest.mark.timeout(900)
def test_everything_is_made_once(begun: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path(begun[-1])
    main(begun)
    said = capsys.readouterr().out
    assert "resuming at step 1" in said
    assert done_before(said) == [False] * 5
    artifact = open_artifact(folder / "artifact")
    manifest = artifact.manifest
    assert manifest.name == "made"
    assert manifest.input_size == (64, 64)
    assert "python -m training make" in manifest.origin["statement"]
    assert all(figures["passed"] for figures in manifest.parity.values())
    assert load_network(folder / "weights.safetensors").config == TINY_NETWORK
    assert json.loads((folder / "proof.json").read_text())["passed"]
    report = json.loads((folder / "report" / "evaluation.json").read_text())
    assert {name: each["images"] for name, each in report["sets"].items()} == {
        "heldout": 1,
        "heldout-easy": 1,
        "heldout-hard": 1,
    }
    with Image.open(folder / "run" / "preview-000002.png") as picture:
        assert picture.size == (8 * 64, 8 * 64)

    main(begun)
    assert done_before(capsys.readouterr().out) == [True] * 5
    (folder / "report" / "evaluation.json").unlink()
    main(begun)
    assert done_before(capsys.readouterr().out) == [True, True, True, True, False]
    with pytest.raises(SystemExit, match="--seed: not what the run began with"):
        main([*begun, "--seed", "6"])


def test_what_was_made_of_something_else_is_not_done(tmp_path: Path) -> None:
    options = argparse.Namespace(out=tmp_path, export_size=None, name=None, licence=None, validation=None)
    options.data, options.count, options.workers = None, 1, 0
    making = Making(options, tiny_config(steps=2), "here")
    steps = (making.is_trained, making.has_weights, making.is_exported, making.is_verified, making.is_evaluated)
    assert not making.is_trained()
    run = tiny_run(tmp_path / "run", tiny_config(steps=2))
    run.train(stop_after=1)
    assert not making.is_trained()
    run.train()
    assert making.is_trained()
    assert not any(is_done() for is_done in steps[1:2])
    making.write_weights()
    assert making.has_weights()
    assert not any(is_done() for is_done in steps[2:])
    making.evaluate()
    assert making.is_evaluated()
    run.config = tiny_config(steps=3)
    run.train()
    assert not making.has_weights()
    making.write_weights()
    assert not making.is_evaluated()


def test_what_cannot_be_made_is_told_before_anything_begins(tmp_path: Path) -> None:
    begin = ["make", "--steps", "1", "--out", str(tmp_path / "made")]
    with pytest.raises(SystemExit, match="expected a size of multiples of 32, found 100x64"):
        main([*begin, "--export-size", "100x64"])
    with pytest.raises(SystemExit, match="is not a folder"):
        main([*begin, "--validation", str(tmp_path / "none")])
    assert not (tmp_path / "made").exists()

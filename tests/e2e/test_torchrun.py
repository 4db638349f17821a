"""Two processes train one network, whoever starts them."""

import argparse
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from modeling.birefnet.network import BiRefNet
from modeling.weights import save_state
from tests.support.processes import ROOT, clean_environment
from tests.support.tiny_training import TINY_NETWORK, average_and_train
from training.__main__ import main
from training.checkpoint import read_header
from training.options import add_training_options, configured
from training.parallel import LaunchError, Processes, launch, told_rank
from training.session import RunOptions

PATIENCE_S = 240


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Options of a run of 2 steps of 2 batches of 4 images, from weights that say which network it is."""
    weights = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    torch.manual_seed(1)
    save_state(BiRefNet(TINY_NETWORK), weights)
    return ["--init", str(weights), "--phases", "32x4:1", "--steps", "2", "--accumulate", "2"]


def torchrun(command: list[str], out: Path, *more: str) -> "subprocess.CompletedProcess[str]":
    """`torchrun --nproc-per-node 2 -m training train …`, on ports of its own choice."""
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    words += ["-m", "training", "train", *command, "--out", str(out), *more]
    return subprocess.run(
        words, cwd=ROOT, env=clean_environment(), capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )


@pytest.mark.timeout(900)
def test_torchrun_trains_what_processes_train(command: list[str], tmp_path: Path) -> None:
    """Before it saves, each process compares its weights with the first one's (`Group.check_alike`)."""
    parser = argparse.ArgumentParser()
    add_training_options(parser)
    config = configured(parser.parse_args(command))
    launch(Processes(2), average_and_train, config, RunOptions(tmp_path / "ours", initial=Path(command[1])))
    ran = torchrun(command, tmp_path / "theirs")
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.count("done: step 2, 16 images") == 1
    expected, found = (load_file(tmp_path / name / "last.safetensors") for name in ("ours", "theirs"))
    assert expected.keys() == found.keys()
    assert [name for name, value in expected.items() if not torch.equal(found[name], value)] == []
    assert read_header(tmp_path / "theirs" / "last.safetensors")[0] == config
    logs = [(tmp_path / name / "log.csv").read_text() for name in ("ours", "theirs")]
    assert logs[0].splitlines()[0] == logs[1].splitlines()[0]


def test_both_ways_at_once_are_refused(monkeypatch: pytest.MonkeyPatch, command: list[str], tmp_path: Path) -> None:
    assert told_rank() is None
    for name, value in (("RANK", "1"), ("WORLD_SIZE", "2"), ("MASTER_ADDR", "localhost"), ("MASTER_PORT", "1")):
        monkeypatch.setenv(name, value)
    assert told_rank() == 1
    with pytest.raises(LaunchError, match="expected no --processes, found 2"):
        launch(Processes(2), pytest.fail, "started")
    with pytest.raises(SystemExit, match="make starts its own processes"):
        main(["make", *command, "--out", str(tmp_path)])
    with pytest.raises(SystemExit, match="a refiner is trained in one process"):
        main(["refiner", "train", "--steps", "1", "--out", str(tmp_path)])

"""From a checkpoint in the official layout and a folder to a better network and its artifact."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from artifact import open_artifact
from model_export.__main__ import main as export
from model_export.runner import NetworkRunner, OnnxRunner
from tests.support.networks import TINY, seeded_network
from tests.support.tolerance import EXPORT_ALPHA
from training.__main__ import main as train
from training.averaged import trained
from training.config import NETWORKS
from training.data.photographs import open_folder
from training.data.stream import batches, normalised
from training.losses import PRESETS, hybrid

SIZE = 64


def make_folder(folder: Path) -> Path:
    """Four red discs on blue."""
    y, x = np.mgrid[:80, :100]
    for index in range(4):
        matte = (np.hypot(x - 40 - 5 * index, y - 40) < 20 + 2 * index).astype(np.uint8)
        image = np.where(matte[..., None], (220, 40, 30), (20, 60, 160 + 10 * index)).astype(np.uint8)
        for kind, picture in (("im", image), ("gt", matte * 255)):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(folder / kind / f"{index}.png")
    return folder


@torch.no_grad()
def loss_on(network: nn.Module, folder: Path) -> float:
    images, truth = next(batches(open_folder(folder, 0, None), SIZE, 4, 0, 0))
    return float(sum(hybrid(network.eval()(normalised(images)), truth, PRESETS["general"]).values()))


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `data`, `official.safetensors` and the `run` that began from it."""
    root = tmp_path_factory.mktemp("tuned")
    save_file(seeded_network().state_dict(), root / "official.safetensors")
    command = ["train", "--data", str(make_folder(root / "data")), "--init", str(root / "official.safetensors")]
    command += ["--steps", "20", "--phases", f"{SIZE}x4:1", "--rate", "3e-3", "--out", str(root / "run")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(NETWORKS, "compact", TINY)
        train(command)
    return root


def test_twenty_steps_lower_the_loss(tuned: Path) -> None:
    after = trained(tuned / "run" / "last.safetensors")
    assert loss_on(after, tuned / "data") < 0.8 * loss_on(seeded_network(), tuned / "data")


@pytest.mark.slow
def test_what_was_tuned_exports(tuned: Path) -> None:
    weights = tuned / "tuned.safetensors"
    train(["weights", str(tuned / "run" / "last.safetensors"), "--out", str(weights)])
    assert export(["onnx", str(weights), "-o", str(tuned / "artifact"), "--size", f"{SIZE}x{SIZE}"]) == 0
    graph = open_artifact(tuned / "artifact").file("model")
    image = np.array(Image.open(tuned / "data" / "im" / "0.png").resize((SIZE, SIZE)))[None]
    exported, reference = OnnxRunner(graph)(image), NetworkRunner(trained(weights), torch.float64)(image)
    assert np.abs(exported - reference).max() < EXPORT_ALPHA

"""A bare network that we export runs unchanged in rembg's own BiRefNet session, and comes back as an artifact.

`python -m pytest -m peers` runs it: rembg is installed from the package index into an environment of its own.
"""

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from artifact import open_artifact
from matting.normalisation import DEVIATION, MEAN
from model_export.__main__ import main
from model_export.runner import OnnxRunner, logistic
from model_export.sample_inputs import subject
from modeling.weights import load_network
from tests.support import images
from tests.support.tolerance import ADOPTED_ALPHA, REMBG_LEVELS

pytestmark = [pytest.mark.peers, pytest.mark.timeout(1200)]

CHECKPOINT = Path(__file__).parents[2] / "training" / "checkpoints" / "compact.safetensors"
SIDE = 1024  # rembg knows no other
SCRIPT = """
import sys
from PIL import Image
from rembg import new_session
session = new_session("birefnet-general")
for source, target in zip(sys.argv[1::2], sys.argv[2::2]):
    session.predict(Image.open(source))[0].save(target)
"""


@pytest.fixture(scope="module")
def rembg(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter that has rembg."""
    folder = tmp_path_factory.mktemp("rembg")
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "rembg[cpu]>=2.0.86,<2.1"], check=True)
    return python


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded network at rembg's size, as a bare ONNX file."""
    folder = tmp_path_factory.mktemp("bare") / "out"
    options = ["--size", f"{SIDE}x{SIDE}", "--io", "tensor"]
    assert main(["onnx", str(CHECKPOINT), "-o", str(folder), *options]) == 0
    return open_artifact(folder).file("model")


def rembg_mask(photograph: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """What rembg's session would make of our network's logits: brightest to 1, stretched, 8 bits, LANCZOS twice."""
    small = np.asarray(Image.fromarray(photograph).resize((SIDE, SIDE), Image.Resampling.LANCZOS))
    tensor = ((small / small.max() - np.array(MEAN)) / np.array(DEVIATION)).transpose(2, 0, 1)[None]
    with torch.no_grad():
        logits = load_network(CHECKPOINT)(torch.from_numpy(tensor).float())
    alpha = logistic(logits.numpy())[0, 0]
    stretched = (alpha - alpha.min()) / (alpha.max() - alpha.min())
    mask = Image.fromarray((stretched * 255).astype(np.uint8))
    return np.asarray(mask.resize(photograph.shape[1::-1], Image.Resampling.LANCZOS))


def test_rembg_runs_it_unchanged(rembg: Path, bare: Path, tmp_path: Path) -> None:
    models = tmp_path / "models"
    models.mkdir()
    shutil.copy(bare, models / "birefnet-general.onnx")
    photographs = images.photographs()
    paths = []
    for name, photograph in photographs.items():
        Image.fromarray(photograph).save(tmp_path / f"{name}.png")
        paths += [tmp_path / f"{name}.png", tmp_path / f"{name}-mask.png"]
    environment = {**os.environ, "U2NET_HOME": str(models), "MODEL_CHECKSUM_DISABLED": "1"}
    subprocess.run([rembg, "-c", SCRIPT, *paths], check=True, env=environment, cwd=tmp_path)
    for name, photograph in photographs.items():
        mask = np.asarray(Image.open(tmp_path / f"{name}-mask.png"))
        assert mask.std() > 40  # a subject, not a flat answer
        difference = np.abs(mask.astype(int) - rembg_mask(photograph).astype(int))
        assert difference.max() <= REMBG_LEVELS, name


def test_the_same_file_comes_back_as_an_artifact_that_serves(bare: Path, tmp_path: Path) -> None:
    assert main(["adopt", str(bare), "-o", str(tmp_path / "back"), "--licence", "MIT"]) == 0
    assert main(["onnx", str(CHECKPOINT), "-o", str(tmp_path / "direct"), "--size", f"{SIDE}x{SIDE}"]) == 0
    back, direct = (open_artifact(tmp_path / name) for name in ("back", "direct"))
    image = subject(SIDE, SIDE)[None]
    alphas = [OnnxRunner(artifact.file("model"))(image) for artifact in (back, direct)]
    assert np.abs(alphas[0] - alphas[1]).max() < ADOPTED_ALPHA
    Image.fromarray(images.photographs()["astronaut"]).save(tmp_path / "astronaut.png")
    command = [
        sys.executable,
        "-m",
        "server",
        "segment",
        str(tmp_path / "astronaut.png"),
        "-o",
        str(tmp_path / "a.png"),
    ]
    subprocess.run([*command, "--output", "matte", "--model", str(back.directory)], check=True)
    matte = np.asarray(Image.open(tmp_path / "a.png"))
    assert matte.shape == images.photographs()["astronaut"].shape[:2]
    assert matte.std() > 40

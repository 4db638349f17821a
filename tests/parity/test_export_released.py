"""The released architectures, checkpoint to ONNX to ONNX Runtime, at full size and in every precision.

Weights are the oracle's, rounded to fp16 as the released files are: what fp16 cannot hold would be lost before the
export, and random weights amplify it (8e-3 of alpha) as trained ones do not. They amplify what is rounded on the way
as well: their attention alone, in fp16, moves single pixels by 6e-3 (`benchmarks.half`). So in fp16 a graph is held to
the tolerance of trained networks or, where that is more, to twice what the network itself, in torch, loses in fp16.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from artifact import Artifact, Tolerance, load_self_test, open_artifact
from matting.geometry import fit
from model_export.parity import MOST_ALLOWED, excused, rounding_of
from model_export.precision import PRECISIONS, Precision
from model_export.runner import NetworkRunner, OnnxRunner
from model_export.sample_inputs import subject
from modeling.birefnet.config import SWIN_L, SWIN_T, BiRefNetConfig
from modeling.weights import load_network
from tests.support import images
from tests.support.networks import seeded_network
from tests.support.tolerance import EXPORT_ALPHA, HALF_ALPHA_MAX, HALF_ALPHA_MEAN

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

# Peak memory of a whole export in three precisions, proof included.
MOST_GIB = {"swin_v1_t": 8, "swin_v1_l": 12}
BACKBONES: dict[str, BiRefNetConfig] = {"swin_v1_t": SWIN_T, "swin_v1_l": SWIN_L}


@pytest.fixture(scope="module", params=BACKBONES)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file in fp16, under the name of its architecture."""
    network = seeded_network(BACKBONES[request.param])
    path = tmp_path_factory.mktemp("released") / f"{request.param}.safetensors"
    state = network.state_dict()
    save_file({key: value.half() if value.is_floating_point() else value for key, value in state.items()}, path)
    return path


def export(checkpoint: Path, directory: Path, side: int) -> Artifact:
    """By the command line, in a process of its own whose memory and time are printed and bounded."""
    command = [sys.executable, "-m", "model_export", "onnx", str(checkpoint), "-o", str(directory)]
    options = ["--size", f"{side}x{side}", "--patch-order", "current"]
    precisions = ["--precision", "fp16", "--precision", "fp16-tensorrt"]
    started = time.monotonic()
    process = subprocess.Popen([*command, *options, *precisions])
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    gib = usage.ru_maxrss * 1024 / 2**30
    print(f"{checkpoint.stem} at {side}: {time.monotonic() - started:.0f} s, peak {gib:.1f} GiB")
    assert process.returncode == 0
    assert gib <= MOST_GIB[checkpoint.stem]
    return open_artifact(directory)


def assert_near(
    precision: Precision, alpha: NDArray[np.float32], truth: NDArray[np.float32], in_half: Tolerance
) -> None:
    difference = np.abs(alpha - truth)
    worst, mean = float(difference.max()), float(difference.mean())
    print(f"{precision.name}: max {worst:.2e}, mean {mean:.2e}; in fp16 at most {in_half}")
    assert truth.std() > 0.05
    if precision.dtype == "fp32":
        assert worst < EXPORT_ALPHA
    else:
        assert worst < in_half.max_abs
        assert mean < in_half.mean_abs


def test_at_1024(checkpoint: Path, tmp_path: Path) -> None:
    artifact = export(checkpoint, tmp_path / "out", 1024)
    self_test = load_self_test(artifact)
    image, truth = self_test.inputs["image"], self_test.expected["alpha"]
    for precision in PRECISIONS:
        alpha = OnnxRunner(artifact.file(precision.role)).run(image)
        assert_near(precision, alpha, np.asarray(truth, np.float32), self_test.tolerance["fp16"])


def test_at_256_in_batches(checkpoint: Path, tmp_path: Path) -> None:
    artifact = export(checkpoint, tmp_path / "out", 256)
    photographs = [fit(photograph, (256, 256)) for photograph in images.photographs().values()]
    pictures = np.stack([*photographs, subject(256, 256)][:4])
    network = load_network(checkpoint)
    truth = NetworkRunner(network, torch.float64)(pictures)
    lost = np.abs(NetworkRunner(network, torch.float16)(pictures) - truth)
    for precision in PRECISIONS:
        runner = OnnxRunner(artifact.file(precision.role))
        for batch in (1, 4):
            rounding = rounding_of(lost[:batch])
            allowed = excused(Tolerance(HALF_ALPHA_MAX, HALF_ALPHA_MEAN), rounding, MOST_ALLOWED["fp16"])
            assert_near(precision, runner(pictures[:batch]), truth[:batch], allowed)

"""The shipped artifact is as good as its card says, and fits in the package.

Scored with ONNX Runtime on procedural photographs that training never saw.
"""

import io
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from artifact import open_artifact
from matting.geometry import fit, restore
from matting.quality import band_absolute_error, iou, mean_absolute_error
from server import default_model
from server.app import open_pipeline
from server.pipeline.request import OutputFormat, Refine, SegmentOptions, SegmentRequest
from server.settings import Settings
from tests.support.images import photograph, png
from tests.support.tolerance import DEFAULT_MODEL_IOU, DEFAULT_MODEL_MAE
from training.data.sets import SETS

MEGABYTE = 1_000_000

# Pixels (y, x) that anyone would call subject, and pixels that anyone would call background.
SUBJECTS = [
    ("astronaut", [(100, 220), (160, 225), (330, 180), (420, 250), (450, 120)], [(30, 350), (60, 130), (250, 40)]),
    ("coffee", [(110, 300), (200, 250), (250, 330), (330, 250), (120, 230)], [(20, 30), (30, 560), (380, 580)]),
    ("chelsea", [(110, 135), (150, 300), (220, 270), (60, 200), (250, 150)], [(30, 430), (150, 440), (280, 440)]),
]


@pytest.fixture(scope="module")
def artifact():
    return open_artifact(default_model.directory())


@pytest.fixture(scope="module")
def matte(artifact):
    session = ort.InferenceSession(str(artifact.file("model")), providers=["CPUExecutionProvider"])

    def run(image):
        (alpha,) = session.run(["alpha"], {"image": image[None]})
        return alpha[0]

    return run


def score(matte, side, set_name, count):
    pairs = [SETS[set_name].item(index, side) for index in range(count)]
    mattes = [matte(image) for image, _ in pairs]
    errors = [mean_absolute_error(alpha, truth) for alpha, (_, truth) in zip(mattes, pairs, strict=True)]
    overlaps = [iou(alpha, truth) for alpha, (_, truth) in zip(mattes, pairs, strict=True)]
    return float(np.mean(errors)), float(np.mean(overlaps))


def test_all_of_it_is_at_most_20_megabytes():
    files = [path for path in Path(default_model.directory()).rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 20 * MEGABYTE


def test_it_was_proven_equal_to_its_network(artifact):
    assert artifact.manifest.parity["model"]["passed"]
    assert artifact.manifest.parity["model"]["network"]["max_abs"] <= 1e-4


def test_it_separates_a_clear_subject(matte):
    error, overlap = score(matte, 384, "heldout-easy", 40)
    assert error <= DEFAULT_MODEL_MAE
    assert overlap >= DEFAULT_MODEL_IOU


@pytest.mark.slow
def test_it_separates_200_clear_subjects(matte):
    error, overlap = score(matte, 384, "heldout-easy", 200)
    assert error <= DEFAULT_MODEL_MAE
    assert overlap >= DEFAULT_MODEL_IOU


@pytest.mark.parametrize(("name", "inside", "outside"), SUBJECTS)
def test_the_subject_of_a_real_photograph_is_found(artifact, matte, name, inside, outside):
    picture = photograph(name)
    alpha = restore(matte(fit(picture, artifact.manifest.input_size)), picture.shape[:2])
    assert np.mean([alpha[y, x] for y, x in inside]) >= 0.7
    assert max(alpha[y, x] for y, x in outside) <= 0.3


async def test_its_refiner_brings_mattes_nearer_to_the_truth():
    """Through the pipeline, as a request is answered, at four times the pixels of the network's canvas."""
    before: list[float] = []
    after: list[float] = []
    async with open_pipeline(Settings()) as pipeline:
        for index in (1, 2):
            image, truth = SETS["heldout-easy"].item(index, 768)
            for found, mode in ((before, Refine.OFF), (after, Refine.ON)):
                options = SegmentOptions(format=OutputFormat.NPY, refine=mode)
                answer = await pipeline.segment(SegmentRequest(png(image), options))
                alpha = np.load(io.BytesIO(answer.body))
                found.append(band_absolute_error(alpha, truth, 5))
    assert np.mean(after) < np.mean(before)

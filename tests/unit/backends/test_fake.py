"""The shipped fake: its answers depend on each image alone."""

import time

import numpy as np
import pytest

from server.backends.base import BackendFault
from server.backends.fake import FakeBackend, FakeOptions, fake_artifact, fake_refiner, luminance
from server.pipeline.refiner import make_refiner


@pytest.mark.parametrize(
    ("colour", "expected"), [((0, 0, 0), 0.0), ((255, 255, 255), 1.0), ((255, 0, 0), 0.299), ((0, 255, 0), 0.587)]
)
def test_alpha_is_the_luminance(colour, expected):
    image = np.full((2, 3, 3), colour, np.uint8)
    alpha = luminance(image)
    assert alpha.dtype == np.float32
    assert alpha.shape == (2, 3)
    np.testing.assert_allclose(alpha, expected, atol=1e-6)
    assert alpha.min() >= 0
    assert alpha.max() <= 1


def test_each_image_of_a_batch_gets_its_own_answer():
    backend = FakeBackend()
    assert backend.load("a", fake_artifact((4, 6))) == "fp32"
    images = np.random.default_rng(0).integers(0, 256, (5, 4, 6, 3), dtype=np.uint8)
    alpha = backend.run("a", {"image": images})["alpha"]
    assert alpha.shape == (5, 4, 6)
    for row, image in enumerate(images):
        assert np.array_equal(alpha[row], luminance(image))


def test_the_artifact_obeys_the_matte_contract_and_names_its_size():
    manifest = fake_artifact((4, 6), name="other", max_batch=3).manifest
    assert manifest == manifest.parse(manifest.to_mapping())
    assert (manifest.name, manifest.input_size, manifest.max_batch, manifest.files) == ("other", (4, 6), 3, {})
    assert [(spec.name, spec.dtype, spec.shape) for spec in manifest.inputs] == [("image", "uint8", ("batch", 4, 6, 3))]
    assert [(spec.name, spec.dtype, spec.shape) for spec in manifest.outputs] == [("alpha", "float32", ("batch", 4, 6))]


def test_the_delay_is_per_batch_and_per_item():
    backend = FakeBackend(FakeOptions(delay_s=0.02, item_delay_s=0.02))
    backend.load("a", fake_artifact((1, 1)))
    before = time.monotonic()
    backend.run("a", {"image": np.zeros((3, 1, 1, 3), np.uint8)})
    assert time.monotonic() - before >= 0.079


def test_only_what_is_loaded_runs():
    backend = FakeBackend()
    backend.load("a", fake_artifact((1, 1)))
    backend.unload("a")
    backend.unload("a")
    with pytest.raises(BackendFault, match="a is not loaded"):
        backend.run("a", {"image": np.zeros((1, 1, 1, 3), np.uint8)})


def test_its_refiner_gives_masks_back_and_was_shown_not_to_harm():
    backend, refiner = FakeBackend(), make_refiner(fake_refiner(32, halo=8))
    assert refiner.harmless
    assert (refiner.shape.side, refiner.shape.halo, refiner.shape.answer) == (32, 8, 16)
    backend.load("r", refiner.artifact)
    mask = np.random.default_rng(0).random((3, 32, 32), dtype=np.float32)
    corners = ((0, 0), (8, 16), (16, 0))
    tiles: dict[str, np.ndarray] = {
        "image": np.zeros((3, 32, 32, 3), np.uint8),
        "mask": mask,
        "frame": np.array([[0, 0, 99, 99, *corner] for corner in corners], np.float32),
    }
    expected = [plane[top : top + 16, left : left + 16] for plane, (top, left) in zip(mask, corners, strict=True)]
    assert np.array_equal(backend.run("r", tiles)["alpha"], expected)

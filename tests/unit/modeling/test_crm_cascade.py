"""CRM's schedule: exact in tiles, fresh features at every stage, and each stage better than the one before."""

import itertools
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from matting.quality import iou, mean_boundary_accuracy
from modeling.crm.cascade import SINGLE_PASS, CascadeOptions, cascade, stages
from modeling.crm.network import Latent
from modeling.crm.receptive_field import halo
from modeling.crm.weights import load_refiner
from tests.support.crm import THIN_RESNET50, picture, seeded_refiner, small_refiner, soft_mask
from tests.support.tolerance import CRM_TILES
from training.data.scene import sample
from training.refiner.coarse import upsampled
from training.refiner.perturbation import perturb

REFINER = Path(__file__).parents[3] / "training" / "checkpoints" / "refiner.safetensors"


def inputs(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    image = (picture(height, width)[0] * 255).round().byte().permute(1, 2, 0).numpy()
    return image, soft_mask(height, width)[0].numpy()


def test_stages_in_tiles_are_the_stages_of_the_whole():
    """Of the refiner that ships: through four stages a random one enlarges rounding beyond the criterion."""
    image, coarse = inputs(230, 310)
    network = load_refiner(REFINER)
    whole = list(stages(network, image, coarse, CascadeOptions(tile=None)))
    tiled = list(stages(network, image, coarse, CascadeOptions(tile=2 * halo(network.config) + 48, queries=5000)))
    assert len(whole) == 4
    for one, other in zip(whole, tiled, strict=True):
        assert one.shape == (230, 310)
        assert one.std() > 0.05
        assert np.abs(one - other).max() < CRM_TILES


def test_every_stage_looks_at_the_image_again(monkeypatch: pytest.MonkeyPatch):
    """With the first stage's features kept, as in a known wrong re-implementation, all later stages repeat it."""
    network = seeded_refiner(THIN_RESNET50)
    image, coarse = inputs(128, 128)
    found = list(stages(network, image, coarse, CascadeOptions(tile=None)))
    for one, next_one in itertools.pairwise(found):
        assert np.abs(one - next_one).max() > 1e-3
    encode: Any = network.encode
    kept: dict[str, Latent] = {}
    monkeypatch.setattr(network, "encode", lambda *given: kept.setdefault("latent", encode(*given)))
    monkeypatch.setattr(network, "_grid", lambda _, target: (target, (16 / target[0], 16 / target[1])))
    stale = list(stages(network, image, coarse, CascadeOptions(tile=None)))
    assert all(np.array_equal(one, stale[0]) for one in stale)


def test_the_mask_is_fed_back():
    network = seeded_refiner(THIN_RESNET50)
    image, coarse = inputs(128, 128)
    with_feedback = list(stages(network, image, coarse, CascadeOptions(scales=(0.5, 1.0))))[1]
    assert np.abs(with_feedback - cascade(network, image, coarse, CascadeOptions(scales=SINGLE_PASS))).max() > 1e-3


def test_an_empty_mask_stays_empty():
    image, coarse = inputs(64, 64)
    assert not cascade(small_refiner(), image, np.zeros_like(coarse)).any()


def test_what_cannot_be_is_refused():
    image, coarse = inputs(64, 64)
    with pytest.raises(ValueError, match="one size, found"):
        cascade(small_refiner(), image, coarse[:32])
    with pytest.raises(ValueError, match="wider than both halos of 40, found 80"):
        cascade(small_refiner(), *inputs(128, 128), CascadeOptions(scales=SINGLE_PASS, tile=80))


@pytest.mark.slow
def test_each_stage_is_better_and_order_matters():
    """The shipped refiner on perturbed masks at 768: other schedules have a worse boundary.

    IoU rises from stage to stage, 0.814 to 0.866, and boundary accuracy from the first on, 0.542 to 0.648 (0.545 before
    it; 0.602 in a single pass, 0.620 in the reverse order, whose IoU, unlike the published network's, is not worse).
    """
    network = load_refiner(REFINER)
    scores: dict[str, list[tuple[float, float]]] = {}
    for index in range(8):
        image, truth = sample(index, 768, 7002, "easy")
        small = cv2.resize(truth, (192, 192), interpolation=cv2.INTER_AREA)
        wrong = perturb(np.random.default_rng(index), (small >= 0.5).astype(np.uint8), 0.85)
        coarse = upsampled(wrong.astype(np.float32), 768)

        def note(name: str, alpha: np.ndarray, truth: np.ndarray = truth) -> None:
            accurate = mean_boundary_accuracy(alpha, truth)
            assert accurate is not None
            scores.setdefault(name, []).append((iou(alpha, truth), accurate))

        note("0", coarse)
        for number, alpha in enumerate(stages(network, image, coarse), start=1):
            note(str(number), alpha)
        note("single", cascade(network, image, coarse, CascadeOptions(scales=SINGLE_PASS)))
        note("reversed", cascade(network, image, coarse, CascadeOptions(scales=(1.0, 0.5, 0.25, 0.125))))
    overlap, accuracy = ({name: float(np.mean([s[k] for s in rows])) for name, rows in scores.items()} for k in (0, 1))
    assert overlap["0"] < overlap["1"] < overlap["2"] < overlap["3"] < overlap["4"]
    assert accuracy["1"] < accuracy["2"] < accuracy["3"] < accuracy["4"]
    assert accuracy["0"] + 0.05 < accuracy["4"]
    assert accuracy["single"] < accuracy["4"]
    assert accuracy["reversed"] < accuracy["4"]

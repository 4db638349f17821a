"""Coarse masks: CRM's perturbation and its measured overlap, the soft kinds, and the close-ups they are made of."""

import cv2
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from tests.support.tolerance import COMPOSITE_IDENTITY
from training.data.closeups import closeup
from training.refiner.coarse import CoarseMix, averaged, coarse_pair
from training.refiner.perturbation import overlap, perturb, simplify


def blob(size: int = 160) -> np.ndarray:
    """A disc with a bay, a hole and a limb."""
    mask = np.zeros((size, size), np.uint8)
    cv2.circle(mask, (size // 2, size // 2), size // 3, 1, -1)
    cv2.circle(mask, (size // 2, size // 2), size // 10, 0, -1)
    cv2.rectangle(mask, (size // 2, 4), (size // 2 + 12, size // 2 - size // 10), 1, -1)
    return mask


def test_overlap_by_hand():
    first = np.array([[1, 1, 0, 0]], np.uint8)
    assert overlap(first, np.array([[0, 1, 1, 0]], np.uint8)) == pytest.approx(1 / 3)
    assert overlap(first * 0, first * 0) == 1


def test_the_overlap_with_the_truth_is_what_was_asked_for():
    """Targets from U(0.8, 1), as CRM draws them: the mask falls just below its own, and never far."""
    truth, rng = blob(), np.random.default_rng(5)
    targets = rng.uniform(0.8, 1.0, 60)
    found = np.array([overlap(perturb(rng, truth, target), truth) for target in targets])
    assert (found < targets).mean() > 0.95
    assert found.min() > 0.7
    assert np.median(targets - found) < 0.03
    assert 0.82 < found.mean() < 0.92
    assert np.corrcoef(found, targets)[0, 1] > 0.8


def test_thinned_contours_lose_detail_and_keep_the_shape():
    truth, rng = blob(), np.random.default_rng(1)
    overlaps = [overlap(simplify(rng, truth), truth) for _ in range(20)]
    assert max(overlaps) < 1
    assert np.mean(overlaps) > 0.8
    # The hole is cut out again.
    assert np.mean([simplify(rng, truth)[80, 80] for _ in range(20)]) < 0.2


def test_a_mask_without_contours_has_nothing_to_thin():
    assert simplify(np.random.default_rng(2), np.zeros((32, 32), np.uint8)).sum() == 0


def test_perturbation_repeats():
    first, second = (perturb(np.random.default_rng(3), blob(), 0.9) for _ in range(2))
    assert_array_equal(first, second)


@pytest.mark.parametrize("index", range(8))
def test_coarse_masks_have_the_promised_type(index: int):
    _, truth = closeup(index, 96, 5)
    for kind in range(5):
        averaged_, bent, perturbed, binary = (float(kind == k) for k in range(4))
        mix = CoarseMix(averaged_, bent, perturbed, binary, soft=0.0)
        mask, same = coarse_pair(np.random.default_rng(index), truth, mix)
        assert same is truth
        assert mask.shape == truth.shape
        assert mask.dtype == np.float32
        assert mask.min() >= 0
        assert mask.max() <= 1
    # Whatever is not one of the four kinds is the truth, on at most 256 levels.
    assert np.abs(mask - truth).max() <= 0.5 / 255 + 1e-6


def test_a_soft_truth_is_blurred_before_the_mask_is_made_of_it():
    _, truth = closeup(3, 96, 5)
    for seed in range(6):
        mask, soft = coarse_pair(np.random.default_rng(seed), truth, CoarseMix(soft=1.0))
        assert np.abs(np.diff(soft)).max() < 0.5 * np.abs(np.diff(truth)).max()
        assert np.abs(mask - soft).mean() < np.abs(mask - truth).mean()


def test_an_averaged_mask_stays_soft_and_keeps_its_mass():
    """Hair and veils stay what they are in the mean: a binary mask would not."""
    for index in range(6):
        _, truth = closeup(index, 128, 5)
        mask = averaged(np.random.default_rng(0), truth, 4.0)
        assert abs(mask.mean() - truth.mean()) < 0.01
        assert np.abs(mask - truth).mean() > 0 or truth.std() == 0


def test_close_ups_repeat_and_have_undecided_pixels():
    shares = []
    for index in range(30):
        image, alpha = closeup(index, 96, 5)
        assert image.shape == (96, 96, 3)
        assert image.dtype == np.uint8
        assert alpha.dtype == np.float32
        assert 0 <= alpha.min() <= alpha.max() <= 1 + COMPOSITE_IDENTITY
        shares.append(float(((alpha > 0.02) & (alpha < 0.98)).mean()))
    again = closeup(7, 96, 5)
    assert_array_equal(closeup(7, 96, 5)[0], again[0])
    assert_array_equal(closeup(7, 96, 5)[1], again[1])
    assert np.mean(shares) > 0.08
    assert sum(share > 0.02 for share in shares) > 15

"""RefineMask's own rule: the boundary against brute force, the hollow toy, and the soft rule that reduces to it."""

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from matting.geometry import restore
from matting.refinement import RefineOptions, TileShape, refine, run
from matting.refinement.bar import boundary, boundary_by_count, compose, doubled, refine_logits, region, training_region
from matting.refinement.options import BandOptions
from tests.support.refiners import each


def polygon(seed: int, size: int = 40) -> NDArray[np.bool_]:
    rng = np.random.default_rng(seed)
    mask = np.zeros((size, size), np.uint8)
    cv2.fillPoly(mask, [rng.integers(0, size, (rng.integers(3, 9), 2)).astype(np.int32)], 1)
    return mask.astype(bool)


def brute_force(mask: NDArray[np.bool_], width: int) -> NDArray[np.bool_]:
    found = np.zeros_like(mask)
    y, x = np.indices(mask.shape)
    for row, column in np.ndindex(mask.shape):
        other = mask != mask[row, column]
        if other.any():
            found[row, column] = (np.hypot(y - row, x - column)[other]).min() <= width
    return found


@pytest.mark.parametrize("width", [1, 2, 3])
@pytest.mark.parametrize("seed", range(4))
def test_the_boundary_is_by_euclidean_distance(width: int, seed: int) -> None:
    mask = polygon(seed)
    assert mask.any()
    assert np.array_equal(boundary(mask, width), brute_force(mask, width))


@pytest.mark.parametrize("width", [1, 2, 3])
def test_the_count_of_the_published_code_agrees_on_straight_edges(width: int) -> None:
    mask = np.zeros((40, 40), bool)
    mask[:, :20] = True
    expected = np.zeros_like(mask)
    expected[:, 20 - width : 20 + width] = True
    assert np.array_equal(boundary(mask, width), expected)
    assert np.array_equal(boundary_by_count(mask, width), expected)


def test_the_count_at_width_two_lets_a_lone_pixel_flag_only_itself() -> None:
    mask = np.zeros((11, 11), bool)
    mask[5, 5] = True
    assert np.array_equal(boundary_by_count(mask, 2), mask)
    assert boundary(mask, 2).sum() == 13


@pytest.mark.parametrize("mask", [np.zeros((9, 9), bool), np.ones((9, 9), bool)])
def test_nothing_and_everything_have_no_boundary(mask: NDArray[np.bool_]) -> None:
    assert not boundary(mask, 2).any()
    assert not boundary_by_count(mask, 2).any()


def test_doubling_has_aligned_corners() -> None:
    ramp = np.tile(np.arange(5, dtype=np.float32), (3, 1))
    found = doubled(ramp)
    assert found.shape == (6, 10)
    assert found[0, 0] == 0
    assert found[0, -1] == 4
    assert np.allclose(np.diff(found[0]), 4 / 9)
    assert doubled(np.ones((1, 1), np.float32)).shape == (2, 2)


def test_training_supervises_both_boundaries_at_width_two() -> None:
    predicted, truth = polygon(1), polygon(2)
    union = boundary(predicted, 2) | boundary(truth, 2)
    assert np.array_equal(training_region(predicted, truth), doubled(union.astype(np.float32)) >= 0.5)


def iou(found: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    return float((found & truth).sum() / (found | truth).sum())


def toy() -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]:
    """A blob at 56², its 28² mask as logits, and a fine answer that is right near the contour and hollow inside."""
    y, x = np.mgrid[:56, :56] + 0.5
    truth = np.hypot(y - 28, x - 28) < 20 + 3 * np.sin(7 * np.arctan2(y - 28, x - 28))
    coarse = cv2.resize(truth.astype(np.float32), (28, 28), interpolation=cv2.INTER_AREA)
    coarse = cv2.blur(coarse, (5, 5))
    distance = cv2.distanceTransform(truth.astype(np.uint8), cv2.DIST_L2, 5)
    hollow = truth & (distance <= 2)
    return (coarse - 0.5) * 8, np.where(hollow, 4.0, -4.0).astype(np.float32), truth


def test_a_fine_answer_that_is_hollow_inside_still_helps() -> None:
    """Worse than the coarse one by itself, better than it when it counts at the boundary only."""
    coarse, fine, truth = toy()
    alone, before = iou(fine >= 0, truth), iou(doubled(coarse) >= 0, truth)
    after = iou(refine_logits([coarse, fine]) >= 0, truth)
    assert alone < 0.25
    assert before < 0.93
    assert after > 0.96
    assert region(coarse >= 0, 1).mean() < 0.25


def test_an_error_inside_cannot_be_repaired() -> None:
    coarse, _, truth = toy()
    coarse[10:18, 10:18] = 4  # foreground everywhere here, as in the truth
    coarse[13:15, 13:15] = 4
    right = np.where(truth, 4.0, -4.0).astype(np.float32)
    wrong = coarse.copy()
    wrong[12:16, 12:16] = 0.1  # barely foreground, but foreground: no boundary here
    assert np.array_equal(refine_logits([wrong, right])[26:30, 26:30], doubled(wrong)[26:30, 26:30])


def test_without_a_boundary_the_fine_answer_is_not_asked() -> None:
    coarse = np.full((28, 28), -3, np.float32)
    assert np.array_equal(refine_logits([coarse, np.full((56, 56), 5, np.float32)]), doubled(coarse))


def test_the_soft_rule_reduces_to_it() -> None:
    """No undecided pixels, no feather, no fusion: the same region, the same composition."""
    mask = polygon(3, 64)
    coarse = mask.astype(np.float32)
    fine = np.random.default_rng(0).random((128, 128), dtype=np.float32)
    options = RefineOptions(band=BandOptions(contour=1, dilate=0, feather=0, max_share=1.0), fusion=None, scales=(1.0,))
    image = np.zeros((128, 128, 3), np.uint8)
    refined = run(refine(image, coarse, TileShape(128, 0), options), each(lambda tile: fine, TileShape(128, 0)))
    weight = restore(boundary(mask, 1).astype(np.float32), (128, 128))
    assert 0 < weight.mean() < 0.5
    assert np.abs(refined.alpha - compose(fine, restore(coarse, (128, 128)), weight)).max() < 1e-6

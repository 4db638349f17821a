"""What a coarse mask says of itself: sharp, soft, measured, thresholded; and that refinement keeps to it."""

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from matting.geometry import restore
from matting.refinement import EAGER, BandOptions, FusionOptions, RefineOptions, refine, run, sampling
from matting.refinement.evidence import contradiction, find_evidence
from tests.support.images import disc, noise
from tests.support.refiners import SHAPE, each, truth_crop

SIZE = (400, 300)


def ramp(width: float, contrast: float = 1.0) -> NDArray[np.float32]:
    """An upright edge that takes `width` pixels, (32, 64)."""
    row = np.clip((np.arange(64) - 31.5) / width + 0.5, 0, 1).astype(np.float32)
    return np.broadcast_to(np.float32(contrast) * row, (32, 64)).copy()


def hidden(mask: NDArray[np.float32]) -> int:
    """In the middle of the picture."""
    return int(find_evidence(mask, BandOptions()).hidden[16, 32])


@pytest.mark.parametrize("contrast", [1.0, 0.1])
def test_what_is_as_sharp_as_the_grid_hides_detail_and_what_is_softer_does_not(contrast: float) -> None:
    assert hidden(ramp(1, contrast)) == 255
    assert hidden(ramp(3, contrast)) == hidden(ramp(6, contrast)) == hidden(ramp(12, contrast)) == 0


def test_an_edge_that_the_grid_does_not_meet_is_as_sharp_as_one_that_it_does() -> None:
    """Half a pixel to either side: the area mean is 0, 1/2, 1."""
    mask = ramp(1)
    mask[:, 32] = 0.5
    assert hidden(mask) == 255


def test_a_hair_that_is_thinner_than_a_pixel_is_hidden_detail() -> None:
    mask = np.zeros((32, 64), np.float32)
    mask[:, 32] = 0.15
    assert hidden(mask) == 255
    assert hidden(np.asarray(cv2.GaussianBlur(mask, (0, 0), 4), np.float32)) == 0


def test_area_means_are_measured_and_thresholds_are_not() -> None:
    truth = disc(*SIZE).alpha
    means = restore(truth, (100, 75))
    edge = (means > 0.1) & (means < 0.9)
    assert find_evidence(means, BandOptions()).measured[edge].min() == 255
    binary = find_evidence((means >= 0.5).astype(np.float32), BandOptions())
    assert binary.measured[edge].max() == 0
    assert binary.thresholded
    assert not find_evidence(means, BandOptions()).thresholded
    for value in (0, 1):
        assert not find_evidence(np.full((8, 8), value, np.float32), BandOptions()).thresholded


def test_the_shape_of_a_thresholded_mask_is_looked_at_from_afar() -> None:
    """CRM's four stages, of which the first ones are smaller than the mask; what one of them changes, the next keep."""
    matted = disc(*SIZE)
    wrong = np.zeros((200, 200), np.float32)
    wrong[:, :90] = restore(matted.alpha, (200, 200))[:, :90] >= 0.5
    refined = run(refine(matted.image, wrong, SHAPE), each(truth_crop(matted.alpha)))
    assert [stage.size for stage in refined.report.stages] == [(50, 38), (100, 75), (200, 150), SIZE]
    single = run(refine(matted.image, wrong, SHAPE, RefineOptions(scales=(1.0,))), each(truth_crop(matted.alpha)))
    errors = [float(np.abs(found.alpha - matted.alpha).sum()) for found in (refined, single)]
    assert errors[0] < 0.8 * errors[1]


def test_strips_leave_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    mask = restore(disc(700, 400).alpha, (350, 200))
    soft = np.asarray(cv2.GaussianBlur(mask, (0, 0), 2.0), np.float32)
    mask[:, 90:] = soft[:, 90:]
    found = find_evidence(mask, BandOptions())
    assert 0 < (found.hidden == 255).mean() < 1
    monkeypatch.setattr(sampling, "STRIP_ROWS", 1000)
    whole = find_evidence(mask, BandOptions())
    assert np.abs(found.hidden.astype(int) - whole.hidden).max() <= 1  # sums in another order
    assert np.abs(found.measured.astype(int) - whole.measured).max() <= 1


def test_the_truth_does_not_contradict_its_own_means() -> None:
    truth = disc(*SIZE).alpha
    evidence = find_evidence(restore(truth, (100, 75)), BandOptions())
    assert np.abs(contradiction(evidence, truth)).max() < 1e-6
    larger = np.asarray(cv2.dilate(truth, np.ones((5, 5), np.uint8)), np.float32)
    found = contradiction(evidence, larger)
    assert found.max() <= 0
    assert found.min() < -0.2


def sharpened(tile):
    """What a refiner does that takes every soft edge for a blurred one."""
    return np.clip((tile.mask - 0.5) * 8 + 0.5, 0, 1).astype(np.float32)


def test_what_the_mask_left_soft_stays_soft_to_the_bit() -> None:
    coarse = np.asarray(cv2.GaussianBlur(restore(disc(*SIZE).alpha, (200, 200)), (0, 0), 3), np.float32)
    answers = each(sharpened)
    refined = run(refine(noise(*SIZE), coarse, SHAPE), answers)
    assert answers.steps == []
    assert np.array_equal(refined.alpha, restore(coarse, SIZE))
    eager = run(refine(noise(*SIZE), coarse, SHAPE, EAGER), each(sharpened))
    assert np.abs(eager.alpha - refined.alpha).max() > 0.2


def test_a_subject_that_the_refiner_makes_larger_is_made_smaller_again() -> None:
    """By two pixels all around, which the means of the coarse mask tell from the truth."""
    matted = disc(*SIZE)
    coarse = restore(matted.alpha, (100, 75))
    grown = each(truth_crop(np.asarray(cv2.dilate(matted.alpha, np.ones((5, 5), np.uint8)), np.float32)))
    options = RefineOptions(scales=(1.0,))
    kept, free = (
        run(refine(matted.image, coarse, SHAPE, RefineOptions(scales=(1.0,), fusion=fusion)), grown).alpha
        for fusion in (options.fusion, FusionOptions(rounds=0))
    )
    errors = [float(np.abs(alpha - matted.alpha).sum()) for alpha in (kept, free)]
    assert errors[0] < 0.6 * errors[1]
    assert np.abs(restore(kept, (100, 75)) - coarse).max() < 0.2

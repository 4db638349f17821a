"""The band: undecided pixels and the contour, widened, fading outwards; nothing at the frame's border."""

import numpy as np
import pytest

from matting.refinement.band import FULL, find_band, near_contour
from matting.refinement.options import BandOptions
from tests.support.images import disc


@pytest.mark.parametrize("value", [0.0, 1.0, 3 / 255])
def test_empty_and_full_masks_have_none(value: float) -> None:
    band = find_band(np.full((40, 50), value, np.float32), BandOptions())
    assert band.share == 0
    assert not band.weight.any()


def test_a_subject_that_is_cut_off_by_the_frame_has_no_boundary_there() -> None:
    mask = np.zeros((60, 60), np.float32)
    mask[:, :30] = 1
    band = find_band(mask, BandOptions(contour=2, dilate=3, feather=0))
    assert np.array_equal(np.flatnonzero(band.weight.any(axis=0)), np.arange(25, 35))
    assert np.all(band.weight[:, 25:35] == FULL)
    assert band.share == pytest.approx(10 / 60)


def test_hair_without_a_contour_is_found_by_its_uncertainty() -> None:
    mask = np.zeros((60, 60), np.float32)
    mask[20:40, 30] = 0.2
    assert not near_contour(mask, 2).any()
    band = find_band(mask, BandOptions(dilate=3, feather=2))
    assert band.weight[30, 30] == FULL
    assert np.all(band.weight[20:40, 27:34] > 0)
    assert not band.weight[:, :26].any()


def test_the_feather_falls_outwards_within_the_dilation() -> None:
    mask = np.zeros((9, 60), np.float32)
    mask[:, :30] = 1
    weight = find_band(mask, BandOptions(contour=1, dilate=4, feather=3)).weight[4]
    assert list(weight[25:35]) == [round(FULL * share) for share in (0.25, 0.5, 0.75, 1, 1, 1, 1, 0.75, 0.5, 0.25)]


def test_the_share_is_that_of_a_line_not_of_the_frame() -> None:
    small = find_band(disc(100, 100).alpha, BandOptions()).share
    large = find_band(disc(400, 400).alpha, BandOptions()).share
    assert large < 0.4 * small


def test_the_contour_is_marked_on_both_sides() -> None:
    mask = np.zeros((20, 20), np.float32)
    mask[:, 10:] = 0.5
    columns = near_contour(mask, 2).any(axis=0)
    assert list(np.flatnonzero(columns)) == [8, 9, 10, 11]


def test_a_band_that_would_be_too_wide_is_made_narrower() -> None:
    mask = np.zeros((60, 60), np.float32)
    mask[:, :30] = 1
    options = BandOptions(contour=1, dilate=9, feather=2, max_share=0.2)
    band = find_band(mask, options)
    assert band.share == pytest.approx(12 / 60)
    assert find_band(mask, BandOptions(contour=1, dilate=9, feather=2, max_share=0.1)).share == pytest.approx(6 / 60)
    assert find_band(mask, BandOptions(contour=1, dilate=9, feather=2, max_share=0.05)).share > 0.05

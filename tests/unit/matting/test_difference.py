"""How far two mattes are apart: by hand, in the band, and at different sizes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from matting.band import boundary_band
from matting.difference import difference


def step(height: int, width: int, column: int) -> np.ndarray:
    """Empty to the left of a column, full from it on."""
    alpha = np.zeros((height, width), np.float32)
    alpha[:, column:] = 1
    return alpha


def test_equal_mattes_are_not_apart():
    found = difference(step(20, 40, 20), step(20, 40, 20))
    assert (found.mean, found.band, found.largest) == (0, 0, 0)


def test_a_shifted_edge_by_hand():
    first, second = step(20, 40, 20), step(20, 40, 22)
    found = difference(first, second, radius=3)
    band = boundary_band(first, 3) | boundary_band(second, 3)
    assert found.mean == pytest.approx(2 / 40)
    assert found.band == pytest.approx(20 * 2 / band.sum())
    assert found.band is not None
    assert found.band > found.mean
    assert found.largest == 1


def test_far_from_every_edge_there_is_no_band():
    found = difference(np.zeros((8, 8), np.float32), np.full((8, 8), 0.001, np.float32))
    assert found.mean == pytest.approx(0.001)
    assert found.band is None, "both are decided everywhere"


def test_the_band_of_either_counts():
    """A subject that only the second one sees must not escape the band."""
    found = difference(np.zeros((20, 40), np.float32), step(20, 40, 20))
    assert found.band is not None
    assert found.band > 0.4


def test_different_sizes_are_compared_at_the_larger():
    coarse, fine = step(10, 20, 10), step(20, 40, 20)
    found = difference(coarse, fine)
    assert found == difference(fine, coarse)
    # A coarse pixel is two fine ones, bilinear with half-pixel centres: an edge between two of them becomes a ramp of
    # 0.25 and 0.75 beside it.
    assert found.largest == pytest.approx(0.25)
    assert found.mean == pytest.approx(2 * 0.25 / 40)


@given(st.integers(0, 2**31))
def test_symmetric_and_within_bounds(seed):
    rng = np.random.default_rng(seed)
    first, second = rng.random((2, 9, 13), np.float32)
    found = difference(first, second)
    assert found == difference(second, first)
    assert 0 <= found.mean <= found.largest <= 1

"""Trimaps: three values, unknown where the boundary is, certain elsewhere."""

import numpy as np
import pytest

from matting.trimap import BACKGROUND, FOREGROUND, UNKNOWN, trimap
from tests.support.images import disc


@pytest.mark.parametrize(("value", "expected"), [(0.0, BACKGROUND), (1.0, FOREGROUND), (0.5, UNKNOWN), (0.1, UNKNOWN)])
def test_plain_mattes(value: float, expected: int) -> None:
    found = trimap(np.full((30, 40), value, np.float32))
    assert found.dtype == np.uint8
    assert np.all(found == expected)


def test_a_step_is_unknown_on_both_sides_by_a_256th_of_the_longer_side() -> None:
    alpha = np.zeros((10, 1024), np.float32)
    alpha[:, 500:] = 1
    (row,) = np.unique(trimap(alpha), axis=0)
    assert list(np.flatnonzero(row == UNKNOWN)) == list(range(500 - 5, 500 + 5))
    assert np.all(row[:495] == BACKGROUND)
    assert np.all(row[505:] == FOREGROUND)


def test_what_is_undecided_is_unknown_and_the_rest_is_as_the_matte_says() -> None:
    alpha = disc(300, 400).alpha
    before = alpha.copy()
    found = trimap(alpha)
    assert set(np.unique(found)) == {BACKGROUND, UNKNOWN, FOREGROUND}
    assert np.all(found[(alpha > 0.1) & (alpha < 0.9)] == UNKNOWN)
    assert np.all(alpha[found == FOREGROUND] >= 1 - 4 / 255)
    assert np.all(alpha[found == BACKGROUND] <= 4 / 255)
    assert np.array_equal(alpha, before)


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (50, 1)])
def test_any_size(size: tuple[int, int]) -> None:
    assert trimap(np.full(size, 0.4, np.float32)).shape == size

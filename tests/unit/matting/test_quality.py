"""Metrics against cases worked by hand, and the band that one of them is measured in."""

import numpy as np
import pytest

from matting.band import boundary_band
from matting.quality import band_absolute_error, iou, mean_absolute_error
from tests.support import images

LEFT = np.array([[1, 1, 0, 0]] * 4, np.float32)
TOP = np.array([[1] * 4] * 2 + [[0] * 4] * 2, np.float32)
EMPTY = np.zeros((4, 4), np.float32)


def test_mean_absolute_error() -> None:
    assert mean_absolute_error(LEFT, LEFT) == 0.0
    assert mean_absolute_error(LEFT, TOP) == 0.5
    assert mean_absolute_error(LEFT * np.float32(0.9), LEFT) == pytest.approx(0.05)


def test_iou() -> None:
    assert iou(LEFT, LEFT) == 1.0
    assert iou(LEFT, TOP) == pytest.approx(4 / 12)
    assert iou(LEFT, EMPTY) == 0.0
    assert iou(EMPTY, EMPTY) == 1.0
    assert iou(LEFT * np.float32(0.5), LEFT) == 1.0
    assert iou(LEFT * np.float32(0.49), LEFT) == 0.0


def test_the_band_surrounds_the_contour() -> None:
    alpha = np.zeros((9, 20), np.float32)
    alpha[:, :10] = 1.0
    columns = np.flatnonzero(boundary_band(alpha, 2)[4])
    assert columns.tolist() == [8, 9, 10, 11]


def test_the_band_holds_the_undecided_and_nothing_else() -> None:
    alpha = np.zeros((9, 9), np.float32)
    alpha[4, 4] = 0.3
    assert np.argwhere(boundary_band(alpha, 3)).tolist() == [[4, 4]]
    assert not boundary_band(EMPTY, 5).any()
    assert not boundary_band(1 - EMPTY, 5).any()


def test_the_band_error_ignores_what_is_far_away() -> None:
    truth = images.disc(128, 128, radius=30).alpha
    far = truth.copy()
    far[:10, :10] = 1.0
    assert mean_absolute_error(far, truth) > 0
    assert band_absolute_error(far, truth) == 0.0
    near = np.roll(truth, 1, axis=1)
    assert band_absolute_error(near, truth) > 5 * mean_absolute_error(near, truth) > 0
    assert band_absolute_error(1 - EMPTY, EMPTY) == 0.0


@pytest.mark.parametrize("metric", [mean_absolute_error, band_absolute_error, iou])
def test_sizes_that_numpy_would_broadcast_are_refused(metric: object) -> None:
    with pytest.raises(ValueError, match="mattes of one size"):
        metric(np.zeros((4, 1), np.float32), np.zeros((4, 4), np.float32))  # type: ignore[operator]

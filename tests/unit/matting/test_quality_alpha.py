"""Errors of alpha against plain, slow references: gradient, connectivity, squares and sums."""

import itertools
import math

import numpy as np
import pytest
from numpy.typing import NDArray

from matting.quality import connectivity_error, gradient_error, mean_squared_error, sum_absolute_difference
from matting.quality.gradient import kernels
from tests.support import images
from tests.support.tolerance import QUALITY_RELATIVE

Plane = NDArray[np.float32]
LEFT = np.array([[1, 1, 0, 0]] * 4, np.float32)


def pair() -> tuple[Plane, Plane]:
    truth = images.strands(70, 90).alpha
    generator = np.random.default_rng(3)
    moved = np.roll(truth, 2, axis=1) * generator.uniform(0.6, 1.0, truth.shape)
    return moved.astype(np.float32), truth


def test_squares_and_sums_count_what_they_are_told_to():
    half = LEFT * np.float32(0.5)
    where = np.zeros((4, 4), np.bool_)
    where[0, :3] = True
    assert mean_squared_error(half, LEFT) == pytest.approx(0.125)
    assert mean_squared_error(half, LEFT, where) == pytest.approx(0.5 / 3)
    assert mean_squared_error(half, LEFT, ~np.ones((4, 4), np.bool_)) == 0.0
    assert sum_absolute_difference(half, LEFT) == pytest.approx(4 / 1000)
    assert sum_absolute_difference(half, LEFT, where) == pytest.approx(1 / 1000)


def plain_gradient(plane: Plane) -> NDArray[np.float64]:
    """Magnitude by a loop over the taps of the two-dimensional kernels, from their formula."""
    sigma, reach = 1.4, 4
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    kernel = -x * np.exp(-(x**2 + y**2) / (2 * sigma**2))
    kernel /= math.sqrt((kernel**2).sum())
    height, width = plane.shape
    padded = np.pad(plane.astype(np.float64), reach, mode="edge")
    across, down = np.zeros(plane.shape), np.zeros(plane.shape)
    for row in range(2 * reach + 1):
        for column in range(2 * reach + 1):
            window = padded[row : row + height, column : column + width]
            across += kernel[row, column] * window
            down += kernel[column, row] * window
    return np.hypot(across, down)


def test_the_gradient_error_is_the_published_one():
    alpha, truth = pair()
    squares = (plain_gradient(alpha) - plain_gradient(truth)) ** 2
    where = images.disc(70, 90).alpha > 0.5
    assert len(kernels()[0]) == 9  # ceil(1.4 · sqrt(-2 ln(sqrt(2π) · 1.4 · 0.01))) = 4 on each side
    assert gradient_error(alpha, truth) == pytest.approx(squares.sum() / 1000, rel=QUALITY_RELATIVE)
    assert gradient_error(alpha, truth, where) == pytest.approx(squares[where].sum() / 1000, rel=QUALITY_RELATIVE)
    assert gradient_error(truth, truth) == pytest.approx(0.0, abs=1e-12)


def test_strips_leave_no_seam():
    """Higher than one strip, with an edge across every seam."""
    truth = images.disc(1100, 40, radius=540).alpha
    alpha = np.roll(truth, 3, axis=0)
    squares = (plain_gradient(alpha) - plain_gradient(truth)) ** 2
    assert gradient_error(alpha, truth) == pytest.approx(squares.sum() / 1000, rel=QUALITY_RELATIVE)
    where = np.zeros(truth.shape, np.bool_)
    where[505:520] = True
    assert gradient_error(alpha, truth, where) == pytest.approx(squares[where].sum() / 1000, rel=QUALITY_RELATIVE)


def flooded(region: NDArray[np.bool_], seed: tuple[int, int]) -> NDArray[np.bool_]:
    """The 4-connected component of `seed`, by walking."""
    found = np.zeros(region.shape, np.bool_)
    stack = [seed]
    while stack:
        y, x = stack.pop()
        if 0 <= y < region.shape[0] and 0 <= x < region.shape[1] and region[y, x] and not found[y, x]:
            found[y, x] = True
            stack += [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
    return found


def plain_connectivity(alpha: Plane, truth: Plane) -> NDArray[np.float64]:
    """|phi(alpha) - phi(truth)| pixel by pixel, as the published evaluation walks through the levels."""
    levels = [np.float32(step / 10) for step in range(11)]
    length = np.full(truth.shape, -1.0)
    for before, level in itertools.pairwise(levels):
        common = (alpha >= level) & (truth >= level)
        largest, rest = np.zeros(truth.shape, np.bool_), common.copy()
        while rest.any():
            component = flooded(common, tuple(np.argwhere(rest)[0]))
            rest &= ~component
            largest = component if component.sum() > largest.sum() else largest
        length[(length == -1) & ~largest] = before
    length[length == -1] = 1.0
    phi = [1 - np.where(plane - length >= 0.15, plane - length, 0) for plane in (alpha, truth)]
    return np.abs(phi[0] - phi[1])


def test_the_connectivity_error_is_the_published_one():
    alpha, truth = pair()
    expected = plain_connectivity(alpha, truth)
    where = images.disc(70, 90).alpha > 0.5
    assert connectivity_error(alpha, truth) == pytest.approx(expected.sum() / 1000, rel=QUALITY_RELATIVE)
    assert connectivity_error(alpha, truth, where) == pytest.approx(expected[where].sum() / 1000, rel=QUALITY_RELATIVE)
    assert connectivity_error(truth, truth) == 0.0


def test_an_island_is_disconnected_and_a_bridge_connects_it():
    truth = np.zeros((20, 40), np.float32)
    truth[5:15, 2:18] = truth[5:15, 24:38] = 1
    bridged = truth.copy()
    bridged[9:11, 18:24] = 1
    # By hand: without the bridge 14 columns of 10 are off the source region in both mattes, at the full distance.
    assert connectivity_error(truth, truth * np.float32(0.7)) < 1
    lost = bridged.copy()
    lost[:, 18:24] = 0
    # Bridge of 12 pixels: 1 in the truth, 0 in the matte, d = 1. Beyond it both have l = 0 and d = 1: no difference.
    assert connectivity_error(lost, bridged) == pytest.approx(0.012)
    assert connectivity_error(bridged, bridged) == 0.0


@pytest.mark.parametrize("level", [0.0, 1.0])
def test_empty_and_full_truths_are_as_any_other(level):
    truth = np.full((12, 12), level, np.float32)
    assert connectivity_error(truth, truth) == mean_squared_error(truth, truth) == 0.0
    assert gradient_error(truth, truth) == pytest.approx(0.0, abs=1e-12)
    opposite = 1 - truth
    assert mean_squared_error(opposite, truth) == 1.0
    assert sum_absolute_difference(opposite, truth) == pytest.approx(0.144)
    assert connectivity_error(opposite, truth) == pytest.approx(0.144)
    assert gradient_error(opposite, truth) == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("metric", [mean_squared_error, sum_absolute_difference, gradient_error, connectivity_error])
def test_a_mask_of_another_size_is_refused(metric):
    with pytest.raises(ValueError, match="mask of the mattes' size"):
        metric(LEFT, LEFT, np.ones((4, 1), np.bool_))
    with pytest.raises(ValueError, match="mattes of one size"):
        metric(LEFT[:1], LEFT)

"""Metrics of regions: cases worked by hand, the specification's tables, figures of an independent implementation."""

import numpy as np
import pytest
from numpy.typing import NDArray

from matting.quality import (
    boundary_iou,
    e_measure,
    human_correction_efforts,
    iou,
    mean_boundary_accuracy,
    pooled_iou,
    s_measure,
    weighted_f,
)
from matting.quality.boundary import band_radii
from tests.support import images, matte_cases
from tests.support.tolerance import DISK_TABLE, PEER_METRICS

Plane = NDArray[np.float32]
EMPTY, FULL = np.zeros((40, 50), np.float32), np.ones((40, 50), np.float32)
DISC = (images.disc(40, 50).alpha >= 0.5).astype(np.float32)

PEERS = {
    "strands, blurred": (0.747831, 0.638120, 0.964240, 0.733754, 0.899216, 31),
    "ring, moved": (0.828010, 0.852456, 0.908007, 0.905129, 0.908006, 17),
    "disc, noisy": (0.920950, 0.723588, 0.998941, 0.764282, 0.904718, 0),
    "disc, with a hole and an island": (0.922687, 0.923407, 0.968506, 0.962070, 0.965526, 2),
    "disc, without its lower half": (0.709745, 0.749709, 0.790122, 0.784453, 0.789088, 8),
    "halves, crosswise": (0.350720, 0.466216, 0.499687, 0.498712, 0.499687, 5),
}
"""S, weighted F, E (maximum, mean, adaptive) and HCE of pysodmetrics 1.6.2. `pytest -m peers` asks it again; it wants
older numpy and OpenCV than ours, so it is no development dependency."""


def test_pooled_iou_is_the_quotient_of_sums():
    """By hand: a pair of 4 and 12 pixels, a pair of 1 and 1, an empty pair: 5 / 13, where the mean would be 7 / 9."""
    left, top = np.zeros((4, 4), np.float32), np.zeros((4, 4), np.float32)
    left[:, :2], top[:2] = 1, 1
    dot = np.ones((1, 1), np.float32)
    pairs = [(left, top), (dot, dot), (EMPTY, EMPTY)]
    assert pooled_iou(pairs) == pytest.approx(5 / 13)
    assert np.mean([iou(*pair) for pair in pairs]) == pytest.approx(7 / 9)
    assert pooled_iou([]) == 1.0


@pytest.mark.parametrize(
    ("height", "width", "radii"),
    [(1024, 1024, (1, 2, 3, 4, 5)), (2048, 2048, (1, 3, 6, 8, 11)), (4000, 6000, (1, 7, 13, 20, 26)), (9, 9, (1,) * 5)],
)
def test_the_radii_of_the_bands(height, width, radii):
    """Of `reference/refinement.md` A.7; below 300 pixels of height and width every band has the least."""
    assert band_radii(height, width) == radii


def test_boundary_accuracy_of_a_shrunken_disc():
    """The table of `reference/refinement.md` A.7: a disc of radius 600 in 2000 x 2000, shrunk."""
    y, x = np.mgrid[:2000, :2000] + 0.5
    distance = np.hypot(y - 1000, x - 1000)
    truth = (distance <= 600).astype(np.float32)
    table = {1: (0.825, 0.997), 2: (0.749, 0.993), 4: (0.632, 0.987), 8: (0.523, 0.974)}
    for shrunk, (accuracy, overlap) in table.items():
        matte = (distance <= 600 - shrunk).astype(np.float32)
        assert mean_boundary_accuracy(matte, truth) == pytest.approx(accuracy, abs=DISK_TABLE)
        assert iou(matte, truth) == pytest.approx(overlap, abs=DISK_TABLE)


def test_the_floor_of_boundary_accuracy_is_a_half():
    truth = (images.disc(500, 500, radius=150).alpha >= 0.5).astype(np.float32)
    assert mean_boundary_accuracy(truth, truth) == 1.0
    assert mean_boundary_accuracy(np.zeros_like(truth), truth) == pytest.approx(0.5, abs=0.02)
    assert mean_boundary_accuracy(1 - truth, truth) == 0.0
    assert mean_boundary_accuracy(EMPTY, EMPTY) is None
    assert mean_boundary_accuracy(DISC, FULL) is None
    assert mean_boundary_accuracy(EMPTY, DISC) is not None


def plain_band(region: NDArray[np.bool_], radius: int) -> NDArray[np.bool_]:
    """Pixels whose ellipse, as OpenCV draws it, holds both labels; beyond the image there is neither."""
    height, width = region.shape
    inside, outside = np.zeros(region.shape, np.bool_), np.zeros(region.shape, np.bool_)
    for dy in range(-radius, radius + 1):
        reach = round(np.sqrt(radius**2 - dy**2))
        for dx in range(-reach, reach + 1):
            source = region[max(dy, 0) : height + min(dy, 0), max(dx, 0) : width + min(dx, 0)]
            target = slice(max(-dy, 0), height - max(dy, 0)), slice(max(-dx, 0), width - max(dx, 0))
            inside[target] |= source
            outside[target] |= ~source
    return inside & outside


def test_the_bands_are_those_of_a_plain_loop():
    """Larger than one tile of the fast one, with a boundary across its seams and at the image's border."""
    truth = np.zeros((560, 700), np.float32)
    truth[500:, 100:530] = truth[:5, 505:515] = 1
    matte = np.roll(truth, (2, 5), (0, 1))
    right = (matte >= 0.5) == (truth >= 0.5)
    radii = band_radii(*truth.shape)
    bands = [plain_band(truth >= 0.5, radius) for radius in radii]
    assert radii == (1, 1, 2, 2, 3)
    assert mean_boundary_accuracy(matte, truth) == pytest.approx(np.mean([right[band].mean() for band in bands]))


def plain_inner_boundary(region: NDArray[np.bool_], times: int) -> NDArray[np.bool_]:
    eroded = np.pad(region, 1)
    for _ in range(times):
        framed = np.pad(eroded, 1)
        height, width = eroded.shape
        eroded = np.all([framed[y : y + height, x : x + width] for y in range(3) for x in range(3)], axis=0)
    return region & ~eroded[1:-1, 1:-1]


@pytest.mark.parametrize(("name", "reach"), [("strands, blurred", 5), ("ring, moved", 4), ("halves, crosswise", 1)])
def test_boundary_iou_is_that_of_repeated_erosions(name, reach):
    """2 % of the diagonals: 5.1, 4.0 and 1.1 pixels."""
    matte, truth = (levels >= 128 for levels in matte_cases.cases()[name])
    found, wanted = plain_inner_boundary(matte, reach), plain_inner_boundary(truth, reach)
    expected = (found & wanted).sum() / (found | wanted).sum()
    assert boundary_iou(matte.astype(np.float32), truth.astype(np.float32)) == pytest.approx(expected)


def test_boundary_iou_where_there_is_nothing_or_everything():
    assert boundary_iou(EMPTY, EMPTY) == boundary_iou(FULL, FULL) == boundary_iou(DISC, DISC) == 1.0
    assert boundary_iou(DISC, EMPTY) == boundary_iou(EMPTY, FULL) == 0.0


@pytest.mark.parametrize("name", PEERS)
def test_an_independent_implementation_finds_the_same(name):
    matte, truth = (levels.astype(np.float32) / np.float32(255) for levels in matte_cases.cases()[name])
    structure, weighted, best, mean, adaptive, efforts = PEERS[name]
    enhanced = e_measure(matte, truth)
    assert s_measure(matte, truth) == pytest.approx(structure, abs=PEER_METRICS)
    assert weighted_f(matte, truth) == pytest.approx(weighted, abs=PEER_METRICS)
    assert enhanced.maximum == pytest.approx(best, abs=PEER_METRICS)
    assert enhanced.mean == pytest.approx(mean, abs=PEER_METRICS)
    assert enhanced.adaptive == pytest.approx(adaptive, abs=PEER_METRICS)
    assert human_correction_efforts(matte, truth) == efforts


def test_a_perfect_matte_has_the_best_figures():
    assert s_measure(DISC, DISC) == pytest.approx(1.0)
    assert weighted_f(DISC, DISC) == pytest.approx(1.0)
    assert e_measure(DISC, DISC).maximum == pytest.approx(1.0, abs=1e-3)  # divided by one pixel less
    assert human_correction_efforts(DISC, DISC) == 0


def test_empty_and_full_truths():
    tenth = np.full_like(EMPTY, 0.1)
    assert s_measure(tenth, EMPTY) == pytest.approx(0.9)
    assert s_measure(tenth, FULL) == pytest.approx(0.1)
    assert weighted_f(EMPTY, EMPTY) == 1.0
    assert weighted_f(tenth, EMPTY) == 0.0
    assert weighted_f(FULL, FULL) == pytest.approx(1.0)
    assert weighted_f(EMPTY, FULL) < 0.2  # not 0: beyond the border there is no error, and the average counts it
    size = EMPTY.size
    assert e_measure(DISC, EMPTY).adaptive == pytest.approx((DISC == 0).sum() / (size - 1))
    assert e_measure(DISC, FULL).adaptive == pytest.approx(DISC.sum() / (size - 1))
    assert human_correction_efforts(EMPTY, EMPTY) == human_correction_efforts(FULL, FULL) == 0
    assert human_correction_efforts(DISC, EMPTY) == 1  # one click takes an island away


def test_what_is_thin_costs_nothing_to_correct_unless_it_breaks_the_skeleton():
    """A bar of 41 rows that misses 4 at its lower edge; a hair of 3 rows that misses 10 columns of its middle."""
    bar, shaved = np.zeros((100, 120), np.float32), np.zeros((100, 120), np.float32)
    bar[20:61, 10:110], shaved[20:57, 10:110] = 1, 1
    assert human_correction_efforts(shaved, bar) == 0
    hair = np.zeros((60, 120), np.float32)
    hair[30:33, 10:110] = 1
    broken = hair.copy()
    broken[:, 55:65] = 0
    assert human_correction_efforts(broken, hair) > 0


@pytest.mark.parametrize(
    "metric",
    [boundary_iou, e_measure, human_correction_efforts, mean_boundary_accuracy, s_measure, weighted_f],
)
def test_sizes_that_numpy_would_broadcast_are_refused(metric):
    with pytest.raises(ValueError, match="mattes of one size"):
        metric(np.zeros((4, 1), np.float32), np.zeros((4, 4), np.float32))

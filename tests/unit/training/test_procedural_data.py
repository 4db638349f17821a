"""The procedural generator: repeatable, exact in its mattes, the same scene at every size."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from tests.support.tolerance import COMPOSITE_IDENTITY, COVERAGE_SCALE, PIXEL_COVERAGE
from training.data.parts import Part, plain
from training.data.raster import Light, render
from training.data.scene import compose, sample
from training.data.sets import SETS
from training.data.shapes import box, ellipse
from training.data.subjects import FAMILIES, RICH_FAMILIES

LIGHT = Light((0.6, -0.8), 0.5)
GREY = plain(np.array([0.5, 0.5, 0.5]))


def layer_of(*parts: Part, size: int = 32):
    return render(list(parts), size, LIGHT, np.random.default_rng(0))


def test_sample_has_the_promised_types_and_ranges():
    image, alpha = sample(3, 64, 1)
    assert image.shape == (64, 64, 3)
    assert image.dtype == np.uint8
    assert alpha.shape == (64, 64)
    assert alpha.dtype == np.float32
    assert alpha.min() >= 0
    assert alpha.max() <= 1


def test_an_index_of_a_seed_is_always_the_same():
    first = [sample(index, 64, 5) for index in range(4)]
    again = [sample(index, 64, 5) for index in (3, 2, 1, 0)][::-1]
    for (image, alpha), (image2, alpha2) in zip(first, again, strict=True):
        assert_array_equal(image, image2)
        assert_array_equal(alpha, alpha2)


def test_sets_share_no_photograph():
    assert len({one.seed for one in SETS.values()}) == len(SETS)
    digests = [one.item(index, 32)[0].tobytes() for one in SETS.values() for index in range(5)]
    assert len(set(digests)) == len(digests)


@pytest.mark.parametrize("family", sorted(FAMILIES | RICH_FAMILIES))
def test_every_family_gives_a_subject_in_the_frame(family):
    for index in range(6):
        _, alpha = sample(index, 64, 11, family=family)
        assert 0.004 < alpha.mean() < 0.995
        assert alpha.max() > 0.9


def test_the_picture_before_the_camera_is_the_exact_composite():
    for index in range(6):
        scene, _ = compose(index, 64, 3)
        alpha = scene.alpha[..., None].astype(np.float64)
        expected = scene.foreground * alpha + scene.background * (1 - alpha)
        assert np.abs(scene.image - expected).max() < COMPOSITE_IDENTITY


def test_the_matte_is_the_area_average_of_the_shape():
    # Edges at 8.5 and 24.25 pixels of 32: half and a quarter of a pixel covered.
    alpha = layer_of(Part(GREY, [box(8.5 / 32, 8 / 32, 24.25 / 32, 24 / 32)])).alpha
    assert_array_equal(alpha[12, 9:24], 1.0)
    assert_array_equal(alpha[12, :8], 0.0)
    assert alpha[12, 8] == pytest.approx(0.5, abs=PIXEL_COVERAGE)
    assert alpha[12, 24] == pytest.approx(0.25, abs=PIXEL_COVERAGE)


def test_the_matte_of_a_disc_has_its_area():
    radius = 0.3
    alpha = layer_of(Part(GREY, [ellipse((0.5, 0.5), (radius, radius), count=200)]), size=64).alpha
    assert alpha.mean() == pytest.approx(np.pi * radius**2, rel=0.02)


def test_holes_are_background_and_details_leave_the_matte_alone():
    whole = Part(GREY, [box(0.2, 0.2, 0.8, 0.8)])
    holed = Part(GREY, [box(0.2, 0.2, 0.8, 0.8)], holes=[box(0.4, 0.4, 0.6, 0.6)])
    patch = Part(plain(np.array([1.0, 0.0, 0.0])), [box(0.0, 0.0, 0.5, 1.0)], detail=True)
    assert layer_of(holed).alpha[16, 16] == 0
    assert_array_equal(layer_of(whole, patch).alpha, layer_of(whole).alpha)
    assert layer_of(whole, patch).colour[16, 10, 0] > 0.6


def test_parts_that_abut_leave_no_seam():
    # Two halves that meet inside a pixel: composing their coverages one over the other would leave 3/4 there.
    left, right = Part(GREY, [box(0.2, 0.2, 16.5 / 32, 0.8)]), Part(GREY, [box(16.5 / 32, 0.2, 0.8, 0.8)])
    assert_array_equal(layer_of(left, right).alpha[16, 8:24], 1.0)


def test_a_scene_does_not_depend_on_the_size():
    for index in range(8):
        (small, _), (large, _) = compose(index, 64, 9), compose(index, 128, 9)
        averaged = large.alpha.reshape(64, 2, 64, 2).mean(axis=(1, 3))
        assert np.abs(averaged - small.alpha).mean() < COVERAGE_SCALE


def test_the_level_changes_the_scene_but_not_the_subject():
    easy, hard = sample(1, 64, 21, "easy"), sample(1, 64, 21, "hard")
    assert not np.array_equal(easy[0], hard[0])
    assert_array_equal(easy[1], hard[1])

"""The rich kinds of scenes: exact mattes of glass, smoke, motion and mirrors, and sets that stay what they are."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from tests.support.tolerance import COVERAGE_SCALE, HELD_OUT_ALPHA, HELD_OUT_PHOTOGRAPH, LAYER_IDENTITY
from training.data import crops, glyphs
from training.data.optics import blurred, disc, foot, mirrored, motion, onto, over, thinned
from training.data.parts import Part, plain
from training.data.phenomena import HARD, KINDS, PLAIN, RICH, compose
from training.data.raster import Layer, Light, render
from training.data.scene import compose as compose_plain
from training.data.sets import SETS
from training.data.shapes import box
from training.data.textures import NAMES, tile
from training.preview import PHOTOGRAPHS

PINNED = Path(__file__).parents[2] / "data" / "heldout"
INDICES = (0, 1, 2, 7)
TRANSLUCENT = ("glass", "smoke", "veil")


def scene_of(kind, index, size=64):
    return compose(index, size, 31, "mixed", {kind: 1.0})[0]


def random_layer(seed, size=16):
    rng = np.random.default_rng(seed)
    return Layer(
        rng.uniform(0, 1, (size, size, 3)).astype(np.float32), rng.uniform(0, 1, (size, size)).astype(np.float32)
    )


def square(side=0.5, size=64):
    low, high = 0.5 - side / 2, 0.5 + side / 2
    return render(
        [Part(plain(np.array([0.8, 0.2, 0.1])), [box(low, low, high, high)])],
        size,
        Light((0.6, -0.8), 0.5),
        np.random.default_rng(0),
    )


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_kind_gives_a_subject_with_the_promised_types(kind):
    for index in range(6):
        scene = scene_of(kind, index)
        for plane in (scene.foreground, scene.background, scene.alpha):
            assert plane.dtype == np.float32
            assert plane.min() >= 0
            assert plane.max() <= 1
        assert 0.002 < scene.alpha.mean() < 0.995
        assert scene.alpha.max() > 0.25


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_scene_of_every_kind_does_not_depend_on_the_size(kind):
    differences = []
    for index in range(6):
        small, large = scene_of(kind, index), scene_of(kind, index, 128)
        differences.append(np.abs(large.alpha.reshape(64, 2, 64, 2).mean(axis=(1, 3)) - small.alpha).mean())
    assert np.mean(differences) < COVERAGE_SCALE


def test_a_mixture_names_kinds_and_its_shares_sum_to_one():
    for mixture in (PLAIN, RICH, HARD):
        assert set(mixture) <= set(KINDS)
        assert sum(mixture.values()) == pytest.approx(1.0)
    assert RICH["plain"] == 0.55
    assert set(RICH) == set(KINDS)
    assert {"camouflage", "plain", *TRANSLUCENT} == set(HARD)


def test_a_plain_mixture_is_the_plain_scene():
    assert_array_equal(compose(4, 48, 7, "hard", PLAIN)[0].image, compose_plain(4, 48, 7, "hard")[0].image)


def test_an_index_of_the_rich_set_is_always_the_same():
    first = [SETS["rich"].item(index, 48) for index in range(12)]
    again = [SETS["rich"].item(index, 48) for index in reversed(range(12))][::-1]
    for (image, alpha), (image2, alpha2) in zip(first, again, strict=True):
        assert_array_equal(image, image2)
        assert_array_equal(alpha, alpha2)


@pytest.mark.parametrize("name", ["heldout", "heldout-easy", "heldout-hard"])
def test_held_out_sets_never_change(name):
    """What is measured on them is compared over months. Where the processor rounds alike they are equal bit for bit."""
    strip = cv2.imread(str(PINNED / f"{name}.png"))
    assert strip is not None
    for row, index in enumerate(INDICES):
        expected = strip[64 * row : 64 * (row + 1), :, ::-1].astype(np.float64)
        image, alpha = SETS[name].item(index, 64)
        assert np.abs(image - expected[:, :64]).mean() <= HELD_OUT_PHOTOGRAPH
        assert np.abs(np.rint(alpha * 255) - expected[:, 64:, 0]).max() <= HELD_OUT_ALPHA


@pytest.mark.parametrize("kind", TRANSLUCENT)
def test_what_is_translucent_has_alpha_between_the_ends(kind):
    shares = []
    for index in range(8):
        alpha = scene_of(kind, index).alpha
        shares.append((alpha[alpha > 0.05] < 0.95).mean())
    assert np.mean(shares) > 0.25


def test_a_layer_over_another_is_both_composed_one_after_the_other():
    front, back, behind = random_layer(1), random_layer(2), random_layer(3).colour
    assert_allclose(onto(behind, over(front, back)), onto(onto(behind, back), front), atol=LAYER_IDENTITY)


def test_thinning_a_layer_thins_what_is_seen_of_it():
    layer, behind = random_layer(1), random_layer(3).colour
    expected = behind + 0.25 * (onto(behind, layer) - behind)
    assert_allclose(onto(behind, thinned(layer, 0.25)), expected, atol=LAYER_IDENTITY)


@pytest.mark.parametrize("kernel", [motion(9.0, 0.6, 0.5), disc(3.2)], ids=["motion", "defocus"])
def test_a_blurred_subject_composes_to_the_blurred_picture(kernel):
    layer = square()
    assert kernel.sum() == pytest.approx(1.0, abs=LAYER_IDENTITY)
    moved = blurred(layer, kernel)
    black = np.zeros_like(layer.colour)
    expected = cv2.filter2D(onto(black, layer), -1, kernel, borderType=cv2.BORDER_REPLICATE)
    assert_allclose(onto(black, moved), expected, atol=2e-3)  # colours where alpha is below 1/1000 are not resolved
    assert moved.alpha.sum() == pytest.approx(layer.alpha.sum(), rel=1e-4)


def test_motion_spreads_the_edge_along_its_direction_only():
    layer = square()
    moved = blurred(layer, motion(8.0, 0.0))
    assert_allclose(moved.alpha[24:40, 16], 0.5, atol=0.1)
    assert moved.alpha[32, 13] > 0
    assert moved.alpha[14, 32] == 0


def test_a_mirror_shows_the_subject_upside_down_below_the_line():
    layer = square(0.4)
    line = foot(layer.alpha)
    for seed in range(4):
        image = mirrored(np.random.default_rng(seed), layer, line)
        below = round(line * 64)
        assert image.alpha[: below - 2].max() == 0
        assert 0 < image.alpha[below : below + 8].max() < 1
        assert mirrored(np.random.default_rng(seed), layer, 0.5).alpha[:30].max() == 0
    assert line == pytest.approx(0.7, abs=0.03)


def test_holes_of_a_letter_are_holes_and_its_dots_are_not():
    def matte(character):
        curves, advance = glyphs.glyph("DejaVuSans", character)
        assert 0.2 < advance < 1.5
        parts = [
            Part(
                plain(np.ones(3)),
                [outline + 0.5 * np.array([0.2, 1.7])],
                [hole + 0.5 * np.array([0.2, 1.7]) for hole in holes],
            )
            for outline, holes in glyphs.regions(curves)
        ]
        alpha = render(parts, 64, Light((0.6, -0.8), 0.5), np.random.default_rng(0)).alpha
        return (alpha > 0.5).astype(np.uint8)

    def pieces(mask):
        return cv2.connectedComponents(mask)[0] - 1

    assert [pieces(matte(character)) for character in "Oi8©"] == [1, 2, 1, 2]
    assert [pieces(1 - matte(character)) - 1 for character in "Oi8©"] == [1, 0, 2, 1]


def test_fonts_are_those_that_come_with_matplotlib():
    import matplotlib as mpl

    assert glyphs.folder().is_relative_to(mpl.get_data_path())
    for font in glyphs.FONTS:
        assert len(glyphs.glyph(font, "A")[0]) == 2
    for symbol in glyphs.SYMBOLS:
        assert glyphs.glyph(glyphs.SYMBOL_FONT, symbol)[0]


def test_nothing_comes_from_the_photographs_that_mattes_are_judged_on():
    names = {name for name, _, _ in crops.REGIONS}
    assert not names & set(PHOTOGRAPHS)
    assert not set(NAMES) & set(PHOTOGRAPHS)


def test_crops_of_photographs_are_pictures_and_repeat():
    for seed in range(12):
        first, again = (crops.photographed(np.random.default_rng(seed), 32) for _ in range(2))
        assert first.shape == (32, 32, 3)
        assert first.dtype == np.float32
        assert first.min() >= 0
        assert first.max() <= 1
        assert first.std() > 0.001
        assert_array_equal(first, again)


def test_tiles_from_photographs_are_whole_tiles():
    for name in ("moon", "coins", "print", "handwriting", "tissue", "stars"):
        assert tile(name).shape == (512, 512)
        assert tile(name).std() > 0.1

"""Refinement as a whole, with refiners whose answers are known: exact properties of `reference/refinement.md` E."""

from dataclasses import replace
from functools import partial

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from matting.geometry import restore
from matting.refinement import (
    CRM_SCHEDULE,
    EAGER,
    SINGLE_PASS,
    BandOptions,
    FusionOptions,
    RefineOptions,
    Tile,
    TileShape,
    refine,
    run,
)
from matting.refinement.band import find_band
from tests.support.images import disc, noise
from tests.support.refiners import SHAPE, convolution, each, flipped, identity, offset, truth_crop
from tests.support.tolerance import TILED_ALPHA

WORKING = (96, 96)
PLAIN = RefineOptions(fusion=None)


def averaged(truth: NDArray[np.float32], size: tuple[int, int] = WORKING) -> NDArray[np.float32]:
    return restore(truth, size)


def error(alpha: NDArray[np.float32], truth: NDArray[np.float32]) -> float:
    return float(np.abs(alpha - truth).sum())


def filled(value: float, tile: Tile) -> NDArray[np.float32]:
    return np.full_like(tile.mask, value)


@pytest.mark.parametrize("size", [(300, 200), (193, 331), (96, 96), (20, 30), (500, 40)])
@pytest.mark.parametrize("options", [RefineOptions(), PLAIN, CRM_SCHEDULE])
def test_the_identity_changes_no_bit(size: tuple[int, int], options: RefineOptions) -> None:
    matted = disc(*size)
    coarse = averaged(matted.alpha)
    answers = each(identity)
    refined = run(refine(matted.image, coarse, SHAPE, options), answers)
    assert np.array_equal(refined.alpha, restore(coarse, size))
    assert refined.report.dropped == 0
    assert bool(answers.tiles) == (max(size) > 96)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_empty_and_full_mattes_ask_nothing(value: float) -> None:
    answers = each(identity)
    refined = run(refine(noise(300, 200), np.full(WORKING, value, np.float32), SHAPE), answers)
    assert answers.steps == []
    assert np.all(refined.alpha == value)
    assert refined.report.tiles == 0
    assert len(refined.report.stages) == 2


def test_outside_of_all_bands_not_a_bit_changes() -> None:
    """Whatever the refiner says: here, noise everywhere."""
    matted = disc(400, 300)
    coarse = averaged(matted.alpha)
    rng = np.random.default_rng(0)
    states = [coarse]
    options = PLAIN

    def garbage(tile):
        return rng.random(tile.mask.shape, dtype=np.float32)

    refined = run(refine(matted.image, coarse, SHAPE, options), each(garbage))
    union = np.zeros((400, 300), bool)
    # The same stages again, one more at a time, to know which mask each of them started from.
    rng = np.random.default_rng(0)
    sizes = [stage.size for stage in refined.report.stages]
    for size in sizes:
        weight = find_band(states[-1], options.band).weight
        grown = cv2.dilate((weight > 0).astype(np.uint8), np.ones((3, 3), np.uint8))
        union |= cv2.resize(grown, (300, 400), interpolation=cv2.INTER_NEAREST_EXACT) > 0
        image = np.asarray(cv2.resize(matted.image, size[::-1], interpolation=cv2.INTER_AREA), np.uint8)
        rng = np.random.default_rng(0)
        states.append(run(refine(image, coarse, SHAPE, options), each(garbage)).alpha)
    assert 0 < union.mean() < 0.8
    direct = restore(coarse, (400, 300))
    assert np.array_equal(refined.alpha[~union], direct[~union])
    assert (refined.alpha[union] != direct[union]).mean() > 0.5


@pytest.mark.parametrize("size", [(301, 203), (128, 128), (97, 400)])
def test_tiled_equals_whole(size: tuple[int, int]) -> None:
    matted = disc(*size)
    coarse = averaged(matted.alpha)
    answer = convolution(7)  # reaches 7 pixels, the halo has 8
    tiled = run(refine(matted.image, coarse, SHAPE), each(answer))
    whole = run(refine(matted.image, coarse, TileShape(408, 8)), each(answer, TileShape(408, 8)))
    assert len(tiled.report.stages) == len(whole.report.stages)
    assert whole.report.tiles < tiled.report.tiles
    assert np.abs(tiled.alpha - whole.alpha).max() < TILED_ALPHA
    assert np.abs(tiled.alpha - restore(coarse, size)).max() > 0.05


def test_a_halo_that_is_too_small_shows() -> None:
    """The test above can fail."""
    matted = disc(301, 203)
    coarse = averaged(matted.alpha)
    tiled = run(refine(matted.image, coarse, TileShape(64, 0)), each(convolution(7), TileShape(64, 0)))
    whole = run(refine(matted.image, coarse, TileShape(408, 0)), each(convolution(7), TileShape(408, 0)))
    assert np.abs(tiled.alpha - whole.alpha).max() > 100 * TILED_ALPHA


@pytest.mark.parametrize("batch", [1, 3, 1000])
def test_batch_company_does_not_matter(batch: int) -> None:
    matted = disc(300, 200)
    coarse = averaged(matted.alpha)
    answers = each(convolution(7))
    found = run(refine(matted.image, coarse, SHAPE, RefineOptions(batch=batch)), answers)
    alone = run(refine(matted.image, coarse, SHAPE, RefineOptions(batch=4)), each(convolution(7)))
    assert np.array_equal(found.alpha, alone.alpha)
    assert max(answers.steps) <= batch


def test_the_order_in_which_tiles_are_computed_does_not_matter() -> None:
    """All questions of a stage are about the mask before it, whichever answers have come by then."""
    matted = disc(300, 200)
    coarse = averaged(matted.alpha)
    options = RefineOptions(batch=1000)

    def backwards(questions):
        return each(convolution(7))(questions[::-1])[::-1]

    found = run(refine(matted.image, coarse, SHAPE, options), backwards)
    one = run(refine(matted.image, coarse, SHAPE, replace(options, batch=1)), each(convolution(7)))
    assert np.array_equal(found.alpha, one.alpha)


def test_everywhere_is_the_dense_run() -> None:
    """With a band of everything and no fusion, a single pass is the refiner's own answer."""
    matted = disc(100, 90)
    coarse = averaged(matted.alpha)
    shape = TileShape(128, 8)
    found = run(refine(matted.image, coarse, shape, SINGLE_PASS), each(truth_crop(matted.alpha), shape))
    assert np.abs(found.alpha - matted.alpha).max() < 1e-6


def test_the_ideal_refiner_gives_the_truth_in_the_band() -> None:
    truth = disc(400, 300).alpha
    coarse = averaged(truth)
    refined = run(refine(disc(400, 300).image, coarse, SHAPE), each(truth_crop(truth)))
    assert error(refined.alpha, truth) < 0.05 * error(restore(coarse, (400, 300)), truth)


def test_every_stage_comes_nearer_to_the_truth() -> None:
    matted = disc(400, 300)
    coarse = averaged(matted.alpha)
    errors = []
    for scales in ((1.0,), (0.5, 1.0), (0.25, 0.5, 1.0)):
        options = replace(EAGER, scales=scales)
        blurred = np.asarray(cv2.GaussianBlur(coarse, (0, 0), 1.5), np.float32)
        refined = run(refine(matted.image, blurred, SHAPE, options), each(truth_crop(matted.alpha)))
        errors.append(error(refined.alpha, matted.alpha))
        assert [stage.size for stage in refined.report.stages] == [
            (round(400 * scale), round(300 * scale)) for scale in scales
        ]
    assert errors[2] < errors[1] < errors[0], errors


def test_a_wide_band_is_not_refined() -> None:
    coarse = np.random.default_rng(0).random(WORKING, dtype=np.float32)
    answers = each(flipped)
    refined = run(refine(noise(192, 192), coarse, SHAPE), answers)
    assert answers.steps == []
    assert np.array_equal(refined.alpha, restore(coarse, (192, 192)))
    (stage,) = refined.report.stages
    assert stage.band_share > 0.35
    assert "band" in stage.dropped


# ---- low frequencies from the coarse pass, high ones from the fine


def test_a_constant_offset_of_all_tiles_changes_nothing() -> None:
    matted = disc(400, 300)
    coarse = averaged(matted.alpha) * np.float32(0.6) + np.float32(0.2)  # so that no offset is clipped
    # In one stage: of several, a changed mask would be enlarged step by step, which is not quite the same.
    wide = RefineOptions(band=BandOptions(everywhere=True, max_share=1.0), scales=(1.0,))
    refined = run(refine(matted.image, coarse, SHAPE, wide), each(offset(0.1)))
    assert refined.report.dropped == 0
    assert np.abs(refined.alpha - restore(coarse, (400, 300))).max() < 1e-4


def test_the_offset_of_one_tile_among_others_is_held_down_without_a_seam() -> None:
    matted = disc(400, 300)
    coarse = averaged(matted.alpha) * np.float32(0.6) + np.float32(0.2)
    options = RefineOptions(BandOptions(everywhere=True, max_share=1.0), FusionOptions(rounds=0), scales=(1.0,))

    def one(tile):
        return tile.mask + np.float32(0.15 if tile.frame[0] == tile.frame[1] == 88 else 0.0)

    plain = run(refine(matted.image, coarse, SHAPE, replace(options, fusion=None)), each(one))
    found = run(refine(matted.image, coarse, SHAPE, options), each(one))
    direct = restore(coarse, (400, 300))
    assert np.abs(plain.alpha - direct).max() == pytest.approx(0.15, abs=1e-5)
    assert np.abs(found.alpha - direct).max() < 0.8 * 0.15  # at its corners, where most around is without
    assert np.abs(found.alpha - direct).sum() < 0.7 * np.abs(plain.alpha - direct).sum()


@pytest.mark.parametrize("everywhere", [False, True])
def test_flipped_tiles_count_for_almost_nothing(everywhere: bool) -> None:
    """By the rim of the band; and where everything is band, which then has no rim, by what is within."""
    matted = disc(400, 300)
    coarse = averaged(matted.alpha)
    direct = restore(coarse, (400, 300))
    band = BandOptions(everywhere=everywhere, max_share=1.0)
    believed = FusionOptions(max_area_change=10.0)
    found = run(refine(matted.image, coarse, SHAPE, RefineOptions(band, believed, scales=(1.0,))), each(flipped))
    plain = run(refine(matted.image, coarse, SHAPE, RefineOptions(band, None, scales=(1.0,))), each(flipped))
    assert found.report.dropped == 0
    assert error(found.alpha, direct) < (0.3 if everywhere else 0.1) * error(plain.alpha, direct)


def test_the_low_frequencies_of_the_result_stay_near_those_of_the_mask() -> None:
    """The fail-safe rule, against a refiner that erases every tile, and one that fills it."""
    matted = disc(400, 300)
    coarse = averaged(matted.alpha)
    direct = restore(coarse, (400, 300))
    options = RefineOptions(scales=(1.0,), fusion=FusionOptions(max_area_change=10.0))
    for value in (0.0, 1.0):
        refined = run(refine(matted.image, coarse, SHAPE, options), each(partial(filled, value)))
        low = cv2.GaussianBlur(refined.alpha - direct, (0, 0), 6.0 * 400 / 96)
        assert np.abs(low).max() < 0.1


def test_a_stage_that_changes_the_area_is_dropped_and_counted() -> None:
    matted = disc(400, 300)
    coarse = averaged(matted.alpha)
    options = RefineOptions(fusion=FusionOptions(sigma=30, agreement=1e4, max_area_change=0.02))
    refined = run(refine(matted.image, coarse, SHAPE, options), each(partial(filled, 1.0)))
    assert refined.report.dropped >= 1
    assert "area" in refined.report.stages[0].dropped
    used = [stage for stage in refined.report.stages if not stage.dropped]
    direct = restore(coarse, (400, 300))
    assert np.array_equal(refined.alpha, direct) == (not used)


def test_answers_that_are_no_numbers_are_not_used() -> None:
    matted = disc(200, 200)
    coarse = averaged(matted.alpha)
    refined = run(refine(matted.image, coarse, SHAPE), each(partial(filled, np.nan)))
    assert np.array_equal(refined.alpha, restore(coarse, (200, 200)))
    assert all("number" in stage.dropped for stage in refined.report.stages)


def test_an_answer_of_the_wrong_size_is_an_error() -> None:
    matted = disc(200, 200)
    smaller = each(identity, TileShape(64, 16))
    with pytest.raises(ValueError, match=r"expected the answer to a tile, \(48, 48\), found \(32, 32\)"):
        run(refine(matted.image, averaged(matted.alpha), SHAPE), smaller)


def test_alpha_stays_within_its_bounds_and_the_mask_is_not_changed() -> None:
    matted = disc(200, 200)
    coarse = averaged(matted.alpha)
    before = coarse.copy()
    rng = np.random.default_rng(0)
    wild = each(lambda tile: rng.normal(0.5, 3, tile.mask.shape).astype(np.float32))
    refined = run(refine(matted.image, coarse, SHAPE, PLAIN), wild)
    assert refined.alpha.min() >= 0
    assert refined.alpha.max() <= 1
    assert np.array_equal(coarse, before)
    same = run(refine(matted.image[:96, :96], coarse, SHAPE), wild)
    assert not np.shares_memory(same.alpha, coarse)


# ---- cost


def test_work_grows_with_the_boundary_not_with_the_image() -> None:
    """The same subject on a canvas of twice the pixels, and the scene scaled to twice the pixels."""
    shape = TileShape(256, 32)
    tiles = {}
    for name, size, radius in (
        ("as it is", (2828, 4243), 700.0),
        ("widened", (2828, 8486), 700.0),
        ("scaled", (4000, 6000), 700.0 * 2**0.5),
    ):
        y, x = np.ogrid[:512, :512]  # the network's canvas is square, so that the wide image is squashed
        y, x = (y + 0.5) * size[0] / 512, (x + 0.5) * size[1] / 512
        coarse = np.clip((radius - np.hypot(y - size[0] / 2, x - size[0] * 0.7)) / 8 + 0.5, 0, 1).astype(np.float32)
        refined = run(refine(np.zeros((*size, 3), np.uint8), coarse, shape), each(identity, shape))
        tiles[name] = refined.report.tiles
    assert tiles["widened"] <= 1.3 * tiles["as it is"]
    assert tiles["scaled"] <= 1.6 * tiles["as it is"]

"""The guided filter: what it reproduces exactly, and where it keeps its hands off."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from matting.geometry import restore
from matting.refinement import GUIDED, GuidedFilter, Question, Tile, refine, run
from tests.support.images import disc, smooth
from tests.support.tolerance import TILED_ALPHA

SIDE = 128
FILTER = GuidedFilter(side=SIDE)
COARSER = GuidedFilter.for_image((512, 512), (128, 128))


def tile(image: NDArray[np.uint8], mask: NDArray[np.float32]) -> Tile:
    return Tile(image, mask, np.array([0, 0, *mask.shape, 8, 16], np.float32))


WINDOW = np.s_[8 : 8 + FILTER.shape.answer, 16 : 16 + FILTER.shape.answer]


def answering(guided: GuidedFilter) -> Callable[[Sequence[Question]], list[NDArray[np.float32]]]:
    return lambda questions: [guided.answer(question) for question in questions if isinstance(question, Tile)]


def test_a_constant_guide_explains_nothing_and_changes_nothing() -> None:
    mask = np.random.default_rng(0).random((SIDE, SIDE), dtype=np.float32)
    found = FILTER.answer(tile(np.full((SIDE, SIDE, 3), 90, np.uint8), mask))
    assert np.abs(found - mask[WINDOW]).max() < 1e-3


def test_a_mask_that_is_linear_in_colour_is_reproduced() -> None:
    """At full resolution, although only half of it was seen: that is the point of a guide."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    truth = (image.astype(np.float32) / 255) @ np.array([0.5, 0.3, 0.2], np.float32)
    reduced = truth.reshape(SIDE // 2, 2, SIDE // 2, 2).mean(axis=(1, 3))
    found = FILTER.answer(tile(image, np.repeat(np.repeat(reduced, 2, 0), 2, 1)))
    assert np.abs(found - truth[WINDOW])[16:, 8:].max() < 0.02  # 24 pixels from the tile's edges, where windows end
    assert np.abs(np.repeat(np.repeat(reduced, 2, 0), 2, 1) - truth).max() > 0.3


def scene(*, hard: bool, size: int = 512) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """A disc with spokes, in colours of its own (easy), or in those of a busy background (hard)."""
    y, x = np.mgrid[:size, :size] + 0.5 - size / 2
    angle, radius = np.arctan2(y, x), np.hypot(y, x)
    reach = size * (0.25 + 0.12 * (np.sin(40 * angle) > 0.4))
    truth = np.clip(reach - radius + 0.5, 0, 1).astype(np.float32)
    texture = np.random.default_rng(5).integers(0, 256, (size, size, 3)).astype(np.float32)
    if hard:
        front, back = texture, texture[::-1, ::-1]
    else:
        front, back = (
            0.2 * texture + np.array([190, 40, 30], np.float32),
            0.2 * texture + np.array([10, 60, 150], np.float32),
        )
    image = truth[..., None] * front + (1 - truth[..., None]) * back
    return image.clip(0, 255).astype(np.uint8), truth


def errors(image: NDArray[np.uint8], truth: NDArray[np.float32], guided: GuidedFilter) -> tuple[float, float]:
    coarse = restore(truth, (128, 128))
    refined = run(refine(image, coarse, guided.shape, GUIDED), answering(guided))
    return float(np.abs(restore(coarse, truth.shape) - truth).sum()), float(np.abs(refined.alpha - truth).sum())


def test_easy_colours_sharpen() -> None:
    before, after = errors(*scene(hard=False), COARSER)
    assert after < 0.65 * before


def test_the_gate_fires_on_the_hard_texture() -> None:
    """Where colour explains nothing the filter is worse than bilinear, and the gate keeps it from being used."""
    image, truth = scene(hard=True)
    before, ungated = errors(image, truth, replace(COARSER, doubtful=-1e6, certain=-1e6 + 1))
    _, gated = errors(image, truth, COARSER)
    assert ungated > before
    assert gated <= 1.01 * before


@pytest.mark.parametrize("size", [(301, 203), (500, 340)])
def test_tiled_equals_whole(size: tuple[int, int]) -> None:
    matted = disc(*size)
    image = np.minimum(matted.image, smooth(*size))
    coarse = restore(matted.alpha, (96, 96))
    whole = GuidedFilter(side=512)
    tiled = run(refine(image, coarse, FILTER.shape), answering(FILTER))
    one = run(refine(image, coarse, whole.shape), answering(whole))
    assert tiled.report.tiles > one.report.tiles
    assert np.abs(tiled.alpha - one.alpha).max() < TILED_ALPHA


def test_answers_are_mattes() -> None:
    rng = np.random.default_rng(1)
    found = FILTER.answer(
        tile(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8), rng.random((SIDE, SIDE), dtype=np.float32))
    )
    assert found.dtype == np.float32
    assert found.shape == (FILTER.shape.answer, FILTER.shape.answer)
    assert found.min() >= 0
    assert found.max() <= 1

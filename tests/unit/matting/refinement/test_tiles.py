"""Tiles: aligned, full; their cells cover the band once, and are no more than it takes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from matting.refinement import TileShape
from matting.refinement.port import ALIGNMENT
from matting.refinement.tiles import Place, cut, plan, span_from
from tests.support.images import noise

SHAPE = TileShape(64, 8)


@given(
    length=st.integers(1, 3000),
    at=st.integers(0, 400),
    side=st.integers(2, 40).map(lambda n: n * 8),
    halo=st.integers(0, 150),
)
def test_a_cell_begins_where_it_is_wanted_and_keeps_its_halo(length: int, at: int, side: int, halo: int) -> None:
    shape = TileShape(side, min(halo, (side - ALIGNMENT) // 2 // ALIGNMENT * ALIGNMENT))
    start = min(at, (length - 1) // ALIGNMENT) * ALIGNMENT
    span = span_from(start, length, shape)
    assert span.start == start
    assert span.stop == min(length, start + shape.answer) or span.stop == length
    assert span.origin % ALIGNMENT == span.window % ALIGNMENT == 0
    first = span.origin + span.window
    assert first <= span.start < span.stop <= first + shape.answer
    assert 0 <= span.window <= side - shape.answer
    assert span.origin == 0 or span.window >= shape.halo
    assert span.origin + side >= length or span.origin + side - (first + shape.answer) >= shape.halo
    assert span.origin == 0 or span.origin + side < length + ALIGNMENT


def covered_by(places: tuple[Place, ...], size: tuple[int, int]) -> np.ndarray:
    """How many cells each pixel lies in."""
    count = np.zeros(size, int)
    for place in places:
        count[place.cell] += 1
    return count


@given(seed=st.integers(0, 1000), height=st.integers(1, 300), width=st.integers(1, 300))
def test_every_band_pixel_lies_in_one_cell(seed: int, height: int, width: int) -> None:
    rng = np.random.default_rng(seed)
    weight = (rng.random((-(-height // 3), -(-width // 3))) < 0.01).astype(np.uint8)
    places, _ = plan((height, width), SHAPE, weight)
    count = covered_by(places, (height, width))
    assert count.max(initial=0) <= 1
    rows, columns = np.nonzero(weight)
    for row, column in zip(rows, columns, strict=True):
        at = [
            min(int((index + 0.5) * length / short), length - 1)
            for index, length, short in ((row, height, weight.shape[0]), (column, width, weight.shape[1]))
        ]
        assert count[at[0], at[1]] == 1


def test_only_cells_that_touch_the_band_are_asked_for() -> None:
    weight = np.zeros((100, 150), np.uint8)
    weight[20:23, 40:90] = 7
    weight[99, 149] = 1
    size = (400, 600)
    places, whole = plan(size, SHAPE, weight)
    scaled = np.repeat(np.repeat(weight, 4, axis=0), 4, axis=1) > 0
    assert np.all(covered_by(places, size)[scaled] == 1)
    for place in places:
        rows, columns = place.cell
        near = scaled[max(0, rows.start - 4) : rows.stop + 4, max(0, columns.start - 4) : columns.stop + 4]
        assert near.any()
    assert whole == 9 * 13
    assert len(places) == 1 + 5  # the pixel at the corner, and 208 pixels in cells of 48
    assert plan(size, SHAPE, np.zeros_like(weight)) == ((), whole)


def test_shelves_go_the_way_that_takes_fewer_cells() -> None:
    """Two columns that are not on a level: shelves of rows would cut both, those of columns fit each."""
    weight = np.zeros((96, 96), np.uint8)
    weight[:40, 10:14] = weight[26:66, 82:86] = 1
    places, _ = plan((96, 96), SHAPE, weight)
    assert [(place.rows.start, place.columns.start) for place in places] == [(0, 8), (24, 80)]
    turned, _ = plan((96, 96), SHAPE, np.ascontiguousarray(weight.T))
    assert [(place.columns.start, place.rows.start) for place in turned] == [(0, 8), (24, 80)]


def test_a_tile_holds_its_window_and_knows_where_it_is() -> None:
    image, mask = noise(200, 300), np.random.default_rng(0).random((200, 300), dtype=np.float32)
    places, _ = plan((200, 300), SHAPE, np.full((200, 300), 1, np.uint8))
    assert np.all(covered_by(places, (200, 300)) == 1)
    for place in places:
        tile = cut(image, mask, place, 64)
        top, left, height, width, *_ = (int(value) for value in tile.frame)
        assert (height, width) == (200, 300)
        inside = slice(0, min(64, 200 - top)), slice(0, min(64, 300 - left))
        assert np.array_equal(tile.image[inside], image[top : top + 64, left : left + 64])
        assert np.array_equal(tile.mask[inside], mask[top : top + 64, left : left + 64])
        assert np.array_equal(tile.mask[tile.window(SHAPE.answer)][place.inner], mask[place.cell])
        assert tile.image.flags.c_contiguous
        assert [str(plane.dtype) for plane in (tile.image, tile.mask, tile.frame)] == ["uint8", "float32", "float32"]
        assert not np.shares_memory(tile.mask, mask)


def test_a_canvas_smaller_than_a_tile_is_continued_by_its_border() -> None:
    image, mask = noise(20, 30), np.random.default_rng(0).random((20, 30), dtype=np.float32)
    ((place,), _) = plan((20, 30), SHAPE, np.full((20, 30), 1, np.uint8))
    tile = cut(image, mask, place, 64)
    assert np.array_equal(tile.mask, np.pad(mask, ((0, 44), (0, 34)), mode="edge"))
    assert np.array_equal(tile.image, np.pad(image, ((0, 44), (0, 34), (0, 0)), mode="edge"))
    assert list(tile.frame) == [0, 0, 20, 30, 0, 0]


@pytest.mark.parametrize(("side", "halo"), [(0, 0), (60, 0), (64, -1), (64, 29)])
def test_impossible_tiles(side: int, halo: int) -> None:
    with pytest.raises(ValueError, match=r"expected .* found"):
        TileShape(side, halo)

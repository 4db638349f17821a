"""Tiles: aligned, full, their cells a partition; only those that the band touches."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from matting.refinement import TileShape
from matting.refinement.port import ALIGNMENT
from matting.refinement.tiles import cut, plan, spans
from tests.support.images import noise


@given(length=st.integers(1, 3000), side=st.integers(2, 40).map(lambda n: n * 8), halo=st.integers(0, 150))
def test_cells_partition_an_axis_and_keep_their_halo(length: int, side: int, halo: int) -> None:
    halo = min(halo, (side - ALIGNMENT) // 2)
    found = spans(length, TileShape(side, halo))
    assert found[0].start == 0
    assert found[-1].stop == length
    for before, after in itertools.pairwise(found):
        assert before.stop == after.start
    for span in found:
        assert span.origin % ALIGNMENT == 0
        assert span.origin <= span.start < span.stop <= span.origin + side
        assert span.origin == 0 or span.start >= span.origin + halo
        assert span.stop == length or span.stop <= span.origin + side - halo
        assert span.origin + side < length + ALIGNMENT or len(found) == 1


def test_every_band_pixel_is_covered_and_no_other_tile_is_asked_for() -> None:
    weight = np.zeros((100, 150), np.uint8)
    weight[20:23, 40:90] = 7
    weight[99, 149] = 1
    size = (400, 600)
    places, whole = plan(size, TileShape(64, 8), weight)
    covered = np.zeros(size, bool)
    scaled = np.repeat(np.repeat(weight, 4, axis=0), 4, axis=1) > 0
    for place in places:
        covered[place.cell] = True
        rows, columns = place.cell
        near = scaled[max(0, rows.start - 4) : rows.stop + 4, max(0, columns.start - 4) : columns.stop + 4]
        assert near.any()
    assert np.all(covered[scaled])
    assert whole == len(spans(400, TileShape(64, 8))) * len(spans(600, TileShape(64, 8)))
    assert len(places) < whole / 4
    assert plan(size, TileShape(64, 8), np.zeros_like(weight)) == ((), whole)


def test_a_tile_holds_its_window_and_knows_where_it_is() -> None:
    image, mask = noise(200, 300), np.random.default_rng(0).random((200, 300), dtype=np.float32)
    places, _ = plan((200, 300), TileShape(64, 8), np.full((200, 300), 1, np.uint8))
    for place in places:
        tile = cut(image, mask, place, 64)
        top, left, height, width = (int(value) for value in tile.frame)
        assert (height, width) == (200, 300)
        inside = slice(0, min(64, 200 - top)), slice(0, min(64, 300 - left))
        assert np.array_equal(tile.image[inside], image[top : top + 64, left : left + 64])
        assert np.array_equal(tile.mask[inside], mask[top : top + 64, left : left + 64])
        assert tile.image.flags.c_contiguous
        assert [str(plane.dtype) for plane in (tile.image, tile.mask, tile.frame)] == ["uint8", "float32", "float32"]
        assert not np.shares_memory(tile.mask, mask)


def test_a_canvas_smaller_than_a_tile_is_continued_by_its_border() -> None:
    image, mask = noise(20, 30), np.random.default_rng(0).random((20, 30), dtype=np.float32)
    ((place,), _) = plan((20, 30), TileShape(64, 8), np.full((20, 30), 1, np.uint8))
    tile = cut(image, mask, place, 64)
    assert np.array_equal(tile.mask, np.pad(mask, ((0, 44), (0, 34)), mode="edge"))
    assert np.array_equal(tile.image, np.pad(image, ((0, 44), (0, 34), (0, 0)), mode="edge"))
    assert list(tile.frame) == [0, 0, 20, 30]


@pytest.mark.parametrize(("side", "halo"), [(0, 0), (60, 0), (64, -1), (64, 29)])
def test_impossible_tiles(side: int, halo: int) -> None:
    with pytest.raises(ValueError, match=r"expected .* found"):
        TileShape(side, halo)

"""Continuous alignment: stencils, weights and positions, against their definitions and bilinear interpolation."""

import pytest
import torch
from torch.nn import functional as F

from modeling.crm.alignment import AxisStencil, axis_stencil, centres, frame_positions, ratio, whole_frame
from tests.support.tolerance import CRM_BILINEAR

GRIDS = [
    ((8, 8), (16, 16)),
    ((5, 9), (10, 18)),
    ((6, 4), (33, 17)),
    ((7, 5), (7, 5)),
    ((3, 8), (24, 64)),
    ((1, 2), (9, 5)),
]


def interpolated(features: torch.Tensor, rows: AxisStencil, columns: AxisStencil) -> torch.Tensor:
    """What the decoder gives whose perceptron reads out one feature."""
    total = torch.zeros(len(rows.cells[0]), len(columns.cells[0]))
    for i in (0, 1):
        for j in (0, 1):
            weight = rows.weights[i][:, None] * columns.weights[j][None]
            total += weight * features[rows.cells[i]][:, columns.cells[j]]
    return total


@pytest.mark.parametrize(("cells", "targets"), GRIDS)
def test_reading_out_a_feature_is_bilinear_interpolation(cells, targets):
    features = torch.randn(cells, generator=torch.Generator().manual_seed(1))
    stencils = [axis_stencil(*pair) for pair in zip(cells, targets, strict=True)]
    expected = F.interpolate(features[None, None], size=targets, mode="bilinear", align_corners=False)[0, 0]
    assert (interpolated(features, *stencils) - expected).abs().max() < CRM_BILINEAR


@pytest.mark.parametrize(("cells", "targets"), GRIDS[:3])
def test_weights_that_are_not_swapped_fail_that_test(cells, targets):
    """Each cell weighed by its own rectangle instead of the opposite one: the mistake that is easily made."""
    features = torch.randn(cells, generator=torch.Generator().manual_seed(1))
    wrong = []
    for pair in zip(cells, targets, strict=True):
        right = axis_stencil(*pair)
        wrong.append(AxisStencil(right.cells, right.relative, right.weights.flip(0)))
    expected = F.interpolate(features[None, None], size=targets, mode="bilinear", align_corners=False)[0, 0]
    assert (interpolated(features, *wrong) - expected).abs().max() > 0.1


@pytest.mark.parametrize(("cells", "targets"), GRIDS)
def test_weights_are_shares(cells, targets):
    for pair in zip(cells, targets, strict=True):
        weights = axis_stencil(*pair).weights
        assert (weights >= 0).all()
        assert torch.allclose(weights.sum(0), torch.ones(pair[1]), atol=1e-7)


def test_the_coordinates_are_the_papers():
    """C_r = (C_t - C_f) h of each supporting cell, by hand for four pixels over two cells."""
    stencil = axis_stencil(2, 4)
    assert centres(4).tolist() == [-0.75, -0.25, 0.25, 0.75]
    assert stencil.cells.tolist() == [[0, 0, 0, 1], [0, 1, 1, 1]]
    # A cell is 2 wide: pixels lie half a unit from their own cell's centre, and 1.5 from the next one's.
    assert stencil.relative.tolist() == [[-0.5, 0.5, 1.5, 0.5], [-0.5, -1.5, -0.5, 0.5]]
    assert torch.allclose(stencil.weights, torch.tensor([[0.5, 0.75, 0.25, 0.5], [0.5, 0.25, 0.75, 0.5]]))


def test_r_is_the_scale_of_the_input():
    """An encoder of stride 2 that is fed at scale s: r = s."""
    for scale in (1.0, 0.5, 0.25, 0.125):
        assert ratio(int(1024 * scale) // 2, 1024) == scale


def test_at_full_scale_the_stencil_is_nine_three_three_one():
    weights = axis_stencil(64, 128).weights[:, 1:-1]
    assert set(weights.flatten().tolist()) == {0.25, 0.75}


def test_half_precision_loses_the_cells_of_a_large_image():
    """At 6000 rows fp16 arithmetic reads other cells than float64, and float32 does not."""
    exact = axis_stencil(3000, 6000)
    assert torch.equal(axis_stencil(3000, 6000, dtype=torch.float32).cells, exact.cells)
    for half, distinct in ((torch.float16, 5050), (torch.bfloat16, 1400)):
        assert not torch.equal(axis_stencil(3000, 6000, dtype=half).cells, exact.cells)
        assert len(centres(6000).to(half).unique()) == pytest.approx(distinct, rel=0.01)
    assert len(centres(6000).float().unique()) == 6000


def test_positions_in_half_precision_are_refused():
    with pytest.raises(TypeError, match=r"`frame` in float32, found torch\.float16"):
        frame_positions(whole_frame(1, (8, 8)).half(), (8, 8), (1.0, 1.0))


def test_positions_of_a_tile_are_those_of_its_canvas():
    whole = frame_positions(whole_frame(1, (600, 400)), (600, 400), (1.0, 1.0))
    tile = frame_positions(torch.tensor([[160.0, 80.0, 600.0, 400.0]]), (64, 64), (1.0, 1.0))
    assert torch.allclose(tile[0], whole[0][:, 160:224], atol=1e-7)
    assert torch.allclose(tile[1], whole[1][:, 80:144], atol=1e-7)
    assert torch.allclose(whole[0][0], centres(600).float(), atol=1e-7)


def test_positions_of_a_finer_target_cover_the_same_frame():
    rows, columns = frame_positions(whole_frame(1, (32, 16)), (256, 128), (0.125, 0.125))
    assert torch.allclose(rows[0], centres(256).float(), atol=1e-7)
    assert torch.allclose(columns[0], centres(128).float(), atol=1e-7)

"""Colour cues: box means as pooling gives them, wherever they are; cells without being unshuffled."""

import pytest
import torch
from torch.nn import functional as F

from modeling.crm.colour_cue import box_means
from modeling.crm.encoder import CellConv
from tests.support.tolerance import CRM_POINTS


@pytest.mark.parametrize("box", [1, 3, 5, 7, 9, 15])
def test_box_means_are_those_of_pooling(box: int):
    planes = torch.rand(2, 3, 20, 33, generator=torch.Generator().manual_seed(0))
    expected = F.avg_pool2d(planes, box, 1, box // 2, count_include_pad=False)
    assert (box_means(planes, box) - expected).abs().max() < CRM_POINTS


def test_a_mean_has_the_same_bits_in_every_tile():
    """What a quotient makes large later must not depend on where in a tile a pixel lies."""
    planes = torch.rand(1, 3, 90, 90, generator=torch.Generator().manual_seed(0))
    part = box_means(planes[:, :, 13:77, 5:70], 15)
    assert torch.equal(part[:, :, 7:-7, 7:-7], box_means(planes, 15)[:, :, 20:70, 12:63])


def test_a_convolution_of_cells_is_that_of_unshuffled_pixels():
    layer = CellConv(12, 5, 1)
    planes = torch.randn(2, 3, 10, 14, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = F.conv2d(F.pixel_unshuffle(planes, 2), layer.weight, layer.bias)
        assert (layer(planes) - expected).abs().max() < CRM_POINTS

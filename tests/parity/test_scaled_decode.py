"""A JPEG decoded at a reduced scale shows the network nearly what the published preprocessing would."""

import numpy as np
import pytest
from PIL import Image

from matting.geometry import fit
from server.pipeline.decode import decode
from server.pipeline.header import ImageLimits, read_header
from tests.support.images import PHOTOGRAPHS, jpeg, noise, photograph
from tests.support.tolerance import SCALED_DECODE_MAX_LEVELS, SCALED_DECODE_MEAN_LEVELS

CANVAS = (128, 128)
ENOUGH = (256, 256)


@pytest.mark.parametrize("name", PHOTOGRAPHS)
@pytest.mark.parametrize(("side", "scale"), [(512, 2), (564, 2), (1024, 4)])
def test_the_canvas_of_a_reduced_decode(name, side, scale):
    """With the noise of a sensor, because an enlarged photograph alone has nothing that a reduced decode could lose."""
    enlarged = np.asarray(Image.fromarray(photograph(name)).resize((side, side), Image.Resampling.BICUBIC))
    grain = np.random.default_rng(side).normal(0, 6, enlarged.shape)
    data = jpeg(np.rint(enlarged + grain).clip(0, 255).astype(np.uint8))
    header = read_header(data, ImageLimits())
    whole, reduced = decode(data, header).rgb, decode(data, header, ENOUGH).rgb
    assert reduced.shape[0] * scale == side
    difference = np.abs(fit(whole, CANVAS).astype(int) - fit(reduced, CANVAS))
    assert difference.mean() <= SCALED_DECODE_MEAN_LEVELS
    assert difference.max() <= SCALED_DECODE_MAX_LEVELS


def test_without_being_asked_nothing_is_reduced():
    data = jpeg(noise(1024, 1024))
    assert decode(data, read_header(data, ImageLimits())).rgb.shape == (1024, 1024, 3)

"""Arrays and Pillow's images of the same pixels: to the bit what Pillow's own conversions give."""

import numpy as np
import pytest
from PIL import Image

from matting.pictures import from_array, share, to_array
from tests.support.images import noise

SIZES = [(1, 1), (1, 300), (300, 1), (63, 5), (64, 5), (65, 5), (129, 70)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_an_image_becomes_the_array_that_pillow_would_make(size, mode):
    image = Image.fromarray(noise(*size)).convert(mode)
    np.testing.assert_array_equal(to_array(image), np.asarray(image))


@pytest.mark.parametrize("size", SIZES)
def test_an_array_becomes_the_image_that_pillow_would_make(size):
    pixels = noise(*size)
    image = from_array(pixels)
    assert (image.mode, image.size) == ("RGB", size[::-1])
    assert image.tobytes() == Image.fromarray(pixels).tobytes()


def test_a_part_of_an_array_becomes_an_image():
    pixels = noise(90, 70)
    np.testing.assert_array_equal(np.asarray(from_array(pixels[10:50, 20:60])), pixels[10:50, 20:60])


@pytest.mark.parametrize(("mode", "channels"), [("RGB", 3), ("RGBA", 4)])
def test_what_is_written_to_the_array_is_read_from_the_image(mode, channels):
    memory = np.zeros((30, 40, 4), np.uint8)
    image = share(memory, mode)
    memory[:] = np.random.default_rng(0).integers(0, 256, memory.shape)
    np.testing.assert_array_equal(np.asarray(image), memory[..., :channels])


def test_the_memory_lives_as_long_as_the_image():
    image = share(np.full((30, 40, 4), 7, np.uint8))
    others = [np.full((30, 40, 4), 9, np.uint8) for _ in range(20)]
    assert np.all(np.asarray(image) == 7)
    del others


def test_other_modes_are_refused():
    with pytest.raises(ValueError, match="expected an image of mode RGB or L, found CMYK"):
        to_array(Image.new("CMYK", (3, 3)))

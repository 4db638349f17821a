"""Composition: rounding, straight alpha, the input's own alpha, and exact ends of the scale."""

import numpy as np
import pytest

from matting.composition import composite, cutout, to_uint8, with_input_alpha
from tests.support import images


def test_every_level_survives_quantisation() -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert np.array_equal(to_uint8(levels.astype(np.float32) / np.float32(255)), levels)


def test_alpha_is_rounded_not_truncated() -> None:
    alpha = np.array([[0.999, 0.0019, 0.002, 0.5]], np.float32)
    assert to_uint8(alpha).tolist() == [[255, 0, 1, 128]]


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1)])
def test_thin_images_keep_their_shape(shape: tuple[int, int]) -> None:
    alpha, rgb = np.full(shape, 0.5, np.float32), np.full((*shape, 3), 9, np.uint8)
    assert to_uint8(alpha).shape == shape
    assert with_input_alpha(alpha, np.full(shape, 255, np.uint8)).shape == shape
    assert cutout(rgb, alpha).shape == (*shape, 4)
    assert composite(rgb, alpha, (0, 0, 0)).shape == (*shape, 3)


def test_a_cutout_is_straight() -> None:
    """Colours under half and fully transparent pixels are the image's, not multiplied by alpha."""
    matted = images.strands()
    rgba = cutout(matted.image, matted.alpha)
    assert rgba.dtype == np.uint8
    assert np.array_equal(rgba[..., :3], matted.image)
    assert np.array_equal(rgba[..., 3], to_uint8(matted.alpha))


@pytest.mark.parametrize("height", [1, 127, 128, 129, 300])
def test_a_composite_is_the_weighted_mean(height: int) -> None:
    generator = np.random.default_rng(height)
    rgb = images.noise(height, 50)
    alpha = generator.random((height, 50), dtype=np.float32)
    background = (255, 3, 128)
    weight = alpha[..., None].astype(np.float64)
    exact = weight * rgb + (1 - weight) * np.array(background)
    assert np.abs(composite(rgb, alpha, background) - exact).max() <= 0.5 + 0.01


def test_a_composite_is_exact_where_alpha_is_empty_or_full() -> None:
    rgb = np.arange(256, dtype=np.uint8).reshape(16, 16)[..., None].repeat(3, axis=2)
    assert np.array_equal(composite(rgb, np.ones((16, 16), np.float32), (1, 2, 3)), rgb)
    empty = composite(rgb, np.zeros((16, 16), np.float32), (1, 255, 3))
    assert np.array_equal(empty, np.broadcast_to(np.array([1, 255, 3], np.uint8), (16, 16, 3)))


def test_the_inputs_own_alpha_multiplies() -> None:
    alpha = np.array([[1.0, 1.0, 0.5, 0.0]], np.float32)
    given = np.array([[255, 0, 51, 255]], np.uint8)
    assert with_input_alpha(alpha, given)[0] == pytest.approx([1.0, 0.0, 0.1, 0.0], abs=1e-6)
    assert with_input_alpha(alpha, None) is alpha


def test_sizes_that_do_not_match_are_refused() -> None:
    alpha = np.zeros((4, 5), np.float32)
    with pytest.raises(ValueError, match=r"matte's size \(4, 5\), found \(5, 4\)"):
        cutout(np.zeros((5, 4, 3), np.uint8), alpha)
    with pytest.raises(ValueError, match="expected an image"):
        composite(np.zeros((4, 4, 3), np.uint8), alpha, (0, 0, 0))
    with pytest.raises(ValueError, match="expected an input alpha"):
        with_input_alpha(alpha, np.zeros((1, 1), np.uint8))

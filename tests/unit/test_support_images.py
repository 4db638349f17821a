"""The test images themselves: exact areas, honest encoders."""

import io

import numpy as np
import pytest
from PIL import Image

from tests.support import images


def test_mattes_have_the_area_that_geometry_says() -> None:
    assert images.disc(200, 200, radius=60).alpha.sum() == pytest.approx(np.pi * 60**2, rel=1e-3)
    assert images.half_plane(10, 100, edge=33.25).alpha.sum() == pytest.approx(332.5)
    assert images.strands(thickness=0.7).alpha[:40].max() == pytest.approx(0.7, abs=0.05)
    assert images.ring().alpha[96, 128] == 0.0


@pytest.mark.parametrize("make", [images.disc, images.half_plane, images.strands, images.ring])
def test_subjects_are_visible(make: object) -> None:
    matted = make(96, 128)  # type: ignore[operator]
    assert matted.image.shape == (96, 128, 3)
    assert 0.05 < matted.alpha.mean() < 0.6
    inside, outside = matted.image[matted.alpha > 0.99], matted.image[matted.alpha < 0.01]
    assert inside[:, 0].mean() > outside[:, 0].mean() + 50


def test_photographs_come_from_the_wheel() -> None:
    assert {name: pixels.shape[2] for name, pixels in images.photographs().items()} == dict.fromkeys(
        images.PHOTOGRAPHS, 3
    )


def test_encoders_say_what_they_hold() -> None:
    image = images.disc().image
    assert np.array_equal(images.decoded(images.png(image)), image)
    assert np.array_equal(images.decoded(images.webp(image)), image)
    assert np.abs(images.decoded(images.jpeg(image)).astype(int) - image).mean() < 5
    with Image.open(io.BytesIO(images.rotated_jpeg(image, 6))) as rotated:
        assert rotated.getexif()[0x0112] == 6
        assert rotated.size == (256, 192)
    with Image.open(io.BytesIO(images.huge_png_header(9000, 9000))) as huge:
        assert huge.size == (9000, 9000)

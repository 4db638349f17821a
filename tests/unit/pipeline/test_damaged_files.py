"""Files damaged at random, the same way every time: an image or a refusal comes out, and nothing else."""

import random

import numpy as np
import pytest
from PIL import Image

from server.errors import CorruptImageError, ImageTooLargeError, MetadataTooLargeError, NotAnImageError
from server.pipeline.decode import decode
from server.pipeline.header import ImageLimits, read_header
from tests.support import files
from tests.support.images import smooth

LIMITS = ImageLimits(max_pixels=1_000_000)
PIXELS = Image.fromarray(smooth(40, 56))


def _exif() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112], exif[0x011A] = 6, 72.0
    return exif


SOURCES = {
    "jpeg": files.saved(PIXELS, "JPEG", exif=_exif(), dpi=(72, 72)),
    "jpeg-progressive": files.saved(PIXELS, "JPEG", progressive=True),
    "jpeg-cmyk": files.saved(Image.new("CMYK", (30, 20)), "JPEG", icc_profile=files.red_cyan_profile()),
    "png": files.saved(PIXELS, "PNG", exif=_exif(), icc_profile=files.linear_grey_profile()),
    "png-palette": files.saved(PIXELS.quantize(16), "PNG", transparency=3),
    "webp": files.saved(PIXELS, "WEBP", exif=_exif()),
    "tiff": files.saved(PIXELS, "TIFF", exif=_exif()),
    "tiff-lzw": files.saved(PIXELS, "TIFF", compression="tiff_lzw"),
    "tiff-16": files.raw_tiff(np.zeros((20, 30), np.uint16), ">", bits=16),
    "bmp": files.saved(PIXELS, "BMP"),
    "gif": files.saved(PIXELS, "GIF", save_all=True, append_images=[Image.new("RGB", (56, 40))]),
    "avif": files.saved(PIXELS, "AVIF", exif=_exif()),
}


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Bytes changed, removed, inserted or cut off; most damage goes where headers are."""
    for _ in range(rng.choice((1, 1, 2, 5, 20))):
        place = rng.randrange(min(len(data), rng.choice((60, 400, len(data)))))
        kind = rng.random()
        if kind < 0.6:
            data = data[:place] + rng.randbytes(1) + data[place + 1 :]
        elif kind < 0.8:
            data = data[:place] + data[place + rng.randrange(1, 9) :]
        elif kind < 0.9:
            data = data[:place] + rng.randbytes(rng.randrange(1, 9)) + data[place:]
        else:
            data = data[: place + 1]
        data = data or b"x"
    return data


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", SOURCES)
def test_damage_is_an_error_of_the_request_or_an_image(name):
    rng = random.Random(name)  # noqa: S311 - reproducible damage, no secret
    outcomes = set()
    for _ in range(60):
        data = damaged(SOURCES[name], rng)
        try:
            image = decode(data, read_header(data, LIMITS))
        except (CorruptImageError, NotAnImageError, ImageTooLargeError, MetadataTooLargeError) as error:
            outcomes.add(error.detail.split()[0])
        else:
            assert image.rgb.shape[:2] == image.size
            assert image.alpha is None or image.alpha.shape == image.size
            outcomes.add("image")
    assert "expected" in outcomes
    assert outcomes <= {"expected", "image"}

"""Limits hold before a pixel is allocated, and every refusal says what was expected and what was found."""

import time
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image

from server.errors import BodyTooLargeError, CorruptImageError, EmptyBodyError, ImageTooLargeError, NotAnImageError
from server.pipeline.formats import READABLE, sniff
from server.pipeline.header import ImageHeader, ImageLimits, read_header
from tests.support import files
from tests.support.images import huge_png_header, jpeg, png, smooth, webp

FORMATS = ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "AVIF"]
LIMITS = ImageLimits()


def a_file(file_format: str, height: int = 30, width: int = 50) -> bytes:
    return files.saved(Image.fromarray(smooth(height, width)), file_format)


def test_every_readable_format_is_tested():
    assert set(FORMATS) == set(READABLE)


@pytest.mark.parametrize("file_format", FORMATS)
def test_format_and_size_come_from_the_bytes(file_format):
    assert read_header(a_file(file_format), LIMITS) == ImageHeader(file_format, (30, 50))


@pytest.mark.parametrize("options", [{"lossless": True}, {"lossless": False}, {"lossless": True, "exif": b"Exif\0\0x"}])
@pytest.mark.parametrize("alpha", [False, True])
def test_webp_size_in_each_of_its_three_headers(options, alpha):
    pixels = np.dstack([smooth(300, 500), np.full((300, 500), 7)])[..., : 4 if alpha else 3].astype(np.uint8)
    assert read_header(webp(pixels, **options), LIMITS).size == (300, 500)


@pytest.mark.parametrize("file_format", FORMATS)
def test_one_pixel_too_many(file_format):
    data = a_file(file_format)
    assert read_header(data, ImageLimits(max_pixels=1500)).megapixels == pytest.approx(0.0015)
    with pytest.raises(
        ImageTooLargeError, match=r"expected at most 0\.001499 megapixels, found 50×30 = 0\.0 megapixels"
    ):
        read_header(data, ImageLimits(max_pixels=1499))


def test_one_byte_too_many():
    data = a_file("PNG")
    read_header(data, ImageLimits(max_bytes=len(data)))
    with pytest.raises(BodyTooLargeError, match=f"expected at most {len(data) - 1} bytes, found {len(data)}"):
        read_header(data, ImageLimits(max_bytes=len(data) - 1))


def test_a_bomb_is_refused_at_once_without_memory():
    bomb = huge_png_header(13000, 13000)
    tracemalloc.start()
    started = time.thread_time()
    with pytest.raises(
        ImageTooLargeError, match=r"expected at most 50 megapixels, found 13000×13000 = 169\.0 megapixels"
    ):
        read_header(bomb, LIMITS)
    elapsed = time.thread_time() - started
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert elapsed < 0.05
    assert peak < 1 << 20


@pytest.mark.parametrize("pixels", [100e6, 400e6])
def test_pillow_does_not_speak_before_us(pixels):
    """Pillow warns from 89 Mpixel on, and raises another exception from 179 on; the suite makes warnings errors."""
    side = int(pixels**0.5)
    with pytest.raises(ImageTooLargeError):
        read_header(huge_png_header(side, side), LIMITS)
    data = huge_png_header(side, side) + bytes(10_000)  # more bytes, for the ratio
    assert read_header(data, ImageLimits(max_pixels=10**9)).size == (side, side)


def test_a_huge_webp_canvas_is_refused_before_it_is_allocated():
    data = bytearray(webp(smooth(30, 50), exif=b"Exif\0\0x"))
    data[24:30] = (16382).to_bytes(3, "little") * 2
    with pytest.raises(ImageTooLargeError, match="16383×16383"):
        read_header(bytes(data), LIMITS)


def test_metadata_in_front_of_the_pixels_is_not_inflated_to_learn_the_size():
    """A thousand compressed texts of a megabyte each: reading them all takes a second."""
    chunk = files.png_chunk(b"zTXt", b"x\0\0" + zlib.compress(bytes(1 << 20)))
    data = png(smooth(30, 50))
    started = time.thread_time()
    assert read_header(data[:33] + chunk * 1000 + data[33:], LIMITS).size == (30, 50)
    assert time.thread_time() - started < 0.05


def test_empty():
    with pytest.raises(EmptyBodyError, match="found 0 bytes"):
        read_header(b"", LIMITS)


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"%PDF-1.7 ...", "a PDF document"),
        (b"PK\x03\x04....", "a ZIP archive"),
        (b"  <svg xmlns=", "an SVG drawing"),
        (b"<!doctype html><html>", "an HTML page"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "a HEIC image"),
        (b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom", "an ISO media file of the brand b'mp42'"),
        (b'{"image_url": "x"}', "JSON"),
        (b"data:image/png;base64,iVBOR", "a data URL"),
        (b"hello", "5 bytes that begin with 68 65 6c 6c 6f"),
        (b"\0", "1 bytes that begin with 00"),
    ],
)
def test_what_is_no_image_is_named(data, found):
    with pytest.raises(NotAnImageError) as caught:
        read_header(data, LIMITS)
    assert "expected an image (JPEG, PNG, WEBP, TIFF, BMP, GIF, AVIF)" in caught.value.detail
    assert f"found {found}" in caught.value.detail


def test_avif_by_its_compatible_brands():
    assert sniff(b"\0\0\0\x1cftypmif1\0\0\0\0mif1avifmiaf") == "AVIF"
    with pytest.raises(NotAnImageError, match="HEIF"):
        sniff(b"\0\0\0\x18ftypmif1\0\0\0\0mif1heicavif")  # the last four bytes are outside the box


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("file_format", FORMATS)
def test_a_file_that_ends_in_its_header_is_damaged_and_not_unknown(file_format):
    data = a_file(file_format)
    with pytest.raises(CorruptImageError, match=f"expected a whole {file_format} image, found one whose header"):
        read_header(data[: 16 if file_format == "AVIF" else 12] if file_format != "GIF" else data[:7], LIMITS)


def test_no_pixels():
    with pytest.raises(CorruptImageError):
        read_header(huge_png_header(0, 5), LIMITS)


@pytest.mark.parametrize("make", [jpeg, png, webp])
def test_a_header_costs_less_than_a_millisecond_or_so(make):
    data = make(smooth(1500, 2000))
    read_header(data, LIMITS)
    started = time.thread_time()
    for _ in range(10):
        read_header(data, LIMITS)
    assert (time.thread_time() - started) / 10 < 0.02

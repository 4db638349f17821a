"""Answers: lossless where promised, with the upload's metadata, and refused where the format cannot carry them."""

import io
import sys
import time
import zipfile
from typing import IO, Any

import numpy as np
import pytest
from PIL import Image, ImageCms, TiffImagePlugin

from server.errors import InvalidOptionError
from server.pipeline.decode import Metadata, decode
from server.pipeline.encode import MEDIA_TYPES, Compression, check_combination, check_size, encode, formats_of
from server.pipeline.header import ImageLimits, read_header
from server.pipeline.request import Output, OutputFormat
from tests.support import files
from tests.support.images import noise, smooth

PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
MATTE = smooth(45, 70)[..., 0].copy()
RGB = smooth(45, 70)
RGBA = np.dstack([RGB, MATTE])
SHARP = Compression()


def opened(body: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(body))
    image.load()
    return image


@pytest.mark.parametrize("level", range(10))
@pytest.mark.parametrize(("pixels", "mode"), [(MATTE, "L"), (RGB, "RGB"), (RGBA, "RGBA"), (noise(9, 4), "RGB")])
def test_png_is_lossless_at_every_level(pixels, mode, level):
    image = opened(encode(pixels, OutputFormat.PNG, Metadata(), Compression(png_level=level)))
    assert (image.format, image.mode) == ("PNG", mode)
    np.testing.assert_array_equal(np.asarray(image), pixels)


def test_png_level_matters():
    sizes = [len(encode(RGBA, OutputFormat.PNG, Metadata(), Compression(png_level=level))) for level in (0, 1, 9)]
    assert sizes[0] > RGBA.nbytes > sizes[1] > sizes[2]


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1)])
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("file_format", [OutputFormat.PNG, OutputFormat.WEBP])
def test_extreme_shapes(shape, channels, file_format):
    pixels = np.full((*shape, channels), 255, np.uint8)
    if channels == 1:
        pixels = pixels[..., 0]
    assert opened(encode(pixels, file_format, Metadata(), SHARP)).size == shape[::-1]


@pytest.mark.parametrize("colour", [(0, 1, 2), (200, 150, 100)])
@pytest.mark.parametrize("alpha", [0, 1, 128, 255])
def test_png_keeps_straight_colours_under_any_alpha(colour, alpha):
    """The golden value: 200 at half alpha is stored as 200, not as 100."""
    pixels = np.full((8, 8, 4), (*colour, alpha), np.uint8)
    body = encode(pixels, OutputFormat.PNG, Metadata(), SHARP)
    assert opened(body).getpixel((3, 3)) == (*colour, alpha)


def test_webp_matte_is_lossless():
    image = opened(encode(MATTE, OutputFormat.WEBP, Metadata(), SHARP))
    np.testing.assert_array_equal(np.asarray(image)[..., 0], MATTE)


def test_webp_cutout_keeps_alpha_exactly_and_colours_straight():
    image = opened(encode(np.full((64, 64, 4), (200, 150, 100, 128), np.uint8), OutputFormat.WEBP, Metadata(), SHARP))
    found = np.asarray(image)
    assert (found[..., 3] == 128).all()
    assert np.abs(found[..., :3].astype(int) - (200, 150, 100)).max() <= 4
    gradient = np.asarray(opened(encode(RGBA, OutputFormat.WEBP, Metadata(), SHARP)))
    np.testing.assert_array_equal(gradient[..., 3], MATTE)


@pytest.mark.parametrize(("pixels", "mode"), [(MATTE, "L"), (RGB, "RGB")])
def test_jpeg(pixels, mode):
    image = opened(encode(pixels, OutputFormat.JPEG, Metadata(), SHARP))
    assert (image.format, image.mode) == ("JPEG", mode)
    assert np.abs(np.asarray(image).astype(int) - pixels).mean() < 6


def test_quality_matters():
    pixels = noise(64, 64)
    for file_format, low, high in [
        (OutputFormat.JPEG, Compression(jpeg_quality=30), Compression(jpeg_quality=95)),
        (OutputFormat.WEBP, Compression(webp_quality=30), Compression(webp_quality=95)),
    ]:
        assert len(encode(pixels, file_format, Metadata(), low)) < len(encode(pixels, file_format, Metadata(), high))


@pytest.mark.parametrize(
    ("pixels", "file_format"),
    [
        (RGBA, OutputFormat.PNG),
        (RGB, OutputFormat.PNG),
        (RGBA, OutputFormat.WEBP),
        (RGB, OutputFormat.WEBP),
        (RGB, OutputFormat.JPEG),
        (RGBA, OutputFormat.TIFF),
        (RGB, OutputFormat.TIFF),
    ],
)
def test_profile_and_resolution_survive_a_round_trip(pixels, file_format):
    body = encode(pixels, file_format, Metadata(PROFILE, (300.0, 150.0)), SHARP)
    found = decode(body, read_header(body, ImageLimits())).metadata
    assert found.icc_profile == PROFILE
    assert found.dpi == pytest.approx((300, 150), abs=0.02)


@pytest.mark.parametrize("file_format", [name for name in formats_of(Output.MATTE) if name != "npy"])
def test_a_matte_keeps_the_resolution_but_no_colour_profile(file_format):
    body = encode(MATTE, file_format, Metadata(PROFILE, (300.0, 300.0)), SHARP)
    found = decode(body, read_header(body, ImageLimits())).metadata
    assert found.dpi == pytest.approx((300, 300), abs=0.02)
    assert "icc_profile" not in opened(body).info


@pytest.mark.parametrize("file_format", [name for name in formats_of(Output.COMPOSITE) if name != "npy"])
def test_nothing_is_invented(file_format):
    body = encode(RGB, file_format, Metadata(), SHARP)
    assert decode(body, read_header(body, ImageLimits())).metadata == Metadata()
    invented = {"dpi"} if file_format is OutputFormat.TIFF else set()  # by Pillow, when it opens one that does not say
    assert not opened(body).info.keys() & {"icc_profile", "dpi", "exif", "xmp", "comment"} - invented


def test_png_chunks_come_in_the_order_of_the_standard():
    body = encode(RGB, OutputFormat.PNG, Metadata(PROFILE, (72.0, 72.0)), SHARP)
    names = list(files.png_chunks(body))
    assert names.index(b"IHDR") < names.index(b"iCCP") < names.index(b"pHYs") < names.index(b"IDAT")


@pytest.mark.parametrize("output", list(Output))
@pytest.mark.parametrize("file_format", list(OutputFormat))
def test_jpeg_of_what_it_would_spoil_and_a_zip_of_anything_but_a_cutout_are_impossible(output, file_format):
    spoilt = file_format is OutputFormat.JPEG and output in (Output.CUTOUT, Output.TRIMAP)
    if spoilt or (file_format is OutputFormat.ZIP and output is not Output.CUTOUT):
        with pytest.raises(InvalidOptionError, match=rf"expected format=png .* for output={output}, found format="):
            check_combination(output, file_format)
        assert file_format not in formats_of(output)
    else:
        check_combination(output, file_format)
        assert file_format in formats_of(output)


def test_sides_beyond_the_format_are_refused_with_a_way_out():
    check_size((16383, 10), OutputFormat.WEBP)
    with pytest.raises(
        InvalidOptionError, match=r"at most 16383 pixels for format=webp, found 10×16384: use format=png or"
    ):
        check_size((16384, 10), OutputFormat.WEBP)
    with pytest.raises(InvalidOptionError, match=r"use format=png or format=tiff"):
        check_size((10, 65501), OutputFormat.JPEG)
    check_size((1, 1_000_000), OutputFormat.PNG)


@pytest.mark.parametrize(
    ("file_format", "side"),
    [(OutputFormat.WEBP, 16383), (OutputFormat.JPEG, 65500), (OutputFormat.PNG, 70000), (OutputFormat.TIFF, 70000)],
)
def test_the_longest_sides_can_really_be_written(file_format, side):
    assert opened(encode(np.zeros((2, side), np.uint8), file_format, Metadata(), SHARP)).size == (side, 2)


@pytest.mark.parametrize("output", list(Output))
@pytest.mark.parametrize("file_format", list(OutputFormat))
def test_sixteen_bits_are_for_mattes_as_png_or_tiff(output, file_format):
    if output is Output.MATTE and file_format in (OutputFormat.PNG, OutputFormat.TIFF):
        check_combination(output, file_format, 16)
        assert file_format in formats_of(output, 16)
    else:
        with pytest.raises(InvalidOptionError, match=r"expected .* found .*format="):
            check_combination(output, file_format, 16)
        assert file_format not in formats_of(output, 16)


@pytest.mark.parametrize("file_format", formats_of(Output.MATTE, 16))
def test_sixteen_bits_are_kept(file_format):
    deep = (np.arange(45 * 70, dtype=np.uint32) * 20 % 65536).astype(np.uint16).reshape(45, 70)
    image = opened(encode(deep, file_format, Metadata(), SHARP))
    assert image.mode == "I;16"
    np.testing.assert_array_equal(np.asarray(image), deep)


@pytest.mark.parametrize(("pixels", "mode"), [(MATTE, "L"), (RGB, "RGB"), (RGBA, "RGBA"), (noise(9, 4), "RGB")])
def test_tiff_is_lossless_and_its_alpha_straight(pixels, mode):
    image = opened(encode(pixels, OutputFormat.TIFF, Metadata(), SHARP))
    assert (image.format, image.mode) == ("TIFF", mode)
    np.testing.assert_array_equal(np.asarray(image), pixels)
    if mode == "RGBA":
        assert isinstance(image, TiffImagePlugin.TiffImageFile)
        assert image.tag_v2[338] == (2,)  # ExtraSamples: unassociated alpha


@pytest.mark.parametrize("pixels", [MATTE, RGB, RGBA, MATTE.astype(np.float32) / 255])
def test_npy_is_the_array(pixels):
    found = np.load(io.BytesIO(encode(pixels, OutputFormat.NPY, Metadata(), SHARP)), allow_pickle=False)
    assert found.dtype == pixels.dtype
    np.testing.assert_array_equal(found, pixels)


@pytest.mark.parametrize("pixels", [MATTE, RGB, noise(65, 129)])
def test_jpegs_are_the_bytes_that_pillow_writes_by_itself(pixels):
    expected = io.BytesIO()
    Image.fromarray(pixels).save(expected, "JPEG", quality=SHARP.jpeg_quality, dpi=(0, 0))
    assert encode(pixels, OutputFormat.JPEG, Metadata(), SHARP) == expected.getvalue()


@pytest.mark.parametrize(("pixels", "file_format"), [(RGB, OutputFormat.JPEG), (RGBA, OutputFormat.ZIP)])
def test_jpegs_are_encoded_without_the_interpreters_lock(pixels, file_format, monkeypatch):
    """Which Pillow holds wherever it cannot write to a descriptor, for as long as encoding takes."""
    saved = []

    def spy(image: Image.Image, file: IO[bytes], *arguments: Any, **options: Any) -> None:
        saved.append(file.fileno())
        save(image, file, *arguments, **options)

    save = Image.Image.save
    monkeypatch.setattr(Image.Image, "save", spy)
    encode(pixels, file_format, Metadata(), SHARP)
    assert len(saved) == 1


def test_media_types():
    assert {name: MEDIA_TYPES[name] for name in OutputFormat} == {
        "png": "image/png",
        "webp": "image/webp",
        "jpeg": "image/jpeg",
        "zip": "application/zip",
        "tiff": "image/tiff",
        "npy": "application/x-npy",
    }


def test_zip_holds_the_two_halves_of_a_cutout():
    body = encode(RGBA, OutputFormat.ZIP, Metadata(PROFILE, (300, 150)), SHARP)
    with zipfile.ZipFile(io.BytesIO(body)) as archive:
        assert archive.namelist() == ["color.jpg", "alpha.png"]
        assert {entry.compress_type for entry in archive.infolist()} == {zipfile.ZIP_STORED}
        assert archive.testzip() is None
        colour, alpha = (opened(archive.read(name)) for name in archive.namelist())
    assert (colour.format, colour.mode, alpha.format, alpha.mode) == ("JPEG", "RGB", "PNG", "L")
    np.testing.assert_array_equal(np.asarray(alpha), MATTE)
    assert np.abs(np.asarray(colour).astype(int) - RGB).mean() < 6
    assert (colour.info["icc_profile"], colour.info["dpi"]) == (PROFILE, (300, 150))
    assert "icc_profile" not in alpha.info
    assert alpha.info["dpi"] == pytest.approx((300, 150), abs=0.02)


def test_equal_zips_are_equal_bytes(monkeypatch):
    first = encode(RGBA, OutputFormat.ZIP, Metadata(), SHARP)
    monkeypatch.setattr(time, "localtime", lambda *_: pytest.fail("the clock was asked"))
    monkeypatch.setattr(sys, "platform", "win32")
    assert encode(RGBA, OutputFormat.ZIP, Metadata(), SHARP) == first


@pytest.mark.parametrize("output", [Output.MATTE, Output.COMPOSITE])
def test_zip_is_for_cutouts(output):
    with pytest.raises(InvalidOptionError, match="found format=zip: a ZIP holds the two halves of a cutout"):
        check_combination(output, OutputFormat.ZIP)

"""The fidelity table of the design (`reference/serving.md` 2.6), row by row, from upload to answer over REST.

The fake device's matte is the luminance of what it sees, so what an upload holds can be read off the answer.
"""

import io
import zipfile
import zlib
from collections.abc import AsyncIterator, Callable

import httpx
import numpy as np
import pytest
import pytest_asyncio
from PIL import Image, ImageCms

from tests.support import files
from tests.support.clients import RunningServer, running_server
from tests.support.hostile import MEGAPIXELS_169, flat_png
from tests.support.images import decoded, jpeg, png, rotated_jpeg, smooth

PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
PHOTO = smooth(90, 120)
RED = (250, 10, 10)


@pytest_asyncio.fixture(loop_scope="function")
async def server() -> AsyncIterator[RunningServer]:
    async with running_server() as running:
        yield running


async def answered(server: RunningServer, upload: bytes, **options: str) -> Image.Image:
    response = await server.post(upload, **options)
    assert response.status_code == 200, response.text
    image = Image.open(io.BytesIO(response.content))
    image.load()
    return image


async def refused(server: RunningServer, upload: bytes) -> tuple[int, str]:
    response: httpx.Response = await server.post(upload)
    assert response.headers["content-type"] == "application/problem+json"
    return response.status_code, response.json()["code"]


async def test_row_exif_orientation_6_is_rotated(server):
    stored = np.zeros((40, 80, 3), np.uint8)
    stored[:, :40] = 255  # the left half of what is stored is the top half of what is seen
    cutout = await answered(server, rotated_jpeg(stored, 6), output="cutout", foreground="original")
    assert cutout.size == (40, 80)
    seen = np.asarray(cutout)[..., :3].astype(int)
    assert seen[:36].min() > 240
    assert seen[44:].max() < 15
    assert not cutout.getexif().get(0x0112), "or a viewer would turn it again"


@pytest.mark.parametrize("file_format", ["png", "webp", "jpeg", "zip"])
async def test_row_icc_profile_and_300_dpi_are_kept(server, file_format):
    upload = jpeg(PHOTO, icc_profile=PROFILE, dpi=(300, 300))
    output = "composite" if file_format == "jpeg" else "cutout"
    response = await server.post(upload, output=output, format=file_format)
    body = response.content
    if file_format == "zip":
        with zipfile.ZipFile(io.BytesIO(body)) as archive:
            body = archive.read("color.jpg")
    image = Image.open(io.BytesIO(body))
    assert image.info["icc_profile"] == PROFILE
    found = image.info["dpi"][0] if file_format != "webp" else float(image.getexif()[0x011A])
    assert found == pytest.approx(300, abs=0.02)


async def test_row_transparency_of_the_upload_is_kept(server):
    pixels = np.full((60, 80, 4), (200, 150, 100, 255), np.uint8)
    pixels[:, :40, 3] = 0
    cutout = np.asarray(await answered(server, png(pixels), output="cutout", foreground="original"))
    assert cutout[:, :40, 3].max() == 0
    assert cutout[:, 40:, 3].min() > 100
    assert (cutout[:, 40:, :3] == (200, 150, 100)).all(), "straight, not premultiplied"


async def test_row_16_bit_grey_is_not_white(server):
    ramp = np.linspace(0, 65535, 64 * 64).astype(np.uint16).reshape(64, 64)
    cutout = np.asarray(
        await answered(server, files.raw_png(ramp, files.GREY, 16), output="cutout", foreground="original")
    )
    assert np.abs(cutout[..., 0].astype(int) - np.rint(ramp / 257)).max() <= 1


def _save(image: Image.Image, file_format: str, **options: object) -> Callable[[], bytes]:
    return lambda: files.saved(image, file_format, **options)


FIRST, SECOND = Image.new("RGB", (64, 48), RED), Image.new("RGB", (64, 48), (10, 10, 250))
ALPHA = Image.new("RGBA", (64, 48), (*RED, 255))
CMYK = Image.new("CMYK", (64, 48), (0, 245, 245, 5))
FRAMES = {"save_all": True, "append_images": [SECOND]}
RED_UPLOADS: dict[str, Callable[[], bytes]] = {
    "jpeg": _save(FIRST, "JPEG", quality=95),
    "jpeg-progressive": _save(FIRST, "JPEG", quality=95, progressive=True),
    "jpeg-cmyk": _save(CMYK, "JPEG", quality=95),
    "mpo": _save(FIRST, "MPO", quality=95, **FRAMES),
    "png": _save(FIRST, "PNG"),
    "png-palette": _save(FIRST.quantize(4), "PNG"),
    "png-alpha": _save(ALPHA, "PNG"),
    "apng": _save(FIRST, "PNG", **FRAMES),
    "webp": _save(FIRST, "WEBP"),
    "webp-lossless-alpha": _save(ALPHA, "WEBP", lossless=True),
    "webp-animated": _save(FIRST, "WEBP", **FRAMES),
    "tiff": _save(FIRST, "TIFF"),
    "tiff-lzw": _save(FIRST, "TIFF", compression="tiff_lzw"),
    "tiff-deflate": _save(FIRST, "TIFF", compression="tiff_adobe_deflate"),
    "tiff-packbits": _save(FIRST, "TIFF", compression="packbits"),
    "tiff-jpeg": _save(FIRST, "TIFF", compression="jpeg"),
    "tiff-cmyk": _save(CMYK, "TIFF"),
    # Pillow notes in an image how it was saved last, and stumbles over it here.
    "tiff-pages": _save(FIRST.crop(), "TIFF", save_all=True, append_images=[SECOND.crop()]),
    "tiff-big-endian-16": lambda: files.raw_tiff(
        np.full((48, 64, 3), [level * 257 for level in RED], np.uint16), ">", bits=16, photometric=2
    ),
    "bmp": _save(FIRST, "BMP"),
    "gif": _save(FIRST, "GIF"),
    "gif-animated": _save(FIRST, "GIF", **FRAMES),
    "avif": _save(FIRST, "AVIF", quality=90),
    "avif-alpha": _save(ALPHA, "AVIF", quality=90),
    "avif-animated": _save(FIRST, "AVIF", quality=90, **FRAMES),
}


@pytest.mark.parametrize("name", RED_UPLOADS)
async def test_row_every_kind_of_file_gives_its_first_frame_in_its_colours(server, name):
    cutout = np.asarray(await answered(server, RED_UPLOADS[name](), output="cutout", foreground="original"))
    assert cutout.shape == (48, 64, 4)
    assert np.abs(cutout[..., :3].astype(int) - RED).max() <= 8
    assert len(np.unique(cutout[..., 3])) <= 3  # of one colour, up to the codec


def _interlaced_png() -> bytes:
    """Adam7 by hand (PNG third edition, 8.1), for no library here writes it: 8×8 grey, of level 8 · row + column."""
    passes = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
    levels = np.arange(64, dtype=np.uint8).reshape(8, 8)
    rows = b"".join(
        b"\0" + row.tobytes() for top, left, down, right in passes for row in levels[top::down, left::right]
    )
    data = bytearray(files.raw_png(levels, files.GREY, 8))
    chunks = files.png_chunks(bytes(data))
    header = chunks[b"IHDR"][:-1] + b"\1"
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return bytes(data[:8]) + b"".join(files.png_chunk(kind, content) for kind, content in parts)


async def test_interlaced_png(server):
    cutout = np.asarray(await answered(server, _interlaced_png(), output="cutout", foreground="original"))
    np.testing.assert_array_equal(cutout[..., 0], np.arange(64).reshape(8, 8))


async def test_gif_with_a_transparent_colour(server):
    image = Image.new("P", (64, 48), 1)
    image.putpalette([0, 0, 0, *RED, 255, 255, 255])
    image.paste(2, (0, 0, 32, 48))
    cutout = np.asarray(
        await answered(server, files.saved(image, "GIF", transparency=2), output="cutout", foreground="original")
    )
    assert cutout[:, :32, 3].max() == 0
    assert cutout[:, 32:, 3].min() > 0


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP", "TIFF", "AVIF"])
async def test_profile_and_orientation_of_every_format_that_has_them(server, file_format):
    exif = Image.Exif()
    exif[0x0112] = 6
    upload = files.saved(Image.fromarray(PHOTO), file_format, icc_profile=PROFILE, exif=exif)
    cutout = await answered(server, upload, output="cutout", foreground="original")
    assert cutout.size == (90, 120)
    assert cutout.info["icc_profile"] == PROFILE


@pytest.mark.parametrize(
    ("upload", "answer"),
    [
        (jpeg(PHOTO)[:700], (422, "corrupt-image")),
        (b"garbage", (415, "not-an-image")),
        (b"", (400, "empty-body")),
        (jpeg(PHOTO).replace(b"\xff\xc0\0\x11\x08", b"\xff\xc1\0\x11\x0c"), (415, "not-an-image")),
        (files.saved(Image.new("F", (8, 8)), "TIFF"), (415, "not-an-image")),
    ],
    ids=["truncated", "garbage", "empty", "12-bit", "float"],
)
async def test_row_what_cannot_be_read_is_refused_with_its_reason(server, upload, answer):
    assert await refused(server, upload) == answer


@pytest.mark.parametrize("shape", [(1, 1), (1, 4000), (4000, 1), (300, 300)])
async def test_row_extreme_shapes_and_all_black(server, shape):
    matte = decoded((await server.post(png(np.zeros((*shape, 3), np.uint8)))).content)
    assert matte.shape == shape
    assert matte.max() == 0, "empty, and not stretched to full contrast"


async def test_row_24_megapixels(server):
    assert (await answered(server, jpeg(smooth(4000, 6000)))).size == (6000, 4000)


@pytest.mark.parametrize("size", [MEGAPIXELS_169, (20_000, 20_000)], ids=["169-megapixels", "400-megapixels"])
async def test_row_bombs_are_refused(server, size):
    assert await refused(server, flat_png(*size)) == (413, "image-too-large")

"""What requests are said to take is what they take: measured, in a process of their own, native code included."""

import struct
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from PIL import Image

from matting.foreground import WORKING_BYTES_PER_PIXEL
from matting.refinement import EAGER, GUIDED, FusionOptions, GuidedFilter, RefineOptions, Tile, TileShape, refine, run
from server.pipeline.decode import Metadata
from server.pipeline.encode import Compression, formats_of
from server.pipeline.formats import READABLE
from server.pipeline.header import ImageHeader, ImageLimits, read_header
from server.pipeline.memory import DECODING, ENCODING, ESTIMATING, REFINING, memory_cost
from server.pipeline.refining import RefinePlan
from server.pipeline.request import Foreground, Output, OutputFormat, SegmentOptions
from server.pipeline.stages import COLOURLESS, Prepared, answer, prepare
from tests.support import files
from tests.support.images import noise, smooth
from tests.support.memory import measurable, peak_bytes

HEIGHT, WIDTH = 1500, 2000
PIXELS = HEIGHT * WIDTH
SLACK_BYTES = 3 << 20  # of the process: buffers of decoders, rounding of the allocator
LIMITS = ImageLimits()


def photo() -> Image.Image:
    return Image.fromarray(smooth(HEIGHT, WIDTH))


def with_alpha() -> Image.Image:
    image = photo()
    image.putalpha(Image.fromarray(smooth(HEIGHT, WIDTH, seed=3)[..., 0]))
    return image


def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def deep_grey() -> np.ndarray:
    return (np.arange(PIXELS, dtype=np.uint32) % 65536).astype(np.uint16).reshape(HEIGHT, WIDTH)


def bmp_with_alpha() -> bytes:
    """Of 32 bits with masks (BITMAPV4HEADER), the only kind whose alpha is read."""
    header = struct.pack("<IiiHHIIiiII", 108, WIDTH, HEIGHT, 1, 32, 3, 4 * PIXELS, 0, 0, 0, 0)
    masks = struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    start = 14 + 108
    body = (header + masks).ljust(108, b"\0") + np.asarray(with_alpha()).tobytes()
    return b"BM" + struct.pack("<IHHI", start + 4 * PIXELS, 0, 0, start) + body


WORST: dict[str, Callable[[], bytes]] = {
    "JPEG": lambda: files.saved(
        photo().convert("CMYK"), "JPEG", progressive=True, subsampling=0, icc_profile=files.red_cyan_profile()
    ),
    "PNG": lambda: files.raw_png(deep_grey(), files.GREY, 16, (b"tRNS", b"\0\1")),
    "WEBP": lambda: files.saved(with_alpha(), "WEBP", lossless=True, method=0, quality=0, exif=turned()),
    "TIFF": lambda: files.saved(with_alpha(), "TIFF", compression="tiff_adobe_deflate", tiffinfo={278: HEIGHT}),
    "BMP": bmp_with_alpha,
    "GIF": lambda: files.saved(Image.fromarray(smooth(HEIGHT, WIDTH)[..., 0]).convert("P"), "GIF", transparency=3),
    "AVIF": lambda: files.saved(with_alpha(), "AVIF", speed=10, subsampling="4:4:4", exif=turned()),
}


def decode_one(data: bytes) -> None:
    prepare(data, read_header(data, LIMITS), (64, 64), colours=True, scaled_decode=False)


def encode_one(options: SegmentOptions, pixels: np.ndarray) -> None:
    # Copies, because what a request holds already is part of what it takes.
    size = (pixels.shape[0], pixels.shape[1])
    colours = [] if options.output in COLOURLESS else [pixels.copy()]
    prepared = Prepared(pixels[:8, :8], colours.pop() if colours else None, pixels[..., 0].copy(), size, Metadata())
    coarse = np.random.default_rng(0).random((64, 64), dtype=np.float32)
    deep = options.format in formats_of(options.output, 16)  # whose matte takes more
    options = replace(options, depth=16 if deep else 8)
    answer(prepared, coarse, options, Compression())


def check(work: Callable[[], None], rehearsal: Callable[[], None], said: int) -> None:
    found = peak_bytes(work, rehearsal)
    assert found <= said * PIXELS + SLACK_BYTES, f"{found / PIXELS:.1f} bytes per pixel"
    assert found >= 0.6 * said * PIXELS, f"{found / PIXELS:.1f} bytes per pixel: so much is not needed"


needs_kernel = pytest.mark.skipif(not measurable(), reason="the kernel does not say how much memory was in use")


@needs_kernel
@pytest.mark.parametrize("file_format", DECODING)
def test_decoding_takes_what_is_said(file_format):
    small = files.saved(Image.new("RGB", (8, 8)), file_format)
    check(partial(decode_one, WORST[file_format]()), partial(decode_one, small), DECODING[file_format])


@needs_kernel
@pytest.mark.parametrize(("output", "file_format"), ENCODING)
def test_encoding_takes_what_is_said(output, file_format):
    options = SegmentOptions(output=output, format=file_format, foreground=Foreground.ORIGINAL)
    encode = partial(encode_one, options)
    check(partial(encode, noise(HEIGHT, WIDTH)), partial(encode, noise(8, 8)), ENCODING[output, file_format])


@needs_kernel
@pytest.mark.parametrize("size", [(HEIGHT, WIDTH), (500, 600)])
@pytest.mark.parametrize("output", ESTIMATING)
def test_estimating_colours_takes_what_is_said(output, size):
    """Of a matte that is undecided everywhere, so that every tile is worked on."""
    encode = partial(encode_one, SegmentOptions(output=output))
    found = peak_bytes(partial(encode, noise(*size)), partial(encode, noise(8, 8)))
    said = memory_cost(ImageHeader("JPEG", size), 0, SegmentOptions(output=output))
    assert found <= said + SLACK_BYTES
    assert found >= 0.6 * said


def refine_one(image: np.ndarray) -> None:
    """Undecided over a third of the frame, which is as wide as a band may be, and tiles that change all of it."""
    coarse = np.zeros((64, 64), np.float32)
    coarse[:, 30:42] = np.linspace(0.1, 0.9, 12, dtype=np.float32)
    coarse[:, 42:] = 1
    options = RefineOptions(EAGER.band, FusionOptions(agreement=100.0), batch=4)
    shape = TileShape(256, 40)
    refinement = refine(image.copy(), coarse, shape, options)
    refined = run(
        refinement,
        lambda tiles: [np.sqrt(tile.mask[tile.window(shape.answer)]) for tile in tiles if isinstance(tile, Tile)],
    )
    assert refined.report.dropped == 0
    assert image.shape[0] < 1000 or refined.report.stages[-1].band_share > 0.2


@needs_kernel
def test_refining_takes_what_is_said():
    check(partial(refine_one, noise(HEIGHT, WIDTH)), partial(refine_one, noise(300, 300)), REFINING)


def filter_one(image: np.ndarray) -> None:
    """With its edge across the whole frame, so that every tile is answered."""
    coarse = np.zeros((1024, 1024), np.float32)
    coarse[:, 480:672] = np.linspace(0.1, 0.9, 192, dtype=np.float32)
    plan = filter_plan(image.shape[:2])
    assert isinstance(plan.by, GuidedFilter)
    answer_tile = plan.by.answer
    refinement = refine(image, coarse, plan.by.shape, plan.options)
    run(refinement, lambda tiles: [answer_tile(tile) for tile in tiles if isinstance(tile, Tile)])


def filter_plan(size: tuple[int, ...]) -> RefinePlan:
    return RefinePlan(replace(GUIDED, batch=4), GuidedFilter.for_image((size[0], size[1]), (1024, 1024)))


@needs_kernel
@pytest.mark.parametrize("size", [(1100, 1100), (HEIGHT, WIDTH)])
def test_the_guided_filter_takes_what_is_said(size):
    """Near the network's own size most: the fit is then made at full resolution."""
    found = peak_bytes(partial(filter_one, noise(*size)), partial(filter_one, noise(1100, 40)))
    said = memory_cost(ImageHeader("GIF", size), 0, SegmentOptions(), filter_plan(size))
    assert found <= said + SLACK_BYTES, f"{found / 2**20:.0f} MiB, and {said / 2**20:.0f} are said"
    assert found >= 0.5 * said, f"{found / 2**20:.0f} MiB, and {said / 2**20:.0f} are said"


def test_every_format_and_every_combination_has_its_cost():
    assert set(DECODING) == set(READABLE)
    assert set(ENCODING) == {(output, file_format) for output in Output for file_format in formats_of(output)}


def test_the_cost_of_a_request_is_the_larger_half_of_it():
    header = ImageHeader("AVIF", (100, 200))
    cutout = SegmentOptions(output=Output.CUTOUT, format=OutputFormat.WEBP, foreground=Foreground.ORIGINAL)
    assert memory_cost(header, 1000, SegmentOptions()) == 2000 + 20_000 * DECODING["AVIF"]
    assert memory_cost(header, 1000, cutout) == 2000 + 20_000 * ENCODING[Output.CUTOUT, OutputFormat.WEBP]
    estimated = SegmentOptions(output=Output.COMPOSITE)
    assert memory_cost(header, 1000, estimated) == 2000 + 20_000 * (
        ESTIMATING[Output.COMPOSITE] + WORKING_BYTES_PER_PIXEL
    )

"""The fidelity table of the design (`reference/serving.md` 2.6): what a file stores is what the network sees."""

import io
import struct

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms, ImageFile, ImageOps, PngImagePlugin

from server.errors import CorruptImageError, NotAnImageError
from server.pipeline.decode import DecodedImage, decode
from server.pipeline.header import ImageLimits, read_header
from tests.support import files
from tests.support.images import jpeg, noise, png, rotated_jpeg, smooth, webp

PIXELS = smooth(21, 34)
RAMP16 = np.linspace(0, 65535, 21 * 34).round().astype(np.uint16).reshape(21, 34)
RAMP16_AS_8 = np.rint(RAMP16 / 257).astype(np.uint8)


def decoded(data: bytes, at_least: tuple[int, int] | None = None) -> DecodedImage:
    return decode(data, read_header(data, ImageLimits()), at_least)


def alpha_of(image: DecodedImage) -> np.ndarray:
    assert image.alpha is not None
    return image.alpha


def grey(levels) -> np.ndarray:
    return np.repeat(levels[..., None], 3, axis=2)


@pytest.mark.parametrize("file_format", ["PNG", "WEBP", "TIFF", "BMP"])
def test_lossless_formats_give_the_stored_pixels(file_format):
    image = decoded(
        files.saved(Image.fromarray(PIXELS), file_format, **({"lossless": True} if file_format == "WEBP" else {}))
    )
    assert image.alpha is None
    assert image.size == (21, 34)
    np.testing.assert_array_equal(image.rgb, PIXELS)


@pytest.mark.parametrize(("file_format", "mean"), [("JPEG", 2), ("AVIF", 3), ("GIF", 12)])
def test_lossy_formats_give_nearly_the_stored_pixels(file_format, mean):
    pixels = smooth(210, 340)
    image = decoded(files.saved(Image.fromarray(pixels), file_format))
    assert image.rgb.shape == pixels.shape
    assert np.abs(image.rgb.astype(int) - pixels).mean() < mean


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation_is_applied(orientation, file_format):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if file_format == "WEBP" else {}
    data = files.saved(Image.fromarray(PIXELS), file_format, exif=exif, **options)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
    image = decoded(data)
    np.testing.assert_array_equal(image.rgb, upright)
    assert image.size == upright.shape[:2] == ((34, 21) if orientation >= 5 else (21, 34))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    "make",
    [
        lambda exif: files.saved(Image.fromarray(smooth(90, 70)), "JPEG", exif=exif),
        lambda exif: png(np.dstack([smooth(90, 70), noise(90, 70)[..., 0]]), exif=exif),
        lambda exif: png(smooth(90, 70)[..., 0], exif=exif),
        lambda exif: files.saved(Image.fromarray(smooth(90, 70)), "TIFF", exif=exif),
    ],
    ids=["colours", "transparent", "grey", "tiff"],
)
@pytest.mark.parametrize("size", [(24, 32), (90, 70), (200, 300)])
def test_the_canvas_is_to_the_bit_what_the_upright_pixels_give(make, orientation, size):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = make(exif)
    canvas = decoded(data).squash(size)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGBA"))[..., :3]
    wanted = Image.fromarray(upright.copy()).resize(size[::-1], Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(canvas, wanted)
    image = decoded(data)
    rgb = image.rgb
    np.testing.assert_array_equal(image.squash(size), canvas, "after the colours were asked for")
    assert image.rgb is rgb


@pytest.mark.parametrize("make", [jpeg, png, lambda pixels: png(np.dstack([pixels, pixels[..., 0]]))])
def test_pixels_are_copied_without_the_interpreters_lock(make, monkeypatch):
    """Everything that Pillow itself makes into an array goes through `tobytes`, which holds it, for 20 ms or more."""
    data = make(smooth(90, 70))

    def hold(*_: object) -> bytes:
        raise AssertionError("expected no pixels to be copied by `tobytes`")

    monkeypatch.setattr(Image.Image, "tobytes", hold)
    image = decoded(data)
    assert image.squash((24, 32)).shape == (24, 32, 3)
    assert image.rgb.shape == (90, 70, 3)


@pytest.mark.parametrize("make", [jpeg, png, lambda pixels: png(np.dstack([pixels, pixels[..., 0]]))])
def test_what_a_decoder_does_not_reach_is_nobodys_pixels(make, monkeypatch):
    """It reaches nothing here, and memory that is not cleared holds something of another image."""
    data = make(smooth(90, 70))
    monkeypatch.setattr(np, "empty", lambda shape, dtype: np.full(shape, 77, dtype))
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda image: None)
    image = decoded(data)
    assert not image.rgb.any()
    assert image.alpha is None or not image.alpha.any()


def test_orientation_by_hand():
    """Not by Pillow's own word: orientation 6 says that the first stored row is the right-hand side."""
    stored = np.zeros((8, 16, 3), np.uint8)
    stored[0] = 255
    image = decoded(png(stored, exif=_exif(6)))
    assert image.rgb[:, -1].min() == 255
    assert image.rgb[:, :-1].max() == 0


def test_alpha_turns_with_the_image():
    pixels = np.dstack([PIXELS, np.arange(21 * 34, dtype=np.uint8).reshape(21, 34)])
    image = decoded(png(pixels, exif=_exif(8)))
    np.testing.assert_array_equal(alpha_of(image), np.rot90(pixels[..., 3]))
    np.testing.assert_array_equal(image.rgb, np.rot90(pixels[..., :3]))


def test_png_exif_after_the_pixels_is_applied():
    data = png(PIXELS)
    late = files.png_chunk(b"eXIf", _exif(3).tobytes().removeprefix(b"Exif\0\0"))
    image = decoded(data[:-12] + late + data[-12:])
    np.testing.assert_array_equal(image.rgb, PIXELS[::-1, ::-1])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("exif", [b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", b"\0"])
def test_damaged_exif_is_no_reason_to_refuse(exif):
    np.testing.assert_array_equal(decoded(png(PIXELS, exif=exif)).rgb, PIXELS)


def test_sixteen_bit_grey_png_is_scaled_and_not_white():
    image = decoded(files.raw_png(RAMP16, files.GREY, 16))
    np.testing.assert_array_equal(image.rgb, grey(RAMP16_AS_8))


@pytest.mark.parametrize("byte_order", ["<", ">"])
def test_sixteen_bit_grey_tiff(byte_order):
    image = decoded(files.raw_tiff(RAMP16, byte_order, bits=16))
    np.testing.assert_array_equal(image.rgb, grey(RAMP16_AS_8))


def test_sixteen_bit_grey_tiff_with_white_as_zero():
    image = decoded(files.raw_tiff(RAMP16, "<", bits=16, photometric=0))
    np.testing.assert_array_equal(image.rgb, grey(np.rint((65535 - RAMP16) / 257).astype(np.uint8)))


def test_sixteen_bit_grey_with_a_transparent_level():
    levels = np.array([[0, 256, 257], [65535, 1, 256]], np.uint16)
    image = decoded(files.raw_png(levels, files.GREY, 16, (b"tRNS", b"\x01\x00")))
    np.testing.assert_array_equal(alpha_of(image), [[255, 0, 255], [255, 255, 0]])


@pytest.mark.parametrize(("channels", "colour_type"), [(3, files.RGB), (4, files.RGB_ALPHA), (2, files.GREY_ALPHA)])
def test_sixteen_bit_colour_is_within_one_level(channels, colour_type):
    samples = np.stack([np.roll(RAMP16, shift) for shift in range(channels)], axis=-1)
    image = decoded(files.raw_png(samples, colour_type, 16))
    eight = np.rint(samples / 257).astype(int)
    colours = eight[..., :3] if channels > 2 else grey(eight[..., 0])
    assert np.abs(image.rgb.astype(int) - colours).max() <= 1
    if channels in (2, 4):
        assert np.abs(alpha_of(image).astype(int) - eight[..., -1]).max() <= 1


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_grey_of_every_depth_is_stretched_to_eight_bits(depth):
    levels = (np.arange(21 * 34).reshape(21, 34) % (1 << depth)).astype(np.uint8)
    image = decoded(files.raw_png(levels, files.GREY, depth))
    np.testing.assert_array_equal(image.rgb, grey(levels * (255 // ((1 << depth) - 1))))


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_transparent_level_of_every_depth(depth):
    levels = (np.arange(21 * 34).reshape(21, 34) % (1 << depth)).astype(np.uint8)
    image = decoded(files.raw_png(levels, files.GREY, depth, (b"tRNS", b"\0\x01")))
    np.testing.assert_array_equal(alpha_of(image), np.where(levels == 1, 0, 255))


def test_palette():
    indices = np.arange(21 * 34).reshape(21, 34).astype(np.uint8) % 3
    palette = np.array([[255, 0, 0], [0, 255, 0], [10, 20, 30]], np.uint8)
    image = decoded(files.raw_png(indices, files.PALETTE, 8, (b"PLTE", palette.tobytes())))
    np.testing.assert_array_equal(image.rgb, palette[indices])
    assert image.alpha is None


def test_palette_with_translucent_entries():
    indices = np.arange(21 * 34).reshape(21, 34).astype(np.uint8) % 3
    palette = np.array([[255, 0, 0], [0, 255, 0], [10, 20, 30]], np.uint8)
    alpha = np.array([255, 100, 0], np.uint8)
    data = files.raw_png(indices, files.PALETTE, 8, (b"PLTE", palette.tobytes()), (b"tRNS", alpha.tobytes()))
    image = decoded(data)
    np.testing.assert_array_equal(alpha_of(image), alpha[indices])
    np.testing.assert_array_equal(image.rgb, palette[indices])


def test_transparent_colour():
    pixels = PIXELS.copy()
    pixels[3, 4] = (1, 2, 3)
    image = decoded(files.raw_png(pixels, files.RGB, 8, (b"tRNS", b"\0\x01\0\x02\0\x03")))
    assert alpha_of(image)[3, 4] == 0
    assert np.count_nonzero(alpha_of(image) == 0) == np.count_nonzero((pixels == (1, 2, 3)).all(-1))


@pytest.mark.parametrize("make", [png, webp])
def test_colours_under_alpha_are_straight(make):
    """200 at half alpha stays 200; a premultiplying reader gives 100."""
    pixels = np.full((21, 34, 4), (200, 150, 100, 128), np.uint8)
    image = decoded(make(pixels))
    assert (image.rgb == (200, 150, 100)).all()
    assert (alpha_of(image) == 128).all()


def test_premultiplied_tiff_is_made_straight():
    premultiplied = np.full((21, 34, 4), (100, 75, 50, 128), np.uint8)
    image = decoded(files.raw_tiff(premultiplied, "<", bits=8, photometric=2, extra_samples=1))
    assert np.abs(image.rgb.astype(int) - (199, 149, 100)).max() <= 1
    assert (alpha_of(image) == 128).all()


def test_grey_alpha():
    samples = np.stack([PIXELS[..., 0], PIXELS[..., 1]], axis=-1)
    image = decoded(files.raw_png(samples, files.GREY_ALPHA, 8))
    np.testing.assert_array_equal(image.rgb, grey(PIXELS[..., 0]))
    np.testing.assert_array_equal(alpha_of(image), PIXELS[..., 1])


def test_cmyk_without_a_profile():
    inks = Image.new("CMYK", (34, 21), (0, 255, 255, 0))
    image = decoded(files.saved(inks, "JPEG", quality=100))
    assert np.abs(image.rgb.astype(int) - (255, 0, 0)).max() <= 3


@pytest.mark.parametrize("file_format", ["JPEG", "TIFF"])
def test_cmyk_with_a_profile_is_converted_by_it(file_format):
    inks = Image.new("CMYK", (34, 21), (255, 0, 0, 0))
    image = decoded(files.saved(inks, file_format, icc_profile=files.red_cyan_profile(), quality=100))
    red, green, blue = image.rgb[10, 10]
    assert red > 150 > 100 > max(green, blue)
    assert image.metadata.icc_profile is None


def test_grey_with_a_profile_is_converted_by_it():
    image = decoded(png(np.full((21, 34), 128, np.uint8), icc_profile=files.linear_grey_profile()))
    assert np.abs(image.rgb.astype(int) - 188).max() <= 1
    assert image.metadata.icc_profile is None


def test_lab_tiff():
    lab = np.full((21, 34, 3), (137, 80, 67), np.uint8)  # L* 54 of 100 in 255 steps, a* 80, b* 67: red
    image = decoded(files.raw_tiff(lab, "<", bits=8, photometric=8))
    red, green, blue = image.rgb[10, 10]
    assert red > 200
    assert max(green, blue) < 60


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP", "TIFF", "AVIF"])
def test_rgb_profile_is_kept(file_format):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image = decoded(files.saved(Image.fromarray(PIXELS), file_format, icc_profile=profile))
    assert image.metadata.icc_profile == profile


MANGLED = files.red_cyan_profile().replace(b"CMYK", b"CM\xa2K", 1)


@pytest.mark.parametrize(
    "profile", [b"no profile at all", MANGLED, files.red_cyan_profile(), files.linear_grey_profile()]
)
def test_a_profile_that_does_not_fit_is_dropped(profile):
    image = decoded(png(PIXELS, icc_profile=profile))
    np.testing.assert_array_equal(image.rgb, PIXELS)
    assert image.metadata.icc_profile is None


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "TIFF", "BMP"])
def test_resolution_is_kept(file_format):
    image = decoded(files.saved(Image.fromarray(PIXELS), file_format, dpi=(300, 300)))
    assert image.metadata.dpi == pytest.approx((300, 300), abs=0.02)


@pytest.mark.parametrize(("unit", "dpi"), [(2, 300), (3, 762)])
def test_resolution_from_exif(unit, dpi):
    exif = Image.Exif()
    exif[0x011A], exif[0x011B], exif[0x0128] = 300.0, 300.0, unit
    assert decoded(webp(PIXELS, exif=exif)).metadata.dpi == pytest.approx((dpi, dpi))


@pytest.mark.parametrize("make", [jpeg, png, webp])
def test_no_resolution_is_invented(make):
    assert decoded(make(PIXELS)).metadata.dpi is None
    assert decoded(make(PIXELS, exif=_exif(1))).metadata.dpi is None


def test_resolution_turns_with_the_image():
    image = decoded(png(PIXELS, exif=_exif(6), dpi=(100, 200)))
    assert image.metadata.dpi == pytest.approx((200, 100), abs=0.02)


@pytest.mark.parametrize("file_format", ["GIF", "WEBP", "PNG", "AVIF", "TIFF"])
def test_animations_give_their_first_frame(file_format):
    first, second = Image.new("RGB", (34, 21), (250, 10, 10)), Image.new("RGB", (34, 21), (10, 10, 250))
    image = decoded(files.saved(first, file_format, save_all=True, append_images=[second]))
    assert np.abs(image.rgb.astype(int) - (250, 10, 10)).max() <= 6


@pytest.mark.parametrize("size", [(1, 1), (1, 4000), (4000, 1)])
def test_extreme_shapes(size):
    assert decoded(png(np.zeros((*size, 3), np.uint8))).rgb.shape == (*size, 3)


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "AVIF"])
@pytest.mark.parametrize("kept", [0.5, 0.9])
def test_truncated_files_are_refused(file_format, kept):
    data = files.saved(Image.fromarray(noise(64, 64)), file_format)
    part = data[: int(len(data) * kept)]
    with pytest.raises(CorruptImageError, match=rf"expected a whole {file_format} image.* found"):
        decoded(part)


def test_a_flipped_bit_in_a_png_is_noticed():
    data = bytearray(png(PIXELS))
    data[len(data) // 2] ^= 0x10
    with pytest.raises(CorruptImageError):
        decoded(bytes(data))


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_samples_without_a_meaning_as_colour_are_refused(dtype):
    data = files.saved(Image.fromarray(np.ones((8, 8), dtype)), "TIFF")
    with pytest.raises(NotAnImageError, match=r"expected 8 or 16 bits .* found samples of the kind '[FI]'"):
        decoded(data)


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize(
    ("enough", "reduced"),
    [
        ((60, 80), (60, 80)),
        ((61, 80), (120, 160)),
        ((100, 100), (120, 160)),
        ((200, 320), (240, 320)),
        ((241, 1), (480, 640)),
    ],
)
def test_scaled_decode_is_large_enough_and_says_the_whole_size(orientation, enough, reduced):
    turned = orientation == 6
    image = decoded(rotated_jpeg(smooth(480, 640), orientation), at_least=enough[::-1] if turned else enough)
    assert image.size == ((640, 480) if turned else (480, 640))
    assert image.rgb.shape[:2] == (reduced[::-1] if turned else reduced)


def test_scaled_decode_takes_only_scales_that_divide_the_image():
    assert decoded(jpeg(smooth(482, 641)), at_least=(10, 10)).rgb.shape == (482, 641, 3)
    assert decoded(jpeg(smooth(484, 642)), at_least=(10, 10)).rgb.shape == (242, 321, 3)


def test_scaled_decode_leaves_small_images_and_other_formats_alone():
    assert decoded(jpeg(smooth(480, 640)), at_least=(400, 400)).rgb.shape == (480, 640, 3)
    assert decoded(png(smooth(480, 640)), at_least=(10, 10)).rgb.shape == (480, 640, 3)


def _exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def test_the_tiff_writer_of_the_tests_is_right():
    found = cv2.imdecode(np.frombuffer(files.raw_tiff(RAMP16, "<", bits=16), np.uint8), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(found, RAMP16)


@pytest.mark.parametrize("side", [9000, 40])
def test_a_second_header_does_not_get_past_the_limits_of_the_first(side, monkeypatch):
    """Pillow obeys the last IHDR; the limits, and the size of the answer, come from the first."""
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", lambda _: pytest.fail("pixels were decoded"))
    ihdr = files.png_chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, files.RGB, 0, 0, 0))
    data = png(smooth(10, 10))
    with pytest.raises(CorruptImageError, match=rf"expected an image of 10×10 pixels.* found .* {side}×{side}"):
        decoded(data[:33] + ihdr + data[33:])


def test_a_size_that_changes_while_the_pixels_are_decoded_is_an_error(monkeypatch):
    load = PngImagePlugin.PngImageFile.load

    def grows(image: PngImagePlugin.PngImageFile) -> object:
        pixels = load(image)
        image._size = (image.width, image.height + 1)
        return pixels

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", grows)
    with pytest.raises(CorruptImageError, match=r"expected an image of 34×21 pixels.* found .* 34×22"):
        decoded(png(PIXELS))

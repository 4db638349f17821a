"""Sizes are read in bounded time and memory whatever stands in front of the pixels; Pillow is asked only after."""

import struct
import time
import tracemalloc

import pytest
from PIL import Image

from server.errors import CorruptImageError, ImageTooLargeError, MetadataTooLargeError, NotAnImageError
from server.pipeline.containers.bmp import MAX_RUN_LENGTH_PIXELS
from server.pipeline.containers.jpeg import MAX_EXIF_SEGMENTS, MAX_SCANS
from server.pipeline.containers.tally import MAX_FRAMES, MAX_PIECES, MAX_STRAY_BYTES
from server.pipeline.containers.tiff import MAX_TIFF_ENTRIES, MAX_TIFF_PARTS
from server.pipeline.decode import decode
from server.pipeline.header import ImageLimits, read_header
from tests.support import files
from tests.support.images import jpeg, png, smooth, webp

LIMITS = ImageLimits()
JPEG = jpeg(smooth(30, 50))
GIF = files.saved(Image.fromarray(smooth(30, 50)), "GIF")
COMMENT = b"\xff\xfe\0\2"
SCAN = JPEG.index(b"\xff\xda")
GIF_FIRST_BLOCK = 13 + (3 << (GIF[10] & 7) + 1)


def jpeg_with(junk: bytes, at: int = 2) -> bytes:
    return JPEG[:at] + junk + JPEG[at:]


def gif_with(junk: bytes) -> bytes:
    return GIF[:GIF_FIRST_BLOCK] + junk + GIF[GIF_FIRST_BLOCK:]


PADDED = {
    "jpeg-comments": (jpeg_with, COMMENT, "4096 segments"),
    "jpeg-comments-after-the-frame": (lambda junk: jpeg_with(junk, SCAN), COMMENT, "4096 segments"),
    "jpeg-restarts": (jpeg_with, b"\xff\xd0", "4096 segments"),
    "jpeg-fill": (jpeg_with, b"\xff", "65536 bytes between segments"),
    "jpeg-stray": (lambda junk: jpeg_with(junk, SCAN), b"\0", "65536 bytes between segments"),
    "gif-comment": (lambda junk: gif_with(b"!\xfe" + junk + b"\0"), b"\1x", "4096 blocks"),
    "gif-comments": (gif_with, b"!\xfe\1x\0", "4096 blocks"),
    "gif-stray": (gif_with, b"\0", "65536 bytes between blocks"),
}


@pytest.mark.parametrize("name", PADDED)
def test_padding_to_the_largest_upload_is_refused_at_once(name, monkeypatch):
    """Pillow takes half a minute and two gigabytes for the first of these, in the one thread that reads headers."""
    make, junk, found = PADDED[name]
    data = make(junk * ((60 << 20) // len(junk)))
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("Pillow was handed the file"))
    tracemalloc.start()
    started = time.thread_time()  # of the processor: the machine may be busy
    with pytest.raises(MetadataTooLargeError, match=f"expected at most {found} beside the pixels .* found more"):
        read_header(data, LIMITS)
    elapsed = time.thread_time() - started
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert elapsed < 0.5
    assert peak < 1 << 20


def test_exif_in_very_many_segments_is_refused():
    """Pillow takes 50 s for 64 MiB of them, holding the interpreter while it copies."""
    segment = b"\xff\xe1\0\x10Exif\0\0" + bytes(8)
    assert read_header(jpeg_with(segment * MAX_EXIF_SEGMENTS), LIMITS).size == (30, 50)
    with pytest.raises(
        MetadataTooLargeError, match="expected at most 64 Exif segments beside the pixels of a JPEG image, found more"
    ):
        read_header(jpeg_with(segment * (MAX_EXIF_SEGMENTS + 1)), LIMITS)


@pytest.mark.parametrize(
    "data",
    [
        jpeg_with(COMMENT * (MAX_PIECES - 100)),
        jpeg_with(b"\xff" * (MAX_STRAY_BYTES - 1)),
        jpeg_with(b"\0" * (MAX_STRAY_BYTES - 1), SCAN),
        jpeg_with(b"\xff\0" * 100, SCAN),
        gif_with(b"!\xfe" + b"\1x" * (MAX_PIECES - 100) + b"\0"),
        gif_with(b"\0" * MAX_STRAY_BYTES),
    ],
)
def test_odd_files_within_the_bounds_are_read_as_pillow_reads_them(data):
    header = read_header(data, LIMITS)
    assert header.size == (30, 50)
    assert decode(data, header).rgb.shape == (30, 50, 3)


def test_a_gif_whose_first_frame_is_larger_than_its_screen():
    data = GIF[:6] + struct.pack("<HH", 7, 90) + GIF[10:]
    header = read_header(data, LIMITS)
    assert header.size == (90, 50)
    assert decode(data, header).rgb.shape == (90, 50, 3)


@pytest.mark.parametrize(
    "data", [JPEG[:SCAN], JPEG[:2] + JPEG[SCAN:], JPEG[:2] + b"\xff\xfe", GIF[:GIF_FIRST_BLOCK] + b";", GIF[:12]]
)
def test_a_file_without_pixels_or_without_a_frame_is_damaged(data):
    with pytest.raises(CorruptImageError, match="found one whose header cannot be read"):
        read_header(data, LIMITS)


def test_a_tiff_directory_of_a_million_entries_never_reaches_pillow(monkeypatch):
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("Pillow was handed the file"))
    data = struct.pack("<2sHHHQQ", b"II", 43, 8, 0, 16, 1_000_000) + bytes(20_000_000)
    with pytest.raises(MetadataTooLargeError, match=f"at most {MAX_TIFF_ENTRIES} directory entries .* found more"):
        read_header(data, LIMITS)


def test_a_big_tiff_is_read():
    data = files.saved(Image.fromarray(smooth(30, 50)), "TIFF", big_tiff=True)
    assert data[2] == 43
    assert decode(data, read_header(data, LIMITS)).rgb.shape == (30, 50, 3)


PNG = png(smooth(30, 50))
PNG_PIXELS = PNG.index(b"IDAT") - 4
PROGRESSIVE = jpeg(smooth(30, 50), progressive=True)
WEBP = webp(smooth(30, 50), exif=b"Exif\0\0x")
TIFF = files.saved(Image.fromarray(smooth(30, 50)), "TIFF")
MIB = 1 << 20


def png_with(junk: bytes, at: int = 33) -> bytes:
    return PNG[:at] + junk + PNG[at:]


def chunks(kind: bytes, count: int, size: int = 0) -> bytes:
    return (struct.pack(">I4s", size, kind) + bytes(size + 4)) * count


def segment(marker: int, payload: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(payload) + 2) + payload


def webp_with(junk: bytes) -> bytes:
    return WEBP[:4] + struct.pack("<I", len(WEBP) + len(junk) - 8) + WEBP[8:] + junk


def tiff_of(*entries: tuple[int, int, int, int], padding: int = 0) -> bytes:
    """A TIFF whose directory has these entries (tag, type, count, value) and no pixels."""
    body = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + body + bytes(4 + padding)


def run_length_bmp(width: int, height: int, size: int) -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", size, 0, 0, 54) + header + bytes(size)


SCANS = PROGRESSIVE.index(b"\xff\xda")
TOO_MUCH = {
    "png-empty-chunks": (lambda: png_with(chunks(b"abCd", 5 * MIB)), "4096 chunks"),
    "png-empty-chunks-behind": (lambda: png_with(chunks(b"abCd", 5 * MIB), len(PNG) - 12), "4096 chunks"),
    "png-empty-pixels": (lambda: png_with(chunks(b"IDAT", 5 * MIB), PNG_PIXELS), f"{MAX_FRAMES} chunks of pixels"),
    "png-text": (lambda: png_with(chunks(b"tEXt", 17, MIB)), f"{16 * MIB} bytes of metadata"),
    "png-exif": (lambda: png_with(chunks(b"eXIf", 1, MIB + 1)), f"{MIB} bytes of Exif"),
    "png-profile": (lambda: png_with(chunks(b"iCCP", 1, 5 * MIB)), f"{4 * MIB} bytes of colour profile"),
    "jpeg-text": (lambda: jpeg_with(segment(0xFE, bytes(65533)) * 300), f"{16 * MIB} bytes of metadata"),
    "jpeg-profile": (
        lambda: jpeg_with(segment(0xE2, b"ICC_PROFILE\0" + bytes(65500)) * 80),
        f"{4 * MIB} bytes of colour profile",
    ),
    "jpeg-photoshop": (
        lambda: jpeg_with(segment(0xED, b"Photoshop 3.0\0" + b"8BIM\0\0\0\0\0\0\0\0" * 5400) * 200),
        f"{4 * MIB} bytes of Photoshop blocks",
    ),
    "jpeg-tables": (
        lambda: jpeg_with(segment(0xDB, bytes(65 * 1000)) * 900),
        f"{1 << 16} bytes of quantisation tables",
    ),
    "webp-chunks": (lambda: webp_with(b"abcd\0\0\0\0" * (7 * MIB)), "4096 chunks"),
    "webp-frames": (lambda: webp_with(b"ANMF\0\0\0\0" * (7 * MIB)), f"{MAX_FRAMES} frames"),
    "webp-text": (lambda: webp_with(struct.pack("<4sI", b"XMP ", 17 * MIB) + bytes(17 * MIB)), "bytes of metadata"),
    "tiff-entries": (lambda: tiff_of(*[(1000, 1, 1, 0)] * (MAX_TIFF_ENTRIES + 1)), "4096 directory entries"),
    "tiff-strips": (
        lambda: tiff_of((273, 4, MAX_TIFF_PARTS + 1, 8), padding=MIB),
        f"{MAX_TIFF_PARTS} strips or tiles",
    ),
    "tiff-values": (lambda: tiff_of((282, 5, 5000, 8), padding=MIB), "4096 values of the tag 282"),
    "tiff-text": (lambda: tiff_of((270, 2, 17 * MIB, 8), padding=17 * MIB), f"{16 * MIB} bytes of metadata"),
    "tiff-profile": (lambda: tiff_of((34675, 7, 5 * MIB, 8), padding=5 * MIB), "bytes of colour profile"),
}


@pytest.mark.parametrize("name", TOO_MUCH)
def test_too_much_beside_the_pixels_never_reaches_pillow(name, monkeypatch):
    make, bound = TOO_MUCH[name]
    data = make()
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("Pillow was handed the file"))
    started = time.thread_time()
    with pytest.raises(MetadataTooLargeError, match=f"expected at most .*{bound}.* found more"):
        read_header(data, LIMITS)
    assert time.thread_time() - started < 0.5


WRONG = {
    "png-two-profiles": (lambda: png_with(chunks(b"iCCP", 2)), CorruptImageError, "two colour profiles"),
    "jpeg-two-frames": (
        lambda: jpeg_with(JPEG[JPEG.index(b"\xff\xc0") : SCAN]),
        CorruptImageError,
        "two frame headers",
    ),
    "jpeg-long-frame": (
        lambda: jpeg_with(segment(0xC0, b"\x08\0\x1e\0\x32\x03" + bytes(65000))),
        CorruptImageError,
        "65008 bytes for 3 components",
    ),
    "jpeg-12-bit": (
        lambda: JPEG.replace(b"\xff\xc0\0\x11\x08", b"\xff\xc1\0\x11\x0c"),
        NotAnImageError,
        "expected a JPEG image of 8 bits per sample, found one of 12",
    ),
    "jpeg-scans": (
        lambda: PROGRESSIVE[:-2] + PROGRESSIVE[SCANS:-2] * MAX_SCANS,
        CorruptImageError,
        f"at most {MAX_SCANS} scans",
    ),
    "jpeg-scans-in-tiff": (
        lambda: tiff_of((259, 3, 1, 7), (278, 3, 1, 30), (257, 3, 1, 30)) + b"\xff\xda" * (MAX_SCANS + 2),
        CorruptImageError,
        f"at most {MAX_SCANS + 1} scans",
    ),
    "tiff-huge-tiles": (
        lambda: tiff_of((256, 4, 1, 10), (257, 4, 1, 10), (322, 4, 1, 1 << 16), (323, 4, 1, 1 << 15)),
        ImageTooLargeError,
        "whose tiles have 2147.5",
    ),
    "tiff-twice": (lambda: tiff_of((256, 4, 1, 10), (256, 4, 1, 10)), CorruptImageError, "the tag 256 twice"),
    "tiff-no-number": (lambda: tiff_of((322, 2, 1, 10)), CorruptImageError, "one whole number for the tag 322"),
    "tiff-compression": (lambda: tiff_of((259, 3, 1, 34925)), NotAnImageError, "found compression 34925"),
    "tiff-short": (lambda: tiff_of((259, 3, 1, 1))[:20], CorruptImageError, "is not whole"),
    "tiff-nowhere": (lambda: b"MM\0*\xff\xff\xff\xf0" + bytes(50), CorruptImageError, "cannot be read"),
    "bmp-run-lengths": (
        lambda: run_length_bmp(2001, 2000, 100),
        NotAnImageError,
        f"at most {MAX_RUN_LENGTH_PIXELS / 1e6:g} megapixels",
    ),
    "bmp-long": (lambda: run_length_bmp(10, 10, MIB), CorruptImageError, "too long for 100 pixels"),
}


@pytest.mark.parametrize("name", WRONG)
def test_files_that_would_cost_too_much_never_reach_pillow(name, monkeypatch):
    make, error, message = WRONG[name]
    data = make()
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("Pillow was handed the file"))
    with pytest.raises(error, match=message):
        read_header(data, LIMITS)


WITHIN = {
    "png-chunks": png_with(files.png_chunk(b"abCd", b"") * MAX_PIECES),
    "png-small-chunks-of-pixels": PNG[:PNG_PIXELS]
    + b"".join(files.png_chunk(b"IDAT", bytes([byte])) for byte in files.png_chunks(PNG)[b"IDAT"])
    + PNG[-12:],
    "jpeg-progressive": PROGRESSIVE,
    "jpeg-photoshop": jpeg_with(segment(0xED, b"Photoshop 3.0\0" + b"8BIM\4\4\0\0\0\0\0\0" * 5000)),
    "webp-chunks": webp_with(b"abcd\0\0\0\0" * 4000),
    "tiff-strips": files.saved(Image.fromarray(smooth(30, 50)), "TIFF", tiffinfo={278: 1}),
    "bmp-run-lengths": run_length_bmp(50, 30, 0) + bytes(1024) + (b"\x32\x07" + b"\0\0") * 30,
}


@pytest.mark.parametrize("name", WITHIN)
def test_odd_files_within_the_new_bounds_are_decoded(name):
    header = read_header(WITHIN[name], LIMITS)
    assert header.size == (30, 50)
    assert decode(WITHIN[name], header).rgb.shape == (30, 50, 3)


def test_an_animation_of_very_many_frames_costs_its_first():
    first, second = Image.new("RGB", (16, 16), (250, 10, 10)), Image.new("RGB", (16, 16), (10, 10, 250))
    data = files.saved(first, "WEBP", save_all=True, append_images=[second])
    start = data.index(b"ANMF", data.index(b"ANMF") + 4)
    many = data + data[start:] * 10_000
    many = many[:4] + struct.pack("<I", len(many) - 8) + many[8:]
    started = time.thread_time()
    assert decode(many, read_header(many, LIMITS)).rgb.mean(axis=(0, 1))[0] > 200
    assert time.thread_time() - started < 0.5


def avif_that_says(width: int, height: int, image: Image.Image, **options: object) -> bytes:
    """An AVIF with another size in its header than in its data; libavif decodes it all, and scales it."""
    data = bytearray(files.saved(image, "AVIF", speed=10, **options))
    at = -1
    while (at := data.find(b"ispe", at + 1)) >= 0:
        struct.pack_into(">II", data, at + 8, width, height)
    return bytes(data)


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
@pytest.mark.parametrize("frames", [1, 2])
def test_the_coded_size_of_an_avif_counts(mode, frames, monkeypatch):
    image = Image.new(mode, (1200, 1000))
    options = {"save_all": True, "append_images": [image.copy()]} if frames > 1 else {}
    data = avif_that_says(64, 64, image, **options)
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("Pillow was handed the file"))
    with pytest.raises(ImageTooLargeError, match=r"found 1200×1000 = 1\.2 megapixels in the coded data"):
        read_header(data, ImageLimits(max_pixels=1_000_000))


@pytest.mark.parametrize("size", [(1, 1), (300, 200), (2000, 600)])
def test_avif_within_the_limit_is_read(size):
    data = files.saved(Image.new("RGBA", size), "AVIF", speed=10)
    assert read_header(data, ImageLimits(max_pixels=size[0] * size[1])).size == size[::-1]

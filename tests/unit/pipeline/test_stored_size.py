"""Sizes are read in bounded time and memory whatever stands in front of the pixels; Pillow is asked only after."""

import struct
import time
import tracemalloc

import pytest
from PIL import Image

from server.errors import CorruptImageError
from server.pipeline.decode import decode
from server.pipeline.header import ImageLimits, read_header
from server.pipeline.stored_size import MAX_EXIF_SEGMENTS, MAX_PIECES, MAX_STRAY_BYTES, MAX_TIFF_ENTRIES
from tests.support import files
from tests.support.images import jpeg, smooth

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
    with pytest.raises(CorruptImageError, match=f"expected at most {found} in front of the pixels .* found more"):
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
    with pytest.raises(CorruptImageError, match="expected at most 64 Exif segments in a JPEG image, found more"):
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
    with pytest.raises(CorruptImageError, match=f"at most {MAX_TIFF_ENTRIES} entries .* found 1000000"):
        read_header(data, LIMITS)


def test_a_big_tiff_is_read():
    data = files.saved(Image.fromarray(smooth(30, 50)), "TIFF", big_tiff=True)
    assert data[2] == 43
    assert decode(data, read_header(data, LIMITS)).rgb.shape == (30, 50, 3)

"""Uploads that mean harm: some three hundred, by name, the same bytes every time.

Small files only. What takes its harm from sheer length (64 MiB of empty chunks) is in `tests/unit/pipeline/
test_containers.py`, each with the bound that it meets.
"""

import io
import itertools
import random
import struct
import zipfile
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image

from tests.support import files
from tests.support.images import huge_png_header, smooth

_TRUNCATIONS = (0.01, 0.05, 0.15, 0.3, 0.5, 0.7, 0.9, 0.99)
_FLIPS = 8
_EDGES = (0, 1 << 15, (1 << 16) - 1, 1 << 31, (1 << 32) - 1)

MEGAPIXELS_169 = (13_000, 13_000)


def corpus() -> dict[str, bytes]:
    """All of them."""
    sources = _sources()
    makers = (_truncated, _flipped, _misnamed, _polyglots)
    found = dict(itertools.chain(*(maker(sources) for maker in makers)))
    for group in (_absurd_sizes(sources), _bombs(), _tiffs(), _metadata(sources), _nested(sources), _animations()):
        found |= dict(group)
    return found


def flat_png(width: int, height: int) -> bytes:
    """A whole PNG of one colour, one bit per pixel: 169 megapixels are 20 kB."""
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    press = zlib.compressobj(9)
    row = bytes(1 + (width + 7) // 8)
    pixels = b"".join(press.compress(row) for _ in range(height)) + press.flush()
    chunks = ((b"IHDR", header), (b"IDAT", pixels), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(files.png_chunk(name, data) for name, data in chunks)


def _sources() -> dict[str, bytes]:
    image = Image.fromarray(smooth(40, 56))
    alpha = image.copy()
    alpha.putalpha(Image.fromarray(smooth(40, 56, seed=1)[..., 0]))
    exif = Image.Exif()
    exif[0x0112], exif[0x011A] = 6, 72.0
    frames = [Image.new("RGB", (56, 40), (60 * number, 0, 0)) for number in range(3)]
    save = files.saved
    return {
        "jpeg": save(image, "JPEG", exif=exif),
        "jpeg-progressive": save(image, "JPEG", progressive=True),
        "jpeg-cmyk": save(image.convert("CMYK"), "JPEG", icc_profile=files.red_cyan_profile()),
        "png": save(alpha, "PNG", exif=exif, icc_profile=files.linear_grey_profile()),
        "png-palette": save(image.quantize(16), "PNG", transparency=3),
        "apng": save(image, "PNG", save_all=True, append_images=frames),
        "webp": save(image, "WEBP", exif=exif),
        "webp-lossless": save(alpha, "WEBP", lossless=True),
        "webp-animated": save(image, "WEBP", save_all=True, append_images=frames),
        "tiff": save(image, "TIFF", exif=exif),
        "tiff-lzw": save(image, "TIFF", compression="tiff_lzw"),
        "tiff-jpeg": save(image, "TIFF", compression="jpeg"),
        "tiff-16": files.raw_tiff(np.zeros((20, 30), np.uint16), ">", bits=16),
        "bmp": save(image, "BMP"),
        "gif": save(image, "GIF", save_all=True, append_images=frames),
        "avif": save(image, "AVIF", exif=exif),
    }


def _truncated(sources: dict[str, bytes]) -> Iterator[tuple[str, bytes]]:
    for name, data in sources.items():
        for kept in _TRUNCATIONS:
            yield f"truncated-{name}-{kept}", data[: max(1, int(kept * len(data)))]


def _flipped(sources: dict[str, bytes]) -> Iterator[tuple[str, bytes]]:
    for name, data in sources.items():
        rng = random.Random(name)  # noqa: S311 - reproducible damage, no secret
        for number in range(_FLIPS):
            damaged = bytearray(data)
            for _ in range(1 + number * number):
                place = rng.randrange(min(len(data), 60 if number % 2 else len(data)))
                damaged[place] ^= 1 << rng.randrange(8)
            yield f"flipped-{name}-{number}", bytes(damaged)


def _misnamed(sources: dict[str, bytes]) -> Iterator[tuple[str, bytes]]:
    names = list(sources)
    for name, other in zip(names, names[5:] + names[:5], strict=True):
        yield f"magic-of-{name}-on-{other}", sources[name][:12] + sources[other][12:]


def _polyglots(sources: dict[str, bytes]) -> Iterator[tuple[str, bytes]]:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(1 << 20))
    archived = buffer.getvalue()
    for name in ("jpeg", "png", "gif", "bmp", "webp", "tiff", "avif"):
        yield f"zip-behind-{name}", sources[name] + archived
        yield f"zip-before-{name}", archived + sources[name]
    yield "html-in-gif", b"GIF89a/*<script>*/=1;" + sources["gif"]
    yield "pdf-before-jpeg", b"%PDF-1.4\n" + sources["jpeg"]
    yield "svg", b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>"
    yield "xml-entities", b"<?xml version='1.0'?><!DOCTYPE a [<!ENTITY b 'bb'><!ENTITY c '&b;&b;'>]><a>&c;</a>"
    yield "postscript", b"%!PS-Adobe-3.0\n(/etc/passwd) (r) file"


def _absurd_sizes(sources: dict[str, bytes]) -> Iterator[tuple[str, bytes]]:
    places = {
        "png": (16, ">I"),
        "gif": (6, "<H"),
        "bmp": (18, "<I"),
        "avif": (sources["avif"].index(b"ispe") + 8, ">I"),
        "jpeg": (sources["jpeg"].index(b"\xff\xc0") + 5, ">H"),
    }
    for (name, (place, code)), width, height in itertools.product(places.items(), _EDGES, _EDGES):
        most = (1 << 8 * struct.calcsize(code)) - 1
        data = bytearray(sources[name])
        struct.pack_into(code, data, place, min(width, most))
        struct.pack_into(code, data, place + struct.calcsize(code), min(height, most))
        yield f"size-{name}-{width}x{height}", bytes(data)


def _bombs() -> Iterator[tuple[str, bytes]]:
    yield "bomb-png-169-megapixels", flat_png(*MEGAPIXELS_169)
    yield "bomb-png-header", huge_png_header(1 << 20, 1 << 20)
    yield "bomb-png-line", huge_png_header(40_000_000, 1)
    bits = 16383 | 16383 << 14
    payload = b"\x2f" + struct.pack("<I", bits) + bytes(30)
    yield (
        "bomb-webp-lossless",
        b"RIFF" + struct.pack("<I", len(payload) + 12) + b"WEBPVP8L" + struct.pack("<I", len(payload)) + payload,
    )
    bits = 6999 | 6999 << 14
    payload = b"\x2f" + struct.pack("<I", bits) + bytes(15)
    yield (
        "bomb-webp-ratio",
        b"RIFF" + struct.pack("<I", len(payload) + 12) + b"WEBPVP8L" + struct.pack("<I", len(payload)) + payload,
    )
    flat = Image.new("1", (7000, 7000))
    yield "bomb-tiff-fax", files.saved(flat, "TIFF", compression="group4")
    yield "bomb-gif", b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0, 0, 0) + b",\0\0\0\0\xff\xff\xff\xff\0\x02\0;"
    header = struct.pack("<IiiHHIIiiII", 40, 30_000, 30_000, 1, 8, 1, 0, 0, 0, 0, 0)
    yield "bomb-bmp-run-lengths", b"BM" + struct.pack("<IHHI", 100, 0, 0, 54) + header + b"\xff\0" * 500


def tiff(*entries: tuple[int, int, int, int], next_directory: int = 0, behind: bytes = b"") -> bytes:
    """A little-endian TIFF whose one directory has these entries: tag, type, count, value."""
    body = b"".join(struct.pack("<HHII", *entry) for entry in sorted(entries))
    directory = struct.pack("<H", len(entries)) + body + struct.pack("<I", next_directory)
    return b"II*\0\x08\0\0\0" + directory + behind


def _plain(**changed: int) -> list[tuple[int, int, int, int]]:
    """Entries of a grey image of 8×8 in one strip."""
    tags = {256: 8, 257: 8, 258: 8, 259: 1, 262: 1, 273: 0, 277: 1, 278: 8, 279: 64}
    tags |= {int(tag.removeprefix("t")): value for tag, value in changed.items()}
    return [(tag, 4, 1, value) for tag, value in tags.items()]


def _tiffs() -> Iterator[tuple[str, bytes]]:
    for edge in _EDGES:
        for tag in (256, 257, 258, 259, 262, 273, 277, 278, 279, 322, 323):
            yield f"tiff-{tag}-is-{edge}", tiff(*_plain(**{f"t{tag}": edge}), behind=bytes(200))
    yield "tiff-directory-nowhere", b"II*\0\xff\xff\xff\x7f" + bytes(50)
    yield "tiff-directory-in-the-magic", b"II*\0\0\0\0\0" + bytes(50)
    yield "tiff-directory-loop", tiff(*_plain(), next_directory=8, behind=bytes(200))
    yield "tiff-exif-loop", tiff(*_plain(), (34665, 4, 1, 8), behind=bytes(200))
    yield "tiff-sub-directory-loop", tiff(*_plain(), (330, 4, 1, 8), behind=bytes(200))
    offsets = struct.pack("<8I", *[8] * 8)
    strips = [(273, 4, 8, 300), (279, 4, 8, 300), (278, 4, 1, 1)]
    plain = [entry for entry in _plain() if entry[0] not in (273, 278, 279)]
    yield "tiff-overlapping-strips", tiff(*plain, *strips, behind=bytes(200) + offsets * 3)
    tiles = [(322, 4, 1, 1 << 15), (323, 4, 1, 1 << 15), (324, 4, 1, 8), (325, 4, 1, 64)]
    yield "tiff-huge-tiles", tiff(*plain, *tiles, behind=bytes(200))
    yield "tiff-tiles-of-nothing", tiff(*plain, (322, 4, 1, 0), (323, 4, 1, 0), (324, 4, 1, 8), behind=bytes(200))
    yield "big-tiff-directory", struct.pack("<2sHHHQQ", b"II", 43, 8, 0, 16, 1 << 40) + bytes(200)
    yield "big-tiff-nowhere", struct.pack("<2sHHHQQ", b"II", 43, 8, 0, 1 << 63, 1) + bytes(200)


def _metadata(sources: dict[str, bytes]) -> Iterator[tuple[str, bytes]]:
    png, jpeg = sources["png-palette"], sources["jpeg-progressive"]
    press = zlib.compress(bytes(40 << 20), 9)
    for name in (b"iCCP", b"zTXt"):
        chunk = files.png_chunk(name, b"x\0\0" + press)
        yield f"png-inflating-{name.decode()}", png[:33] + chunk + png[33:]
    yield "png-inflating-iTXt", png[:33] + files.png_chunk(b"iTXt", b"x\0\1\0\0\0" + press) + png[33:]
    yield "png-text", png[:33] + files.png_chunk(b"tEXt", b"x\0" + bytes(17 << 20)) + png[33:]
    yield "png-empty-chunks", png[:33] + files.png_chunk(b"abCd", b"") * 100_000 + png[33:]
    yield "png-empty-pixels", png[:-12] + files.png_chunk(b"IDAT", b"") * 100_000 + png[-12:]
    yield "png-two-headers", png[:33] + png[8:33] + png[33:]
    loop = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x69\x87\x04\0\x01\0\0\0\x08\0\0\0\x08\0\0\0"
    yield "jpeg-exif-loop", files.saved(Image.new("RGB", (8, 8)), "JPEG", exif=loop)
    segment = b"\xff\xe1" + struct.pack(">H", 65000) + b"Exif\0\0" + bytes(64992)
    yield "jpeg-exif", jpeg[:2] + segment * 40 + jpeg[2:]
    segment = b"\xff\xe2" + struct.pack(">H", 65000) + b"ICC_PROFILE\0\1\xff" + bytes(64984)
    yield "jpeg-profile", jpeg[:2] + segment * 80 + jpeg[2:]
    yield "jpeg-comments", jpeg[:2] + b"\xff\xfe\0\2" * 100_000 + jpeg[2:]
    scan = jpeg[jpeg.index(b"\xff\xda") : -2]
    yield "jpeg-scans", jpeg[:-2] + scan * 300 + jpeg[-2:]
    yield "jpeg-without-tables", jpeg.replace(b"\xff\xdb", b"\xff\xfe").replace(b"\xff\xc4", b"\xff\xfe")
    yield "jpeg-12-bit", sources["jpeg"].replace(b"\xff\xc0\0\x11\x08", b"\xff\xc1\0\x11\x0c")


def _nested(sources: dict[str, bytes]) -> Iterator[tuple[str, bytes]]:
    avif = sources["avif"]
    boxes = b"".join(struct.pack(">I4s", 8 * (1000 - depth), b"moov") for depth in range(1000))
    yield "avif-nested-boxes", avif[:32] + boxes
    yield "avif-endless-box", avif[:32] + struct.pack(">I4sQ", 1, b"meta", (1 << 64) - 1)
    yield "avif-boxes-of-nothing", avif[:32] + struct.pack(">I4s", 8, b"free") * 100_000
    yield "avif-profile", avif.replace(b"colrnclx", b"colrprof")
    yield "webp-riff-in-riff", sources["webp"][:12] * 1000 + sources["webp"]
    yield "json", b'{"image_base64":' * 10_000
    yield "nothing-but-zeros", bytes(100_000)
    yield "one-byte", b"\xff"


def _animations() -> Iterator[tuple[str, bytes]]:
    first, second = Image.new("RGB", (16, 16), (250, 10, 10)), Image.new("RGB", (16, 16), (10, 10, 250))
    for file_format, mark in (("GIF", b"\x21\xf9"), ("WEBP", b"ANMF")):
        data = files.saved(first, file_format, save_all=True, append_images=[second])
        start = data.rindex(mark)
        frames = data[start:].removesuffix(b";") * 10_000
        data = data[:start] + frames
        if file_format == "WEBP":
            data = data[:4] + struct.pack("<I", len(data) - 8) + data[8:]
        yield f"{file_format.lower()}-10000-frames", data
    data = files.saved(first, "PNG", save_all=True, append_images=[second])
    start = data.rindex(b"fcTL") - 4
    yield "apng-10000-frames", data[:start] + data[start:-12] * 10_000 + data[-12:]

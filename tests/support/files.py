"""Files that no library writes for us: PNGs of every depth, and small ICC profiles whose effect is unmistakable."""

import io
import struct
import zlib

import numpy as np
from numpy.typing import NDArray
from PIL import Image

GREY, RGB, PALETTE, GREY_ALPHA, RGB_ALPHA = 0, 2, 3, 4, 6  # PNG colour types


def raw_png(samples: NDArray[np.unsignedinteger], colour_type: int, depth: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of exactly these samples.

    Args:
        samples: (H, W) or (H, W, channels), below 2 ** depth.
        colour_type: One of the constants above.
        depth: Bits per sample.
        chunks: Name and data of what goes between header and pixels.
    """
    height, width = samples.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    rows = b"".join(b"\0" + _packed(row, depth) for row in samples.reshape(height, -1))
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(name, data) for name, data in parts)


def raw_tiff(
    samples: NDArray[np.unsignedinteger],
    byte_order: str,
    *,
    bits: int,
    photometric: int = 1,
    extra_samples: int | None = None,
) -> bytes:
    """An uncompressed TIFF of one strip with exactly these samples (TIFF 6.0); `byte_order` is `<` or `>`."""
    height, width = samples.shape[:2]
    channels = samples.shape[2] if samples.ndim == 3 else 1
    data = samples.astype(f"{byte_order}u{bits // 8}").tobytes()
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: photometric, 277: channels, 278: height}
    if extra_samples is not None:
        tags[338] = extra_samples
    entries = {tag: struct.pack(f"{byte_order}HHIHH", tag, 3, 1, value, 0) for tag, value in tags.items()}
    start = 8 + 2 + 12 * (len(entries) + 2) + 4
    depths = b""
    if channels > 1:  # the depths of several channels do not fit into the entry
        depths = struct.pack(f"{byte_order}{channels}H", *[bits] * channels)
        entries[258] = struct.pack(f"{byte_order}HHII", 258, 3, channels, start)
    entries[273] = struct.pack(f"{byte_order}HHII", 273, 4, 1, start + len(depths))
    entries[279] = struct.pack(f"{byte_order}HHII", 279, 4, 1, len(data))
    magic = {"<": b"II", ">": b"MM"}[byte_order] + struct.pack(f"{byte_order}HI", 42, 8)
    directory = b"".join(entry for _, entry in sorted(entries.items()))
    return magic + struct.pack(f"{byte_order}H", len(entries)) + directory + bytes(4) + depths + data


def png_chunk(name: bytes, data: bytes) -> bytes:
    """One chunk with length and checksum."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_chunks(data: bytes) -> dict[bytes, bytes]:
    """The chunks of a PNG by name; of several with one name the last. Checksums are verified."""
    found, position = {}, 8
    while position < len(data):
        length = int.from_bytes(data[position : position + 4], "big")
        name, content = data[position + 4 : position + 8], data[position + 8 : position + 8 + length]
        (checksum,) = struct.unpack(">I", data[position + 8 + length : position + 12 + length])
        assert checksum == zlib.crc32(name + content), f"checksum of {name!r}"
        found[name] = content
        position += 12 + length
    return found


def saved(image: Image.Image, file_format: str, **options: object) -> bytes:
    """An image as Pillow writes it."""
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def linear_grey_profile() -> bytes:
    """An ICC profile of grey with gamma 1: level 128 of it is about 188 in sRGB."""
    return _profile(b"GRAY", b"XYZ ", {b"kTRC": b"curv\0\0\0\0" + struct.pack(">IH", 1, 1 << 8)})


def red_cyan_profile() -> bytes:
    """An ICC profile of CMYK whose cyan ink is red: a conversion that ignores it gives cyan."""
    lab = []
    for corner in range(16):
        cyan, magenta, yellow, black = (corner >> shift & 1 for shift in (3, 2, 1, 0))
        lightness = 255 * (1 - black) * (1 - 0.25 * (magenta + yellow)) * (0.55 if cyan else 1)
        lab += [round(lightness), 128 + 70 * cyan, 128 + 60 * cyan]
    identity = bytes(range(256))
    matrix = struct.pack(">9i", *(65536 if index % 4 == 0 else 0 for index in range(9)))
    table = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + matrix + identity * 4 + bytes(lab) + identity * 3
    return _profile(b"CMYK", b"Lab ", {b"A2B0": table})


def _profile(space: bytes, connection: bytes, tags: dict[bytes, bytes]) -> bytes:
    text = b"test"
    description = b"desc\0\0\0\0" + struct.pack(">I", len(text) + 1) + text + b"\0" + bytes(78)
    white = b"XYZ \0\0\0\0" + struct.pack(">3i", 63190, 65536, 54061)
    every = {b"desc": description, b"cprt": b"text\0\0\0\0" + text + b"\0", b"wtpt": white, **tags}
    offset, table, body = 128 + 4 + 12 * len(every), b"", b""
    for name, data in every.items():
        padded = data + bytes(-len(data) % 4)
        table += struct.pack(">4sII", name, offset + len(body), len(data))
        body += padded
    kind = b"prtr" if space == b"CMYK" else b"mntr"
    header = struct.pack(">I4sI4s4s4s", offset + len(body), b"\0\0\0\0", 0x02400000, kind, space, connection)
    header += struct.pack(">6H4s", 2026, 1, 1, 0, 0, 0, b"acsp") + bytes(28) + struct.pack(">3i", 63190, 65536, 54061)
    return header.ljust(128, b"\0") + struct.pack(">I", len(every)) + table + body


def _packed(row: NDArray[np.unsignedinteger], depth: int) -> bytes:
    if depth == 16:
        return row.astype(">u2").tobytes()
    if depth == 8:
        return row.astype(np.uint8).tobytes()
    bits = np.unpackbits(row.astype(np.uint8)[:, None], axis=1)[:, 8 - depth :]
    return np.packbits(bits.ravel()).tobytes()

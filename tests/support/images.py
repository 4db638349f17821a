"""Images with mattes known exactly, real photographs, and their encoded bytes.

Synthetic mattes are area coverages, computed analytically or on a fine subgrid, so that truth needs no data set.
"""

import functools
import io
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

PHOTOGRAPHS = ("astronaut", "coffee", "chelsea", "rocket")
"""Photographs that scikit-image carries in its wheel; nothing is downloaded."""


@dataclass(frozen=True, slots=True)
class Matted:
    """An image and its true matte: (H, W, 3) uint8 RGB and (H, W) float32 in [0, 1]."""

    image: NDArray[np.uint8]
    alpha: NDArray[np.float32]


def disc(height: int = 192, width: int = 256, radius: float | None = None) -> Matted:
    """A warm disc in the middle, antialiased over one pixel (by distance to its edge)."""
    y, x = _centres(height, width)
    reach = radius if radius is not None else 0.35 * min(height, width)
    distance = np.hypot(y - height / 2, x - width / 2)
    return _over_texture(np.clip(reach - distance + 0.5, 0, 1), seed=1)


def half_plane(height: int = 192, width: int = 256, edge: float | None = None) -> Matted:
    """Everything left of a vertical edge; `edge` in pixels, exact coverage in the column that it crosses."""
    x = np.arange(width, dtype=np.float32)
    position = edge if edge is not None else 0.4 * width
    row = np.clip(position - x, 0, 1)
    return _over_texture(np.broadcast_to(row, (height, width)), seed=2)


def strands(height: int = 192, width: int = 256, count: int = 12, thickness: float = 0.7) -> Matted:
    """A fan of hairs, thinner than a pixel, growing out of a disc at the bottom."""
    y, x = _centres(height, width)
    root_y, root_x = height * 0.95, width / 2
    alpha = np.clip(0.25 * height - np.hypot(y - root_y, x - root_x) + 0.5, 0, 1)
    for angle in np.linspace(-1.2, 1.2, count):
        along = -(y - root_y) * np.cos(angle) + (x - root_x) * np.sin(angle)
        across = np.abs((y - root_y) * np.sin(angle) + (x - root_x) * np.cos(angle))
        hair = np.clip(thickness / 2 + 0.5 - across, 0, min(1.0, thickness)) * (along > 0) * (along < 0.8 * height)
        alpha = np.maximum(alpha, hair)
    return _over_texture(alpha, seed=3)


def ring(height: int = 192, width: int = 256) -> Matted:
    """A ring: a subject with a hole, through which the background must show."""
    y, x = _centres(height, width)
    distance = np.hypot(y - height / 2, x - width / 2)
    outer, inner = 0.4 * min(height, width), 0.2 * min(height, width)
    return _over_texture(np.clip(outer - distance + 0.5, 0, 1) * np.clip(distance - inner + 0.5, 0, 1), seed=4)


def noise(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """(height, width, 3) uint8 of independent noise, the same for the same seed."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def smooth(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """(height, width, 3) uint8 of soft blobs of colour, the same for the same seed; compresses like a photograph."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


@functools.cache
def photograph(name: str) -> NDArray[np.uint8]:
    """One of PHOTOGRAPHS, (H, W, 3) uint8 RGB, read-only."""
    import skimage  # here, because it is heavy and most tests need no photograph

    path = Path(skimage.__file__).parent / "data"
    found = next(path.glob(f"{name}.*"), None)
    if found is None:
        raise FileNotFoundError(f"{path}: expected the photograph {name} in the wheel of scikit-image")
    with Image.open(found) as image:
        pixels = np.array(image.convert("RGB"))
    pixels.setflags(write=False)
    return pixels


def photographs() -> dict[str, NDArray[np.uint8]]:
    """All of PHOTOGRAPHS by name."""
    return {name: photograph(name) for name in PHOTOGRAPHS}


def encoded(pixels: NDArray[np.uint8], file_format: str = "PNG", **options: object) -> bytes:
    """An image as the bytes of a file: (H, W) grey, (H, W, 3) RGB or (H, W, 4) RGBA; JPEG at quality 92."""
    settings: dict[str, object] = {"quality": 92} if file_format == "JPEG" else {}
    if file_format == "WEBP":
        settings = {"lossless": True}
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, file_format, **{**settings, **options})
    return buffer.getvalue()


def jpeg(pixels: NDArray[np.uint8], **options: object) -> bytes:
    """JPEG bytes; `exif`, `quality`, … as Pillow takes them."""
    return encoded(pixels, "JPEG", **options)


def png(pixels: NDArray[np.uint8], **options: object) -> bytes:
    """PNG bytes."""
    return encoded(pixels, "PNG", **options)


def webp(pixels: NDArray[np.uint8], **options: object) -> bytes:
    """WebP bytes, lossless unless told otherwise."""
    return encoded(pixels, "WEBP", **options)


def rotated_jpeg(pixels: NDArray[np.uint8], orientation: int, **options: object) -> bytes:
    """JPEG bytes with an EXIF orientation (1 to 8); the stored pixels are `pixels` as they are."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return jpeg(pixels, exif=exif, **options)


def huge_png_header(width: int, height: int) -> bytes:
    """A small PNG that claims to be width × height pixels: for limits that must be checked before allocation."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 100)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def decoded(data: bytes) -> NDArray[np.uint8]:
    """The pixels of an encoded image, in the mode that it has."""
    with Image.open(io.BytesIO(data)) as image:
        return np.array(image)


def _centres(height: int, width: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Coordinates of the pixels' centres: (height, 1) and (1, width) float32."""
    y = np.arange(height, dtype=np.float32)[:, None] + np.float32(0.5)
    x = np.arange(width, dtype=np.float32)[None, :] + np.float32(0.5)
    return y, x


def _over_texture(alpha: NDArray[np.floating], seed: int) -> Matted:
    """Composite a warm, shaded subject over a cool, soft background."""
    height, width = alpha.shape
    matte = np.ascontiguousarray(alpha, dtype=np.float32)
    generator = np.random.default_rng(seed)
    background = smooth(height, width, seed).astype(np.float32) * 0.35 + np.array([10, 40, 90], np.float32)
    subject = np.array([230, 120, 40], np.float32) + generator.normal(0, 8, (height, width, 1)).astype(np.float32)
    image = matte[..., None] * subject + (1 - matte[..., None]) * background
    return Matted(np.rint(image).clip(0, 255).astype(np.uint8), matte)

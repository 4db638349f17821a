"""The images that network and artifact are compared on: ordinary ones, and those that break sloppy exports."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from matting.geometry import fit

PHOTOGRAPHS = ("astronaut", "coffee", "chelsea")
SEED = 20240107


def subject(height: int, width: int, shift: int = 0) -> NDArray[np.uint8]:
    """A bright, shaded ellipse with strands over a soft background; (height, width, 3) uint8.

    Args:
        height: In pixels.
        width: In pixels.
        shift: Pixels by which the whole picture is moved to the right.
    """
    y = (np.arange(height, dtype=np.float64)[:, None] + 0.5) / height
    x = (np.arange(width, dtype=np.float64)[None, :] + 0.5 - shift) / width
    background = np.stack([60 + 40 * np.sin(5 * x + k) * np.cos(4 * y - k) for k in range(3)], axis=-1)
    distance = np.hypot((x - 0.5) / 0.24, (y - 0.56) / 0.32)
    body = np.clip((1 - distance) * 0.25 * height + 0.5, 0, 1)
    strands = np.clip(1.2 - np.abs(np.sin(40 * (x - 0.5))) * 6, 0, 1) * ((y > 0.12) & (y < 0.56) & (abs(x - 0.5) < 0.2))
    alpha = np.maximum(body, strands)[..., None]
    colour = np.array([235.0, 170.0, 120.0]) * (1.05 - 0.5 * distance[..., None].clip(0, 1) * y[..., None])
    return np.rint(alpha * colour + (1 - alpha) * background).clip(0, 255).astype(np.uint8)


def sample_inputs(size: tuple[int, int]) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Name and image, (height, width, 3) uint8, one after the other; the same ones every time.

    Photographs come last, and only where scikit-image is installed, in whose wheel they are.
    """
    height, width = size
    yield "subject", subject(height, width)
    yield "one pixel off", subject(height, width, shift=1)
    yield "black", np.zeros((height, width, 3), np.uint8)
    yield "white", np.full((height, width, 3), 255, np.uint8)
    yield "noise", np.random.default_rng(SEED).integers(0, 256, (height, width, 3), dtype=np.uint8)
    for name in PHOTOGRAPHS:
        path = _photograph(name)
        if path is not None:
            with Image.open(path) as image:
                yield name, fit(np.asarray(image.convert("RGB")), size)


def _photograph(name: str) -> Path | None:
    package = importlib.util.find_spec("skimage")
    if package is None or package.origin is None:
        return None
    return next((Path(package.origin).parent / "data").glob(f"{name}.*"), None)

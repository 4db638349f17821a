"""Backgrounds cut from real photographs: those of scikit-image that come in its wheel, and that no test looks at.

`astronaut`, `chelsea`, `coffee` and `rocket` are what mattes are judged by eye on, so nothing here comes from them. Of
the others only the parts are taken that nobody would call a subject.
"""

from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from training.data.palettes import any_colour
from training.data.raster import Image
from training.data.shapes import Rng

# Name in skimage.data, the rectangle (x0, y0, x1, y1) in shares of width and height, the smallest share of it to show.
REGIONS: tuple[tuple[str, tuple[float, float, float, float], float], ...] = (
    ("stereo_motorcycle", (0.47, 0.0, 1.0, 0.19), 0.5),  # shelves of a garage
    ("stereo_motorcycle", (0.78, 0.0, 1.0, 0.55), 0.6),  # cartons
    ("stereo_motorcycle", (0.0, 0.0, 0.47, 0.28), 0.5),  # boards and a bench
    ("stereo_motorcycle", (0.0, 0.82, 0.65, 1.0), 0.5),  # a floor
    ("camera", (0.55, 0.72, 1.0, 1.0), 0.5),  # a lawn
    ("immunohistochemistry", (0.0, 0.0, 1.0, 1.0), 0.25),
    ("hubble_deep_field", (0.0, 0.0, 1.0, 1.0), 0.2),
    ("retina", (0.2, 0.2, 0.8, 0.8), 0.3),
    ("coins", (0.0, 0.0, 1.0, 1.0), 0.4),
    ("moon", (0.0, 0.0, 1.0, 1.0), 0.4),
    ("brick", (0.0, 0.0, 1.0, 1.0), 0.4),
    ("grass", (0.0, 0.0, 1.0, 1.0), 0.3),
    ("gravel", (0.0, 0.0, 1.0, 1.0), 0.3),
    ("page", (0.0, 0.0, 1.0, 1.0), 0.5),
)


@lru_cache(maxsize=len(REGIONS))
def _region(index: int) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 of one region."""
    from skimage import data  # slow to import, and only this needs it

    name, (x0, y0, x1, y1), _ = REGIONS[index]
    picture = getattr(data, name)()
    picture = picture[0] if isinstance(picture, tuple) else picture  # a stereo pair comes with its disparities
    height, width = picture.shape[:2]
    part = picture[round(y0 * height) : round(y1 * height), round(x0 * width) : round(x1 * width)]
    return np.ascontiguousarray(np.repeat(part[..., None], 3, axis=2) if part.ndim == 2 else part[..., :3])


def photographed(rng: Rng, size: int) -> Image:
    """A random crop of a real photograph in random colours, (size, size, 3) float32 in [0, 1]."""
    index = int(rng.integers(len(REGIONS)))
    source = _region(index)
    height, width = source.shape[:2]
    share = rng.uniform(REGIONS[index][2], 1.0)
    wide, high = share * width, share * height * rng.uniform(0.8, 1.0)
    left, top = rng.uniform(0, width - wide), rng.uniform(0, height - high)
    sign = rng.choice((-1.0, 1.0))
    matrix = np.array(
        [
            [sign * wide / size, 0.0, left if sign > 0 else left + wide],
            [0.0, high / size, top],
        ]
    )
    how = cv2.INTER_AREA if wide > 2 * size else cv2.INTER_LINEAR
    if how == cv2.INTER_AREA:
        window = source[int(top) : int(top + high), int(left) : int(left + wide)][:, :: int(sign)]
        seen = cv2.resize(window, (size, size), interpolation=how)
    else:
        seen = cv2.warpAffine(
            source, matrix, (size, size), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REFLECT
        )
    image = np.asarray(seen, np.float32) * np.float32(1 / 255)
    return _toned(rng, image)


def _toned(rng: Rng, image: Image) -> Image:
    """Other colours on the same picture: a cast, or light and dark in two colours."""
    kind = rng.uniform()
    if kind < 0.5:
        gain = np.exp(rng.normal(0, 0.15, 3)).astype(np.float32)
        return np.clip(image * gain, 0, 1)
    if kind < 0.75:
        return np.ascontiguousarray(image[..., rng.permutation(3)])
    grey = image.mean(axis=2, keepdims=True)
    dark, bright = (any_colour(rng).astype(np.float32) for _ in range(2))
    return dark + grey * (bright - dark)

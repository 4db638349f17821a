"""A fixed bank of grey texture tiles, and the sampling of one under an affine map.

Tiles are made once per process from a constant seed, so that a sample depends on its own seed alone. Natural images
have 1/f spectra and occluding edges; the noise tiles have the first, the dead-leaves tiles both (Lee, Mumford and
Huang, "Occlusion models for natural images", IJCV 2001).
"""

from collections.abc import Callable
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from training.data.shapes import Rng

Plane = NDArray[np.float32]
TILE = 512
_BANK_SEED = 20240911


def _normalised(tile: NDArray) -> Plane:
    """`tile` with mean 0, clipped at two and a half deviations, in [-1, 1]."""
    tile = tile - tile.mean()
    return np.clip(tile / (2.5 * tile.std() + 1e-9), -1.0, 1.0).astype(np.float32)


def spectral(rng: Rng, slope: float, stretch: tuple[float, float] = (1.0, 1.0)) -> Plane:
    """Tileable Gaussian noise with amplitude spectrum |f|^-slope; `stretch` > 1 makes it longer along (x, y)."""
    fy = np.fft.fftfreq(TILE)[:, None] * stretch[1]
    fx = np.fft.rfftfreq(TILE)[None, :] * stretch[0]
    amplitude = np.hypot(fx, fy)
    amplitude[0, 0] = np.inf
    spectrum = (rng.normal(size=amplitude.shape) + 1j * rng.normal(size=amplitude.shape)) * amplitude**-slope
    return _normalised(np.fft.irfft2(spectrum, s=(TILE, TILE)))


def _grid() -> tuple[Plane, Plane]:
    axis = (np.arange(TILE, dtype=np.float32) + 0.5) / TILE
    return np.broadcast_to(axis, (TILE, TILE)), np.broadcast_to(axis[:, None], (TILE, TILE))


def _stripes(rng: Rng, waves: float, warp: float, sharp: float) -> Plane:
    x, _ = _grid()
    return np.tanh(sharp * np.sin(2 * np.pi * (waves * x + warp * spectral(rng, 1.9)))).astype(np.float32)


def _wood(rng: Rng) -> Plane:
    _, y = _grid()
    grain = spectral(rng, 1.0, (14.0, 1.0))
    rings = np.sin(2 * np.pi * (7 * y + 0.8 * spectral(rng, 2.2, (4.0, 1.0))))
    return _normalised(0.6 * grain + 0.4 * rings)


def _warped(tile: Plane, dx: Plane, dy: Plane, reach: float) -> Plane:
    rows, cols = np.mgrid[0:TILE, 0:TILE].astype(np.float32)
    moved = cv2.remap(tile, cols + reach * dx, rows + reach * dy, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
    return np.asarray(moved, np.float32)


def _fur(rng: Rng) -> Plane:
    return _warped(spectral(rng, 0.75, (1.0, 9.0)), spectral(rng, 2.0), spectral(rng, 2.0), 26.0)


def _plaid(rng: Rng) -> Plane:
    x, y = _grid()
    bands = np.sign(np.sin(2 * np.pi * 6 * x) + 0.4) + np.sign(np.sin(2 * np.pi * 6 * y) + 0.4)
    return _normalised(bands + 0.3 * np.sin(2 * np.pi * 60 * (x + y)))


def _checks(rng: Rng) -> Plane:
    x, y = _grid()
    return np.sign(np.sin(2 * np.pi * 7 * x) * np.sin(2 * np.pi * 7 * y)).astype(np.float32)


def _dots(rng: Rng) -> Plane:
    x, y = _grid()
    return np.tanh(6 * (np.sin(2 * np.pi * 9 * x) * np.sin(2 * np.pi * 9 * y) - 0.55)).astype(np.float32)


def _spots(rng: Rng) -> Plane:
    fine = spectral(rng, 1.6) - cv2.GaussianBlur(spectral(rng, 1.6), (0, 0), 12)
    return np.tanh(5 * (cv2.GaussianBlur(fine, (0, 0), 3) - 0.25)).astype(np.float32)


def _weave(rng: Rng) -> Plane:
    x, y = _grid()
    return _normalised(np.sin(2 * np.pi * 70 * x) * np.sin(2 * np.pi * 70 * y) + 0.4 * spectral(rng, 1.0))


def _tiles(rng: Rng) -> Plane:
    cells = int(rng.integers(4, 9))
    tile = cv2.resize(rng.uniform(-0.5, 0.5, (cells, cells)), (TILE, TILE), interpolation=cv2.INTER_NEAREST)
    step = TILE / cells
    for k in range(cells + 1):
        at = round(k * step)
        tile[max(at - 3, 0) : at + 3] = -1.0
        tile[:, max(at - 3, 0) : at + 3] = -1.0
    return (tile + 0.15 * spectral(rng, 1.2)).astype(np.float32)


def _text(rng: Rng) -> Plane:
    tile = np.full((TILE, TILE), 0.8, np.float32)
    for top in range(12, TILE - 20, 26):
        left = 14
        while left < TILE - 30:
            for _ in range(int(rng.integers(2, 8))):
                width = int(rng.integers(4, 10))
                kind = rng.uniform()
                if kind < 0.5:
                    cv2.line(tile, (left, top), (left + width - 4, top + 13), -0.9, 2)
                elif kind < 0.8:
                    cv2.ellipse(tile, (left + 3, top + 7), (3, 6), 0, 0, 360, -0.9, 2)
                else:
                    cv2.rectangle(tile, (left, top), (left + 1, top + 13), -0.9, -1)
                left += width
            left += 9
    return tile


def _leaves(rng: Rng, smallest: float) -> Plane:
    """Dead leaves: overlapping discs and boxes with sizes distributed as r^-3, which makes the image scale-free."""
    tile = np.zeros((TILE, TILE), np.float32)
    for _ in range(1500):
        radius = min(smallest / np.sqrt(max(rng.uniform(), 1e-4)), 150.0)
        centre = rng.uniform(-20, TILE + 20, 2)
        value = float(rng.uniform(-1, 1))
        axes = (max(1, int(radius)), max(1, int(radius * rng.uniform(0.3, 1.0))))
        if rng.uniform() < 0.6:
            cv2.ellipse(tile, (int(centre[0]), int(centre[1])), axes, float(rng.uniform(0, 180)), 0, 360, value, -1)
        else:
            corners = cv2.boxPoints(((float(centre[0]), float(centre[1])), axes, float(rng.uniform(0, 90))))
            cv2.fillConvexPoly(tile, corners.astype(np.int32), value)
    return tile


def _photographed(name: str) -> Callable[[Rng], Plane]:
    def load(rng: Rng) -> Plane:
        from skimage import data  # slow to import, and only this needs it

        picture = getattr(data, name)().astype(np.float32)
        grey = picture.mean(axis=2) if picture.ndim == 3 else picture
        return _normalised(_squared(grey))

    return load


def _squared(grey: Plane) -> Plane:
    """The middle of a picture as a tile."""
    side = min(grey.shape)
    top, left = (grey.shape[0] - side) // 2, (grey.shape[1] - side) // 2
    middle = grey[top : top + side, left : left + side]
    if side == TILE:
        return middle
    how = cv2.INTER_AREA if side > TILE else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(middle, (TILE, TILE), interpolation=how), np.float32)


_MAKERS: dict[str, Callable[[Rng], Plane]] = {
    "cloud": lambda rng: spectral(rng, 2.2),
    "mottle": lambda rng: spectral(rng, 1.6),
    "rough": lambda rng: spectral(rng, 1.1),
    "grain": lambda rng: spectral(rng, 0.5),
    "ridges": lambda rng: _normalised(-np.abs(spectral(rng, 1.8))),
    "marble": lambda rng: _stripes(rng, 3, 1.4, 0.9),
    "folds": lambda rng: _warped(spectral(rng, 1.7, (1.0, 5.0)), spectral(rng, 2.2), spectral(rng, 2.2), 60.0),
    "wood": _wood,
    "streaks": lambda rng: spectral(rng, 0.8, (1.0, 12.0)),
    "fur": _fur,
    "stripes": lambda rng: _stripes(rng, 9, 0.0, 6.0),
    "waves": lambda rng: _stripes(rng, 9, 0.35, 4.0),
    "tabby": lambda rng: _normalised(_stripes(rng, 8, 0.9, 2.0) * (0.6 + 0.4 * spectral(rng, 1.8)) + 0.4 * _fur(rng)),
    "plaid": _plaid,
    "checks": _checks,
    "dots": _dots,
    "spots": _spots,
    "weave": _weave,
    "tiles": _tiles,
    "text": _text,
    "leaves": lambda rng: _leaves(rng, 6.0),
    "pebbles": lambda rng: _leaves(rng, 3.0),
    "shards": lambda rng: _leaves(rng, 14.0),
    "brick": _photographed("brick"),
    "grass": _photographed("grass"),
    "gravel": _photographed("gravel"),
    # A tile's place in this list is part of its seed: new ones go to the end.
    "moon": _photographed("moon"),
    "coins": _photographed("coins"),
    "print": _photographed("page"),
    "handwriting": _photographed("text"),
    "tissue": _photographed("immunohistochemistry"),
    "stars": _photographed("hubble_deep_field"),
}
NAMES: tuple[str, ...] = tuple(_MAKERS)


@lru_cache(maxsize=len(_MAKERS))
def tile(name: str) -> Plane:
    """The tile called `name`: (512, 512) float32 in about [-1, 1], the same in every process."""
    return _MAKERS[name](np.random.default_rng([_BANK_SEED, NAMES.index(name)]))


def sample(name: str, shape: tuple[int, int], origin: tuple[float, float], linear: NDArray[np.float64]) -> Plane:
    """The tile `name` seen through an affine map.

    Args:
        name: a name of the bank.
        shape: (height, width) of the result in pixels.
        origin: tile coordinates, in pixels of the tile, of the result's first pixel.
        linear: (2, 2) matrix from result pixels to tile pixels.

    Returns:
        float32 of `shape` in about [-1, 1]; the tile is continued by reflection.
    """
    matrix = np.concatenate([linear, np.asarray(origin, dtype=np.float64)[:, None]], axis=1)
    source = tile(name)
    scale = float(np.sqrt(abs(np.linalg.det(linear))))
    if scale > 1.5:
        source = _shrunk(name, 2 if scale < 3 else 4)
        matrix /= TILE / source.shape[0]
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    seen = cv2.warpAffine(source, matrix, (shape[1], shape[0]), flags=flags, borderMode=cv2.BORDER_REFLECT)
    return np.asarray(seen, np.float32)


@lru_cache(maxsize=2 * len(_MAKERS))
def _shrunk(name: str, factor: int) -> Plane:
    """The tile averaged down, against aliasing."""
    small = cv2.resize(tile(name), None, fx=1 / factor, fy=1 / factor, interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.float32)

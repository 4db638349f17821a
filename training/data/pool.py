"""Procedural photographs made once and used in many rounds, so that learning does not wait for them.

A pool is a folder with `pool.npy`, uint8 (count, side, side, 4), colours and alpha, and `pool.json`, what it is of. The
first round shows its images as they are; every later one moves, turns, mirrors and recolours them, and shuffles.
"""

import json
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from training.data.degrade import Photo
from training.data.raster import Plane
from training.data.sets import SETS
from training.data.shapes import Rng

_PIXELS, _ABOUT = "pool.npy", "pool.json"
_CHUNK = 16


class PoolError(ValueError):
    """The folder holds no pool, or not a whole one."""


@dataclass(frozen=True)
class PoolContents:
    """What a pool is of: the images `first` to `first + count` of a procedural set, at `size`."""

    data_set: str
    first: int
    count: int
    size: int


def is_pool(folder: Path) -> bool:
    """Whether a folder holds a whole pool."""
    return (folder / _ABOUT).is_file()


def fill(folder: Path, contents: PoolContents, processes: int = 1) -> None:
    """Make a pool. `pool.json` is written last: a folder without it is not a pool.

    Args:
        folder: Is made if it does not exist; a pool in it is replaced.
        contents: Needs `count * size * size * 4` bytes on disk.
        processes: That make the images; what they make does not depend on their number.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _ABOUT).unlink(missing_ok=True)
    shape = (contents.count, contents.size, contents.size, 4)
    pixels = np.lib.format.open_memmap(folder / _PIXELS, mode="w+", dtype=np.uint8, shape=shape)
    with get_context("spawn").Pool(processes, cv2.setNumThreads, (1,)) as workers:
        starts = range(0, contents.count, _CHUNK)
        made = workers.imap(partial(_images, contents), starts)
        for start, images in tqdm(
            zip(starts, made, strict=True), total=len(starts), mininterval=5.0, unit_scale=_CHUNK
        ):
            pixels[start : start + len(images)] = images
    pixels.flush()
    (folder / _ABOUT).write_text(json.dumps(asdict(contents)) + "\n")


def _images(contents: PoolContents, start: int) -> NDArray[np.uint8]:
    source = SETS[contents.data_set]
    images = []
    for place in range(start, min(start + _CHUNK, contents.count)):
        image, alpha = source.item(contents.first + place, contents.size)
        images.append(np.dstack((image, np.rint(alpha * 255).astype(np.uint8))))
    return np.stack(images)


class PoolSource:
    """The images of one or several pools, in an endless order that depends on the seed."""

    def __init__(self, folders: tuple[Path, ...], seed: int) -> None:
        """Open the pools.

        Raises:
            PoolError: One of the folders holds no whole pool.
        """
        self.seed = seed
        self.pools = [_opened(folder) for folder in folders]
        self.count = sum(len(pool) for pool in self.pools)

    def item(self, index: int, size: int) -> tuple[Photo, Plane]:
        """Image uint8 (size, size, 3) and alpha float32 (size, size) of one index."""
        round_, place = divmod(index, self.count)
        image = self._stored(int(_order(self.count, self.seed, round_)[place]))
        if round_:
            image = _varied(np.random.default_rng([self.seed, index]), image)
        if image.shape[0] != size:
            how = cv2.INTER_AREA if image.shape[0] > size else cv2.INTER_LINEAR
            image = np.asarray(cv2.resize(image, (size, size), interpolation=how), np.uint8)
        return np.ascontiguousarray(image[..., :3]), image[..., 3].astype(np.float32) / np.float32(255)

    def _stored(self, place: int) -> NDArray[np.uint8]:
        for pool in self.pools:
            if place < len(pool):
                return pool[place]
            place -= len(pool)
        raise AssertionError("a place beyond the pools. This is a bug.")


def _opened(folder: Path) -> NDArray[np.uint8]:
    try:
        contents = PoolContents(**json.loads((folder / _ABOUT).read_text()))
        pixels = np.load(folder / _PIXELS, mmap_mode="r")
    except (OSError, ValueError, TypeError) as error:
        raise PoolError(f"{folder}: not a whole pool (made by `python -m training pool`): {error}") from error
    expected = (contents.count, contents.size, contents.size, 4)
    if pixels.shape != expected or pixels.dtype != np.uint8:
        raise PoolError(f"{folder}: expected uint8 {expected}, found {pixels.dtype} {pixels.shape}")
    return pixels


@lru_cache(maxsize=2)
def _order(count: int, seed: int, round_: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, round_, count]).permutation(count)


def _varied(rng: Rng, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Mirrored half of the time, moved, turned, scaled and recoloured a little; alpha goes with the image."""
    side = image.shape[0]
    angle, scale = rng.normal(0, 0.12), float(np.exp(rng.uniform(-0.12, 0.35)))
    mirror = -1.0 if rng.uniform() < 0.5 else 1.0
    cosine, sine = np.cos(angle) * scale, np.sin(angle) * scale
    linear = np.array([[cosine * mirror, -sine], [sine * mirror, cosine]])
    centre = np.full(2, (side - 1) / 2)
    shift = centre + rng.uniform(-0.08, 0.08, 2) * side - linear @ centre
    moved = cv2.warpAffine(
        image, np.column_stack((linear, shift)), (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101
    )
    gain = np.exp(rng.normal(0, 0.12) + rng.normal(0, 0.06, 3))
    gamma = np.exp(rng.normal(0, 0.15))
    levels = (np.arange(256) / 255) ** gamma
    tables = np.rint((levels[:, None] * gain).clip(0, 1) * 255).astype(np.uint8)
    for channel in range(3):
        moved[..., channel] = tables[:, channel][moved[..., channel]]
    return np.asarray(moved, np.uint8)

"""A folder's photographs as a source of training images: read, squashed to the working size, augmented."""

from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from training.data.augmentation import FLIP, NONE, Augmentation, augment
from training.data.backgrounds import background
from training.data.degrade import Photo
from training.data.folders import Cutout, Example, FolderError, Pair, find_examples
from training.data.raster import Light, Plane
from training.data.shapes import Rng

_DIS_FIELDS = 5


class FolderSource:
    """The photographs of a folder, in an order that depends on the seed: each once, then each again in another order.

    Squashed to the working size like every image the network sees. An index is always the same image.
    """

    def __init__(self, examples: list[Example], seed: int, augmentation: Augmentation | None) -> None:
        """Take the examples; `augmentation` None leaves them as they are and in their own order, for evaluation."""
        self.examples = examples
        self.seed = seed
        self.augmentation = augmentation

    def __len__(self) -> int:
        return len(self.examples)

    def item(self, index: int, size: int) -> tuple[Photo, Plane]:
        """Image uint8 (size, size, 3) and alpha float32 (size, size) of one index.

        Raises:
            FolderError: The file is not a picture, or not of the kind its folder asks for.
        """
        rng = np.random.default_rng([self.seed, index])
        example = self._example(index)
        image, alpha = _pair(example) if isinstance(example, Pair) else _composed(rng, example)
        how = self.augmentation or NONE
        if isinstance(example, Cutout) and self.augmentation is not None:
            how = FLIP
        image, alpha = _squashed(image, size), _squashed(alpha, size)
        image, alpha = augment(rng, image, alpha, how)
        return _squashed(image, size), _squashed(alpha, size)

    def _example(self, index: int) -> Example:
        round_, place = divmod(index, len(self.examples))
        if self.augmentation is None:
            return self.examples[place]
        return self.examples[_order(len(self.examples), self.seed, round_)[place]]

    def classes(self) -> tuple[str, ...]:
        """The classes that file names give, sorted: those of DIS5K's training set in the official order."""
        return tuple(sorted({name for name in map(_class, self.examples) if name is not None}))

    def label(self, index: int) -> str | None:
        """The class of one index, if its file's name gives one."""
        return _class(self._example(index))


def _class(example: Example) -> str | None:
    """DIS5K names files `1#Accessories#1#Bag#2339506821_83cf9f1d22_o.jpg`: the fourth field is the class."""
    fields = example.image.stem.split("#")
    return fields[3] if len(fields) >= _DIS_FIELDS else None


def open_folder(root: Path, seed: int, augmentation: Augmentation | None) -> FolderSource:
    """The photographs of a folder.

    Raises:
        FolderError: See `find_examples`.
    """
    return FolderSource(find_examples(root), seed, augmentation)


@lru_cache(maxsize=4)
def _order(count: int, seed: int, round_: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, round_, count]).permutation(count)


def _pair(pair: Pair) -> tuple[Photo, Plane]:
    image, alpha = _read(pair.image, "RGB"), _matte(pair.matte)
    if image.shape[:2] != alpha.shape:
        raise FolderError(
            f"expected one size, found {image.shape[:2]} in {pair.image} and {alpha.shape} in {pair.matte}"
        )
    return image, alpha


def _read(path: Path, mode: str) -> NDArray[np.uint8]:
    try:
        with Image.open(path) as picture:
            return np.array(ImageOps.exif_transpose(picture).convert(mode), np.uint8)
    except OSError as error:
        raise FolderError(f"{path}: not a readable picture: {error}") from error


def _matte(path: Path) -> Plane:
    """A grey picture of 8 or 16 bits, or of a bit, as alpha in [0, 1]."""
    try:
        with Image.open(path) as picture:
            upright = ImageOps.exif_transpose(picture)
            if upright.mode in {"I", "I;16", "I;16B", "I;16L"}:
                return (np.asarray(upright).astype(np.float32) / np.float32(65535)).clip(0, 1)
            if upright.mode not in {"1", "L", "P", "RGB"}:
                raise FolderError(f"{path}: expected a grey matte of 8 or 16 bits, found mode {upright.mode}")
            return np.asarray(upright.convert("L")).astype(np.float32) / np.float32(255)
    except OSError as error:
        raise FolderError(f"{path}: not a readable picture: {error}") from error


def _composed(rng: Rng, cutout: Cutout) -> tuple[Photo, Plane]:
    """A cut-out over a random background, squashed to its size; straight alpha."""
    rgba = _read(cutout.image, "RGBA")
    height, width = rgba.shape[:2]
    behind = _background(rng, cutout.backgrounds, (height, width))
    alpha = rgba[..., 3].astype(np.float32) / np.float32(255)
    image = behind + alpha[..., None] * (rgba[..., :3].astype(np.float32) - behind)
    return np.rint(image).clip(0, 255).astype(np.uint8), alpha


def _background(rng: Rng, paths: tuple[Path, ...], shape: tuple[int, int]) -> NDArray[np.float32]:
    """(H, W, 3) in [0, 255]: one of the files, or a procedural one."""
    if paths:
        picture = _read(paths[int(rng.integers(len(paths)))], "RGB").astype(np.float32)
    else:
        light = Light((0.6, -0.8), float(rng.uniform()))
        picture = background(rng, max(64, min(512, *shape)), light, float(rng.uniform()), False) * np.float32(255)
    return np.asarray(cv2.resize(picture, shape[::-1], interpolation=cv2.INTER_LINEAR), np.float32)


def _squashed(array: NDArray, size: int) -> NDArray:
    height, width = array.shape[:2]
    if (height, width) == (size, size):
        return array
    how = cv2.INTER_AREA if min(height, width) >= size else cv2.INTER_LINEAR
    return np.ascontiguousarray(cv2.resize(array, (size, size), interpolation=how))

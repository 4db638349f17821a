"""Training windows: image, coarse mask, truth and place on a canvas, in an order that depends on the seed alone."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from matting.band import boundary_band
from training.data.closeups import closeup
from training.data.degrade import Photo
from training.data.raster import Plane
from training.data.sets import SETS
from training.data.shapes import Rng
from training.refiner.coarse import coarse_pair
from training.refiner.config import RefinerConfig

_CANVAS = 6000.0
_SMALL = 96

_Window = tuple[Photo, Plane, NDArray[np.float32], Plane, Plane]


@dataclass(frozen=True)
class RefinerBatch:
    """One batch.

    Attributes:
        image: (B, S, S, 3) uint8 RGB, at the input's scale.
        mask: (B, S, S) float32, at the input's scale.
        frame: (B, 4) float32: where each window lies on a canvas, in input pixels.
        truth: (B, T, T) float32 at the target's scale; T = S where r is 1.
        target_mask: (B, T, T) float32, the coarse mask at the target's scale.
        rows: (N,) int64 target points to be asked for, with `columns`; None for all.
        columns: (N,) int64.
    """

    image: Tensor
    mask: Tensor
    frame: Tensor
    truth: Tensor
    target_mask: Tensor
    rows: Tensor | None = None
    columns: Tensor | None = None

    def to(self, device: torch.device) -> "RefinerBatch":
        """The same on a device."""
        if device.type == "cpu":
            return self
        return self._changed(lambda value: value.to(device, non_blocking=True))

    def pin_memory(self) -> "RefinerBatch":
        """The same in pinned memory: the loader asks for this by its name."""
        return self._changed(Tensor.pin_memory)

    def _changed(self, change: Callable[[Tensor], Tensor]) -> "RefinerBatch":
        present = {name: value for name, value in vars(self).items() if value is not None}
        return replace(self, **{name: change(value) for name, value in present.items()})


_closeup = lru_cache(maxsize=32)(closeup)


@lru_cache(maxsize=32)
def _scene(data_set: str, index: int, size: int) -> tuple[Photo, Plane]:
    return SETS[data_set].item(index, size)


def _near_boundary(rng: Rng, alpha: Plane, window: int) -> tuple[int, int]:
    """The origin of a window that has something to decide in it, or any where nothing has."""
    height, width = alpha.shape
    rows, columns = np.nonzero(boundary_band(alpha, 1))
    if len(rows):
        at = int(rng.integers(len(rows)))
        jitter = rng.uniform(-0.3, 0.3, 2) * window
        origin = np.array([rows[at], columns[at]]) - window / 2 + jitter
    else:
        origin = rng.uniform(0, 1, 2) * (height, width)
    top, left = np.clip(np.rint(origin), 0, (height - window, width - window)).astype(int)
    return int(top), int(left)


def _turned(rng: Rng, image: Photo, alpha: Plane) -> tuple[Photo, Plane]:
    """Flipped and turned by quarters, at random."""
    turns = int(rng.integers(4))
    image, alpha = np.rot90(image, turns), np.rot90(alpha, turns)
    if rng.uniform() < 0.5:
        image, alpha = image[:, ::-1], alpha[:, ::-1]
    return np.ascontiguousarray(image), np.ascontiguousarray(alpha)


def window_of(config: RefinerConfig, step: int, slot: int, rng: Rng, side: int) -> tuple[Photo, Plane]:
    """Image and truth of one window of `side` pixels: a close-up, or cut from a photograph near its boundary."""
    source = SETS[config.data_set]
    if side <= 2 * config.window and rng.uniform() < config.closeups:
        near = _closeup(step // config.closeup_windows * config.batch + slot, side, source.seed, source.level)
        return _turned(rng, *near)
    index = step // config.scene_windows * config.batch + slot
    image, alpha = _scene(config.data_set, index, config.scene_size)
    top, left = _near_boundary(rng, alpha, side)
    part = np.s_[top : top + side, left : left + side]
    return _turned(rng, image[part], alpha[part])


def _frame(rng: Rng, side: int) -> NDArray[np.float32]:
    """A place on some canvas: a refiner sees tiles of images of every size and must not read anything into it."""
    height, width = np.exp(rng.uniform(np.log(side), np.log(_CANVAS), 2))
    return np.array([rng.uniform(0, height - side), rng.uniform(0, width - side), height, width], np.float32)


def make_batch(config: RefinerConfig, step: int) -> RefinerBatch:
    """The batch of a step; the same one every time. The run's seed decides windows and masks, not which scenes."""
    seed = SETS[config.data_set].seed
    rng = np.random.default_rng([seed, config.seed, step])
    scaled = rng.uniform() < config.scaled
    largest = config.scene_size // 8 * 8
    target = int(np.exp(rng.uniform(np.log(config.window), np.log(largest)))) // 8 * 8 if scaled else config.window
    side = min(target, _SMALL) if scaled else target
    rows: list[_Window] = []
    for slot in range(config.batch):
        own = np.random.default_rng([seed, config.seed, step, slot])
        image, truth = window_of(config, step, slot, own, target)
        mask, truth = coarse_pair(own, truth, config.coarse)
        rows.append((_to_side(image, side), _to_side(mask, side), _frame(own, side), truth, mask))
    tensors = [torch.from_numpy(np.stack([row[k] for row in rows])) for k in range(len(rows[0]))]
    if not scaled:
        return RefinerBatch(*tensors)
    count = min(config.points, target * target)
    at = [torch.from_numpy(rng.integers(0, target, count)) for _ in range(2)]
    return RefinerBatch(*tensors, *at)


def _to_side(array: NDArray, side: int) -> NDArray:
    """A square image or plane averaged down to a side, if it is not of it already."""
    if array.shape[0] == side:
        return array
    return np.asarray(cv2.resize(array, (side, side), interpolation=cv2.INTER_AREA))


class _Batches(Dataset[RefinerBatch]):
    """Every step's batch."""

    def __init__(self, config: RefinerConfig) -> None:
        self.config = config

    def __getitem__(self, step: int) -> RefinerBatch:
        return make_batch(self.config, step)


def _from(step: int) -> Iterator[int]:
    while True:
        yield step
        step += 1


def _single_threaded(worker: int) -> None:
    cv2.setNumThreads(0)
    torch.set_num_threads(1)


def refiner_batches(config: RefinerConfig, first: int, workers: int, pinned: bool = False) -> Iterator[RefinerBatch]:
    """Endless batches of the steps `first`, `first` + 1, ...; they do not depend on the number of processes.

    Pinned ones lie in memory that a GPU copies from while the processor goes on.
    """
    loader: DataLoader[RefinerBatch] = DataLoader(
        _Batches(config),
        batch_size=None,
        sampler=_from(first),
        num_workers=workers,
        worker_init_fn=_single_threaded,
        prefetch_factor=4 if workers else None,
        persistent_workers=False,
        pin_memory=pinned,
    )
    return iter(loader)

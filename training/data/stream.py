"""Procedural photographs as batches of tensors, made by worker processes, in an order that only depends on the seed."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import cv2
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from matting.normalisation import DEVIATION, MEAN
from training.data.degrade import Photo
from training.data.raster import Plane

Batch = tuple[Tensor, Tensor]
_MEAN = torch.tensor(MEAN).view(1, 3, 1, 1)
_DEVIATION = torch.tensor(DEVIATION).view(1, 3, 1, 1)


def normalised(images: Tensor) -> Tensor:
    """uint8 (B, H, W, 3) RGB to the network's float32 (B, 3, H, W), normalised with ImageNet's mean and deviation."""
    mean, deviation = _MEAN.to(images.device), _DEVIATION.to(images.device)
    return (images.permute(0, 3, 1, 2).float() / 255.0 - mean) / deviation


class Source(Protocol):
    """Where training images come from: the procedural sets, or anything else that is indexed."""

    def item(self, index: int, size: int) -> tuple[Photo, Plane]:
        """Image uint8 (size, size, 3) RGB and alpha float32 (size, size) of one index."""


@runtime_checkable
class Labelled(Protocol):
    """A source that knows what its subjects are."""

    def classes(self) -> tuple[str, ...]:
        """The names of all classes, in an order that depends on the data alone; empty where it names none."""

    def label(self, index: int) -> str | None:
        """The class of one index's subject, if it has one."""


def classes_of(source: "Source") -> tuple[str, ...]:
    """The classes that a source names; empty where it names none."""
    return source.classes() if isinstance(source, Labelled) else ()


@runtime_checkable
class BatchSource(Protocol):
    """A source that makes whole batches itself, wherever it likes."""

    def batch(self, indices: Sequence[int], size: int) -> Batch:
        """uint8 (B, size, size, 3) and float32 (B, 1, size, size) of some indices."""


class _Items(Dataset[Batch]):
    """One set at one size, as uint8 images (S, S, 3) and float32 alphas (1, S, S)."""

    def __init__(self, source: Source, size: int) -> None:
        self.source = source
        self.size = size

    def __getitem__(self, index: int) -> Batch:
        image, alpha = self.source.item(index, self.size)
        return torch.from_numpy(image), torch.from_numpy(alpha)[None]


def _consecutive(first: int, batch: int, mine: slice) -> Iterator[list[int]]:
    while True:
        yield list(range(first, first + batch))[mine]
        first += batch


def single_threaded(worker: int) -> None:
    """Workers share the cores with the training itself."""
    cv2.setNumThreads(0)
    torch.set_num_threads(1)


@dataclass(frozen=True)
class Delivery:
    """Which part of each batch is made, and where it lies.

    Attributes:
        mine: The part, where several processes share the work.
        pinned: In memory that a GPU copies from while the processor goes on.
    """

    mine: slice = field(default_factory=lambda: slice(None))
    pinned: bool = False


def batches(
    source: Source, size: int, batch: int, first: int, workers: int, delivery: Delivery | None = None
) -> Iterator[Batch]:
    """Endless batches (uint8 (B, S, S, 3), float32 (B, 1, S, S)) of the indices `first`, `first` + 1, ...

    The batches do not depend on the number of worker processes, which have nothing to do for a `BatchSource`.
    """
    delivery = delivery or Delivery()
    if isinstance(source, BatchSource):
        return (source.batch(indices, size) for indices in _consecutive(first, batch, delivery.mine))
    loader: DataLoader[Batch] = DataLoader(
        _Items(source, size),
        batch_sampler=_consecutive(first, batch, delivery.mine),
        num_workers=workers,
        worker_init_fn=single_threaded,
        prefetch_factor=4 if workers else None,
        pin_memory=delivery.pinned,
    )
    return iter(loader)

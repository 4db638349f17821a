"""Which windows of a stage's canvas the refiner sees."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from matting.refinement.port import ALIGNMENT, Size, Tile, TileShape
from matting.refinement.sampling import support

S = TypeVar("S", np.uint8, np.float32)


@dataclass(frozen=True, slots=True)
class Span:
    """One axis of a tile.

    Attributes:
        origin: First pixel of the tile; a multiple of `ALIGNMENT`.
        start: First pixel of its cell, the part of its answer that is used.
        stop: End of the cell. The cells of an axis lie side by side and fill it.
    """

    origin: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tile lies on its canvas."""

    rows: Span
    columns: Span

    @property
    def cell(self) -> tuple[slice, slice]:
        """The part of the canvas that its answer is for."""
        return slice(self.rows.start, self.rows.stop), slice(self.columns.start, self.columns.stop)

    @property
    def inner(self) -> tuple[slice, slice]:
        """The same within the tile."""
        rows, columns = self.rows, self.columns
        return (
            slice(rows.start - rows.origin, rows.stop - rows.origin),
            slice(columns.start - columns.origin, columns.stop - columns.origin),
        )


def spans(length: int, shape: TileShape) -> tuple[Span, ...]:
    """Cut an axis into tiles.

    The last tile is moved inwards, so that it too is full; it may reach beyond the axis by less than `ALIGNMENT`.
    """
    last = max(0, _aligned(length) - shape.side)
    found = []
    start = 0
    for origin in range(0, last + shape.step, shape.step):
        at = min(origin, last)
        stop = length if at == last else at + shape.side - shape.halo
        if stop > start:
            found.append(Span(at, start, stop))
        start = stop
        if at == last:
            break
    return tuple(found)


def plan(size: Size, shape: TileShape, weight: NDArray[np.uint8]) -> tuple[tuple[Place, ...], int]:
    """The tiles whose cells touch the band, row by row, and how many there would be without a band.

    Args:
        size: (height, width) of the canvas.
        shape: Of the tiles.
        weight: (h, w) uint8 of the band, at the size of the mask that the stage starts from.
    """
    down, across = spans(size[0], shape), spans(size[1], shape)
    touched = tuple(
        Place(rows, columns) for rows in down for columns in across if _touches(weight, size, rows, columns)
    )
    return touched, len(down) * len(across)


def cut(image: NDArray[np.uint8], mask: NDArray[np.float32], place: Place, side: int) -> Tile:
    """The question of one tile: copies of its window, the border repeated where it reaches beyond the canvas.

    Args:
        image: (H, W, 3) uint8, the stage's.
        mask: (H, W) float32, the stage's.
        place: Of the tile.
        side: T.
    """
    origin = place.rows.origin, place.columns.origin
    frame = np.array((*origin, *mask.shape), np.float32)
    return Tile(_window(image, origin, side), _window(mask, origin, side), frame)


def batches(places: tuple[Place, ...], size: int) -> Iterator[tuple[Place, ...]]:
    """At most so many at a time, in order."""
    for first in range(0, len(places), size):
        yield places[first : first + size]


def _window(plane: NDArray[S], origin: tuple[int, int], side: int) -> NDArray[S]:
    rows = slice(origin[0], origin[0] + side)
    found = plane[rows, origin[1] : origin[1] + side]
    below, beyond = side - found.shape[0], side - found.shape[1]
    if not below and not beyond:
        return np.ascontiguousarray(found)
    padded = cv2.copyMakeBorder(found, 0, below, 0, beyond, cv2.BORDER_REPLICATE)
    return np.asarray(padded, plane.dtype).reshape(side, side, *plane.shape[2:])


def _touches(weight: NDArray[np.uint8], size: Size, rows: Span, columns: Span) -> bool:
    (height, width), (tall, wide) = weight.shape, size
    down = support(height, height / tall, slice(rows.start, rows.stop))
    across = support(width, width / wide, slice(columns.start, columns.stop))
    return bool(weight[down, across].any())


def _aligned(length: int) -> int:
    return -(-length // ALIGNMENT) * ALIGNMENT

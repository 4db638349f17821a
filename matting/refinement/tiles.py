"""Which windows of a stage's canvas the refiner sees."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from matting.refinement.port import ALIGNMENT, Size, Tile, TileShape, aligned
from matting.refinement.sampling import support

S = TypeVar("S", np.uint8, np.float32)


@dataclass(frozen=True, slots=True)
class Span:
    """One axis of a tile.

    Attributes:
        origin: First pixel of the tile; a multiple of `ALIGNMENT`.
        window: First pixel of what is answered, counted from the origin; likewise.
        start: First pixel of the tile's cell, the part of its answer that is used.
        stop: End of the cell.
    """

    origin: int
    window: int
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
        """The same within the answer."""
        return _inner(self.rows), _inner(self.columns)


def span_from(start: int, length: int, shape: TileShape) -> Span:
    """The tile whose cell begins at a pixel, along one axis, and reaches as far as its answer does.

    A tile is moved inwards where it would leave the canvas; it may reach beyond its end by less than `ALIGNMENT`, and
    by more only where the canvas is smaller than a tile.

    Args:
        start: A multiple of `ALIGNMENT`.
        length: Of the canvas.
        shape: Of the tiles.
    """
    last = max(0, aligned(length) - shape.side)
    origin = min(max(0, start - shape.margin), last)
    window = min(start - origin, 2 * shape.margin)
    return Span(origin, window, start, min(length, origin + window + shape.answer))


def plan(size: Size, shape: TileShape, weight: NDArray[np.uint8]) -> tuple[tuple[Place, ...], int]:
    """Tiles whose cells, side by side, cover the band, and how many it would take to cover the canvas.

    The band is cut into shelves as high as a cell, each beginning where there is a band; along a shelf, cells begin
    where the band does. Shelves of rows or of columns, whichever are fewer cells.

    Args:
        size: (height, width) of the canvas.
        shape: Of the tiles.
        weight: (h, w) uint8 of the band, at the size of the mask that the stage starts from.
    """
    touched = _touched(weight, size)
    step = shape.answer // ALIGNMENT
    by_rows, by_columns = _shelves(touched, step), _shelves(touched.T, step)
    corners = by_rows if len(by_rows) <= len(by_columns) else [(top, left) for left, top in by_columns]
    places = (
        Place(span_from(top * ALIGNMENT, size[0], shape), span_from(left * ALIGNMENT, size[1], shape))
        for top, left in corners
    )
    return tuple(places), math.ceil(size[0] / shape.answer) * math.ceil(size[1] / shape.answer)


def cut(image: NDArray[np.uint8], mask: NDArray[np.float32], place: Place, side: int) -> Tile:
    """The question of one tile: copies of its window, the border repeated where it reaches beyond the canvas.

    Args:
        image: (H, W, 3) uint8, the stage's.
        mask: (H, W) float32, the stage's.
        place: Of the tile.
        side: T.
    """
    origin = place.rows.origin, place.columns.origin
    frame = np.array((*origin, *mask.shape, place.rows.window, place.columns.window), np.float32)
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


def _inner(span: Span) -> slice:
    first = span.origin + span.window
    return slice(span.start - first, span.stop - first)


def _touched(weight: NDArray[np.uint8], size: Size) -> NDArray[np.bool_]:
    """Which squares of `ALIGNMENT` pixels of the canvas are in the band."""
    for wanted in size:
        have = len(weight)
        squares = (slice(at, min(at + ALIGNMENT, wanted)) for at in range(0, wanted, ALIGNMENT))
        sources = [support(have, have / wanted, square) for square in squares]
        weight = np.stack([weight[part].max(axis=0) for part in sources], axis=1)  # transposed, for the other axis
    return np.asarray(weight > 0)


def _shelves(touched: NDArray[np.bool_], step: int) -> list[tuple[int, int]]:
    """First rows and columns of cells of `step` squares that cover what is touched."""
    return [
        (top, left)
        for top in _starts(np.any(touched, axis=1, keepdims=True), step)
        for left in _starts(np.any(touched[top : top + step], axis=0, keepdims=True), step)
    ]


def _starts(touched: NDArray[np.bool_], step: int) -> Iterator[int]:
    """Where spans of `step` begin that cover all that is touched: each at the first that the one before left."""
    stop = 0
    for at in np.flatnonzero(touched).tolist():
        if at >= stop:
            yield at
            stop = at + step

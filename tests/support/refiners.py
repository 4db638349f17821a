"""Refiners that can be worked out by hand, for tests of the composition."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from matting.refinement import Canvas, Question, Tile, TileShape

Answer = Callable[[Tile], NDArray[np.float32]]
"""Of the whole tile; what is asked for is cut out of it."""

SHAPE = TileShape(64, 8)
"""Small, so that there are many."""


def each(answer: Answer, shape: TileShape = SHAPE) -> "Answerer":
    """Answers tile by tile, and remembers what it was asked."""
    return Answerer(answer, shape)


@dataclass
class Answerer:
    """Drives a refiner that answers one tile at a time."""

    answer: Answer
    shape: TileShape = SHAPE
    tiles: list[Tile] = field(default_factory=list)
    canvases: list[Canvas] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    canvas_answer: Callable[[Canvas], NDArray[np.float32]] | None = None

    def __call__(self, questions: Sequence[Question]) -> list[NDArray[np.float32]]:
        self.steps.append(len(questions))
        answers = []
        for question in questions:
            if isinstance(question, Canvas):
                self.canvases.append(question)
                assert self.canvas_answer is not None, "no canvas was expected"
                answers.append(self.canvas_answer(question))
            else:
                self.tiles.append(question)
                answers.append(self.answer(question)[question.window(self.shape.answer)])
        return answers


def identity(tile: Tile) -> NDArray[np.float32]:
    """The mask as it is."""
    return tile.mask


def truth_crop(truth: NDArray[np.float32]) -> Answer:
    """The best refiner there can be: the truth at the tile's resolution."""
    sizes: dict[tuple[int, int], NDArray[np.float32]] = {}

    def answer(tile: Tile) -> NDArray[np.float32]:
        top, left, height, width, *_ = (int(value) for value in tile.frame)
        if (height, width) not in sizes:
            sizes[height, width] = np.asarray(cv2.resize(truth, (width, height), interpolation=cv2.INTER_AREA))
        whole, side = sizes[height, width], len(tile.mask)
        found = whole[top : top + side, left : left + side]
        below, beyond = side - found.shape[0], side - found.shape[1]
        return np.pad(found, ((0, below), (0, beyond)), mode="edge")

    return answer


def offset(value: float, answer: Answer = identity) -> Answer:
    """Another refiner's answer and a constant; not clipped, so that the constant is one everywhere."""
    return lambda tile: answer(tile) + np.float32(value)


def flipped(tile: Tile) -> NDArray[np.float32]:
    """Everything the other way round: what a tile that lost its way may say."""
    return np.float32(1.0) - tile.mask


def convolution(radius: int) -> Answer:
    """Local, and of image and mask both: a mean over windows, then a curve. Each answer reaches `radius` pixels."""
    side = 2 * radius + 1

    def answer(tile: Tile) -> NDArray[np.float32]:
        grey = tile.image.astype(np.float32).mean(axis=2) / 255
        mixed = 0.6 * tile.mask + 0.4 * grey
        mean = cv2.blur(mixed, (side, side), borderType=cv2.BORDER_REPLICATE)
        return np.asarray(1 / (1 + np.exp(-8 * (mean - 0.5))), np.float32)

    return answer

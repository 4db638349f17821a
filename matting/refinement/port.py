"""What refinement asks for, what it is told, and what it returns."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Size: TypeAlias = tuple[int, int]
"""(height, width) in pixels."""

ALIGNMENT = 8
"""Tile origins are multiples of it: the largest stride of CRM's encoder, so that every tile sees the grid of the whole
(`reference/refinement.md` A.6)."""


def aligned(length: int) -> int:
    """The next multiple of `ALIGNMENT`."""
    return -(-length // ALIGNMENT) * ALIGNMENT


@dataclass(frozen=True, slots=True)
class TileShape:
    """What a refiner takes, as the manifest of its artifact says.

    Attributes:
        side: T, height and width of a tile; a multiple of `ALIGNMENT`.
        halo: Pixels on every side of a tile that only serve what is answered. At an edge of the canvas there is
            nothing outside, and none are needed: then more of them lie on the other side.
    """

    side: int
    halo: int

    def __post_init__(self) -> None:
        if self.side < 1 or self.side % ALIGNMENT:
            raise ValueError(f"tile side: expected a positive multiple of {ALIGNMENT}, found {self.side}")
        if self.halo < 0 or self.answer < ALIGNMENT:
            most = (self.side - ALIGNMENT) // 2 // ALIGNMENT * ALIGNMENT
            raise ValueError(f"halo: expected 0 to {most} pixels for tiles of {self.side}, found {self.halo}")

    @property
    def margin(self) -> int:
        """The halo as it is kept, a multiple of `ALIGNMENT`."""
        return aligned(self.halo)

    @property
    def answer(self) -> int:
        """S, height and width of an answer."""
        return self.side - 2 * self.margin


@dataclass(frozen=True, slots=True)
class Tile:
    """A question to the refiner: a tile of one stage's canvas, and where in it the answer is wanted.

    The answer is alpha of that window, (S, S) float32 in [0, 1]. Its place depends on the tile, because what lies at an
    edge of the canvas has a halo on one side only.

    Attributes:
        image: (T, T, 3) uint8 RGB.
        mask: (T, T) float32 in [0, 1], the current matte at this stage's resolution.
        frame: (6,) float32: origin y, origin x, canvas height, canvas width, in pixels of the stage; first row and
            first column of the window within the tile, multiples of `ALIGNMENT`. A tile may reach beyond the canvas at
            its bottom and right, where its border is repeated.
    """

    image: NDArray[np.uint8] = field(repr=False)
    mask: NDArray[np.float32] = field(repr=False)
    frame: NDArray[np.float32]

    def window(self, side: int) -> tuple[slice, slice]:
        """The rows and columns of the tile that are answered.

        Args:
            side: S.
        """
        top, left = int(self.frame[4]), int(self.frame[5])
        return slice(top, top + side), slice(left, left + side)


@dataclass(frozen=True, slots=True)
class Canvas:
    """A question to the matte network. The answer is its coarse mask, (h, w) float32 in [0, 1].

    Attributes:
        image: (h, w, 3) uint8 RGB at the working size: a part of the image, larger than before.
    """

    image: NDArray[np.uint8] = field(repr=False)


Question: TypeAlias = Tile | Canvas
Answers: TypeAlias = Sequence[NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class StageReport:
    """What one stage did.

    Attributes:
        size: (height, width) of its canvas.
        band_share: Share of its pixels that lie in the boundary band, 0 to 1.
        tiles: Questions asked.
        all_tiles: Tiles that the whole canvas would have been.
        dropped: Why its answers were not used, or no question was asked; empty where all went well.
    """

    size: Size
    band_share: float
    tiles: int
    all_tiles: int
    dropped: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """What refinement did, stage by stage.

    Attributes:
        stages: In the order in which they ran.
        crop: (top, left, bottom, right) in pixels of the image of the part that the network saw again; None without.
    """

    stages: tuple[StageReport, ...] = ()
    crop: tuple[int, int, int, int] | None = None

    @property
    def tiles(self) -> int:
        """Tiles of all stages."""
        return sum(stage.tiles for stage in self.stages)

    @property
    def dropped(self) -> int:
        """Stages that were not used."""
        return sum(bool(stage.dropped) for stage in self.stages)


@dataclass(frozen=True, slots=True)
class Refined:
    """The result.

    Attributes:
        alpha: (H, W) float32 in [0, 1] at image size.
        report: How it came about.
    """

    alpha: NDArray[np.float32] = field(repr=False)
    report: Report

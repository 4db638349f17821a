"""An upload in a front end, as the pipeline of the engine process sees it (`server.pipeline.distant`)."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import numpy as np
from numpy.typing import NDArray

from matting.refinement import Canvas, Question, Refined, Refinement, RefineOptions, Report, Tile, TileShape
from server.errors import ServerError
from server.frontends.arena import Slot, Slots, Where, lay_out
from server.frontends.lines import Lines
from server.frontends.orders import Order
from server.pipeline.header import ImageHeader

_ELSEWHERE = np.empty((0, 0), np.float32)


class HeldImage:
    """One upload. A slot is used by whoever works in it, here or there, even where its request has left."""

    def __init__(self, order: Order, lines: Lines, slots: Slots) -> None:
        self._order = order
        self._lines = lines
        self._slots = slots
        self._slot: Slot | None = None

    def __len__(self) -> int:
        return self._order.size

    def read_header(self) -> ImageHeader:
        header = self._order.header
        if isinstance(header, ServerError):
            raise header
        return header

    @asynccontextmanager
    async def room(self, size: int) -> AsyncIterator[None]:
        async with self._slots.slot(size) as slot:
            self._slot = slot
            yield

    def prepare(self, working_size: tuple[int, int], *, colours: bool) -> tuple[NDArray[np.uint8], tuple[int, int]]:
        slot = self._own()
        where = Where(slot.offset, (*working_size, 3), "|u1")
        with slot.used():
            size = self._lines.ask("prepare", self._order.handle, where, colours)
        return self._slots.arena.array(where), size

    def refine(self, coarse: NDArray[np.float32], shape: TileShape, options: RefineOptions) -> Refinement:
        slot = self._own()
        with slot.used():
            (where,) = self._put(slot.offset, [coarse])
            step = self._lines.ask("refine", self._order.handle, where, shape, options)
        while not isinstance(step, Report):
            answers = yield tuple(map(self._question, step.questions))
            with slot.used():
                step = self._lines.ask("advance", self._order.handle, self._put(step.end, list(answers)))
        return Refined(_ELSEWHERE, step)

    def answer(self, alpha: NDArray[np.float32] | None) -> None:
        slot = self._own()
        with slot.used():
            where = None if alpha is None else self._put(slot.offset, [alpha])[0]
            self._lines.ask("answer", self._order.handle, where)

    def _own(self) -> Slot:
        if self._slot is None:
            raise RuntimeError("This is a bug: expected room for what crosses, found none")
        return self._slot

    def _put(self, offset: int, arrays: list[NDArray[np.float32]]) -> list[Where]:
        places = lay_out(offset, arrays)
        slot = self._own()
        if places and places[-1].end > slot.offset + slot.size:
            raise RuntimeError(
                f"This is a bug: expected at most {slot.size} bytes, found {places[-1].end - slot.offset}"
            )
        for place, array in zip(places, arrays, strict=True):
            np.copyto(self._slots.arena.array(place), array)
        return places

    def _question(self, places: tuple[Where, ...]) -> Question:
        image, *rest = (self._slots.arena.array(place) for place in places)
        return Tile(image, *rest) if rest else Canvas(image)

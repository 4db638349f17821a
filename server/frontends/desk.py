"""The uploads that a front end holds, and the work on their pixels, which the engine process orders.

Rules of this module: what is ordered runs in the threads of `lines.work`, for one upload one thing at a time; the rest
belongs to the event loop.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from matting.refinement import Refined, Refinement, RefineOptions, Report, Tile, TileShape, refine
from server.errors import CancelledByClientError
from server.frontends.arena import Arena, Where, lay_out
from server.frontends.orders import Asked
from server.pipeline.encode import Compression
from server.pipeline.header import ImageHeader
from server.pipeline.request import SegmentOptions
from server.pipeline.stages import Prepared, answer, prepare

_NOTHING = np.empty((0, 0, 3), np.uint8)


@dataclass(slots=True)
class _Held:
    """One upload, and what was made of it."""

    options: SegmentOptions
    image: bytes | None = field(repr=False)
    header: ImageHeader | None = None
    prepared: Prepared | None = None
    refinement: Refinement | None = None
    offset: int = 0  # from which on its questions go into shared memory
    refined: NDArray[np.float32] | None = None
    body: bytes | None = None


class Desk:
    """Holds uploads by numbers."""

    def __init__(self, arena: Arena, compression: Compression, *, scaled_decode: bool) -> None:
        """Hold nothing yet.

        Args:
            arena: What is shared with the engine process.
            compression: Of the answers.
            scaled_decode: As `PipelineLimits.scaled_decode`.
        """
        self._arena = arena
        self._compression = compression
        self._scaled_decode = scaled_decode
        self._numbers = itertools.count()
        self._held: dict[int, _Held] = {}

    def hold(self, image: bytes, options: SegmentOptions) -> int:
        """Keep an upload until it is decoded; its number."""
        handle = next(self._numbers)
        self._held[handle] = _Held(options, image)
        return handle

    def describe(self, handle: int, header: ImageHeader) -> None:
        """Keep what the header of an upload says."""
        self._find(handle).header = header

    def take_answer(self, handle: int) -> bytes:
        """The bytes of the answer, which is then held no longer."""
        body = self._held.pop(handle).body
        if body is None:
            raise RuntimeError("This is a bug: expected an answer, found none")
        return body

    def drop(self, handle: int) -> None:
        """Hold nothing of it any longer, if anything is held still."""
        self._held.pop(handle, None)

    def do(self, name: str, arguments: tuple[Any, ...]) -> Any:  # noqa: ANN401 - what was ordered
        """What is ordered: `prepare`, `refine`, `advance` or `answer`."""
        work: dict[str, Callable[..., Any]] = {
            "prepare": self._prepare,
            "refine": self._refine,
            "advance": self._advance,
            "answer": self._answer,
        }
        return work[name](*arguments)

    def _find(self, handle: int) -> _Held:
        held = self._held.get(handle)
        if held is None:  # it left while this was on its way
            raise CancelledByClientError("the client left")
        return held

    def _prepare(self, handle: int, where: Where, colours: bool) -> tuple[int, int]:
        """Decode an upload, and put its canvas into shared memory; its size, upright."""
        held = self._find(handle)
        image, held.image = held.image, None
        if image is None or held.header is None:
            raise RuntimeError("This is a bug: an upload was decoded twice, or has no header")
        size = where.shape[0], where.shape[1]
        prepared = prepare(image, held.header, size, colours=colours, scaled_decode=self._scaled_decode)
        del image
        np.copyto(self._arena.array(where), prepared.canvas)
        prepared.canvas = _NOTHING
        held.prepared = prepared
        return prepared.size

    def _refine(self, handle: int, coarse: Where, shape: TileShape, options: RefineOptions) -> Asked | Report:
        """Begin to refine a coarse mask; as `_advance`."""
        held = self._find(handle)
        if held.prepared is None or held.prepared.rgb is None:
            raise RuntimeError("This is a bug: expected the colours of an image that is refined, found none")
        held.offset = coarse.offset
        mask = self._arena.array(coarse).copy()  # it is needed to the end, and its place for other things
        held.refinement = refine(held.prepared.rgb, mask, shape, options)
        return self._step(held, None)

    def _advance(self, handle: int, answers: Sequence[Where]) -> Asked | Report:
        """Go on with the answers to what was asked: ask on or, at the end, report."""
        return self._step(self._find(handle), [self._arena.array(where) for where in answers])

    def _step(self, held: _Held, answers: Sequence[NDArray[np.float32]] | None) -> Asked | Report:
        if held.refinement is None:
            raise RuntimeError("This is a bug: expected a refinement that was begun, found none")
        try:
            questions = next(held.refinement) if answers is None else held.refinement.send(answers)
        except StopIteration as end:
            refined: Refined = end.value
            held.refinement, held.refined = None, refined.alpha
            return refined.report
        offset, asked = held.offset, []
        for question in questions:
            arrays: tuple[NDArray[Any], ...] = (
                (question.image, question.mask, question.frame) if isinstance(question, Tile) else (question.image,)
            )
            places = lay_out(offset, arrays)
            for place, array in zip(places, arrays, strict=True):
                np.copyto(self._arena.array(place), array)
            offset = places[-1].end
            asked.append(tuple(places))
        return Asked(tuple(asked), offset)

    def _answer(self, handle: int, alpha: Where | None) -> None:
        """Make the answer, of a coarse mask in shared memory or of what was refined, and keep it."""
        held = self._find(handle)
        prepared, held.prepared = held.prepared, None
        if prepared is None:
            raise RuntimeError("This is a bug: an upload was answered that is not decoded")
        matte, held.refined = self._arena.array(alpha) if alpha is not None else held.refined, None
        held.body = answer(prepared, matte, held.options, self._compression)

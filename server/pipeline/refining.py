"""Refines the matte of one request: tiles go through the engine as ordinary items, everything else through the pool.

Rules of this module: between two steps nothing is held but the refinement itself. No step begins after the deadline,
and a caller that is cancelled takes back what waits.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from artifact import Manifest
from matting.refinement import (
    EAGER,
    GUIDED,
    Canvas,
    CropOptions,
    GuidedFilter,
    Question,
    Refined,
    Refinement,
    RefineOptions,
    Tile,
    refine,
)
from server.engine import Engine, Item, Outcome
from server.observability.metrics import Metrics
from server.pipeline.distant import DistantImage
from server.pipeline.pool import HostPool, HostWork
from server.pipeline.refiner import Refiner
from server.pipeline.request import Crop, Refine, SegmentOptions

T = TypeVar("T")
Answers = Sequence[NDArray[np.float32]]
Step = tuple[Question, ...] | Refined

AUTO_SIDE = 2048
"""Pixels of the longer side from which on a matte is refined without being asked for."""

_WEIGHT = 0.1  # of the newest observation in the mean time per megapixel
_HALF_LIFE_S = 60.0  # of that evidence
_LEAST_MEGAPIXELS = 0.1  # below it time does not go by size
_STEP = 1.0  # megapixels: steps are of one size, whatever the image's
_COLOURS, _PLANE, _EDGES = 3, 4, 512
"""Bytes per pixel of an image and of a plane; of a tile's frame, and of what lies between four arrays."""

_BATCHES_IN_FLIGHT = 2
"""Of tiles of one request, on every device: one that runs, and one for when it is done."""


@dataclass(frozen=True, slots=True)
class RefinePlan:
    """How the matte of one request is refined.

    Attributes:
        options: Of the refinement.
        by: What answers the tiles: an artifact on a device, or the guided filter on the host.
    """

    options: RefineOptions
    by: Refiner | GuidedFilter

    @property
    def kind(self) -> Hashable:
        """What takes about the same time for the same pixels."""
        return isinstance(self.by, GuidedFilter), self.options.band


def make_plan(
    options: SegmentOptions, size: tuple[int, int], model: Manifest, refiner: Refiner | None, in_flight: int
) -> RefinePlan | None:
    """What a request asks for; None where its matte is upsampled, and no more.

    Args:
        options: Of the request.
        size: (height, width) of its image; either orientation will do.
        model: That makes the coarse mask.
        refiner: That is served, or None.
        in_flight: Most tiles that may be under way for it at once.
    """
    working = model.input_size
    crop = CropOptions() if options.crop is Crop.AUTO else None
    unasked = max(size) >= AUTO_SIDE and refiner is not None and refiner.harmless
    wanted = options.refine is Refine.ON or (options.refine is Refine.AUTO and unasked)
    if max(size) <= min(working) or not (wanted or crop):
        return None
    if refiner is None:
        chosen = replace(GUIDED, crop=crop, batch=in_flight, stages=wanted)
        return RefinePlan(chosen, GuidedFilter.for_image(size, working))
    chosen = EAGER if options.refine is Refine.ON else RefineOptions()
    return RefinePlan(replace(chosen, crop=crop, batch=in_flight, stages=wanted), refiner)


@dataclass(frozen=True, slots=True)
class Errand:
    """What all items of one request have in common.

    Attributes:
        model_id: Artifact that sees canvases.
        model: Its manifest.
        deadline: Monotonic seconds, absolute.
        request_id: For the log.
        host: Size, priority and age of the request, for the host's line.
    """

    model_id: str
    model: Manifest
    deadline: float
    request_id: str
    host: HostWork

    def item(self, question: Question, by: Refiner | GuidedFilter) -> Item:
        """A question as the engine takes it."""
        if isinstance(question, Canvas):
            arrays = {self.model.inputs[0].name: question.image}
            return self._item(self.model_id, arrays, self.model.input_size)
        if isinstance(by, GuidedFilter):
            raise TypeError("This is a bug: the guided filter runs on the host")
        tile: dict[str, NDArray[np.generic]] = {
            "image": question.image,
            "mask": question.mask,
            "frame": question.frame,
        }
        return self._item(by.artifact_id, tile, by.shape)

    def _item(self, artifact_id: str, arrays: Mapping[str, NDArray[np.generic]], bucket: Hashable) -> Item:
        return Item(artifact_id, arrays, bucket, self.host.priority, self.deadline, self.request_id, part=True)


@dataclass(frozen=True, slots=True)
class _Pace:
    megapixel_s: float
    measured: float


class Refinements:
    """Refines what the pipeline hands it, with the refiner that is served, if there is one."""

    def __init__(self, engine: Engine, pool: HostPool, metrics: Metrics, refiner: Refiner | None) -> None:
        self._engine = engine
        self._pool = pool
        self._metrics = metrics
        self._refiner = refiner
        self._paces: dict[Hashable, _Pace] = {}  # by the plan's kind

    def plan(self, options: SegmentOptions, size: tuple[int, int], model: Manifest) -> RefinePlan | None:
        """How the matte of a request is refined; None where it is not."""
        at_once = sum(device.max_batch * (1 + device.look_ahead) for device in self._engine.devices)
        return make_plan(options, size, model, self._refiner, _BATCHES_IN_FLIGHT * max(1, at_once))

    def expected_s(self, plan: RefinePlan | None, megapixels: float) -> float:
        """Seconds that refining an image of a size is expected to take; 0 without evidence, which fades."""
        pace = self._paces.get(plan.kind) if plan is not None else None
        if pace is None:
            return 0.0
        # Or who is refused would never show that it has become faster.
        age = (self._pool.clock() - pace.measured) / _HALF_LIFE_S
        return pace.megapixel_s * megapixels * math.pow(0.5, age)

    async def run(
        self, plan: RefinePlan, errand: Errand, image: NDArray[np.uint8] | DistantImage, coarse: NDArray[np.float32]
    ) -> Refined:
        """Refine one matte.

        Args:
            plan: Of the request.
            errand: Likewise.
            image: (H, W, 3) uint8, or who holds it.
            coarse: (h, w) float32 in [0, 1], the network's answer.

        Raises:
            DeadlineExceededError, InferenceError, CapacityError: As `Engine.submit`.
        """
        began = self._pool.clock()
        step = replace(errand.host, kind="refine", megapixels=_STEP)

        async def on_host(work: Callable[[], T]) -> T:
            return (await self._pool.run(work, errand.deadline, step)).result

        async def ask(questions: tuple[Question, ...]) -> Answers:
            by = plan.by
            if isinstance(by, GuidedFilter) and isinstance(questions[0], Tile):
                return await on_host(partial(_filtered, by, questions))
            return await _ask_engine(self._engine, [errand.item(question, by) for question in questions])

        refined = await drive(_begin(image, coarse, plan), on_host, ask)
        self._learn(plan, (self._pool.clock() - began) / max(errand.host.megapixels, _LEAST_MEGAPIXELS))
        self._metrics.count_refinement(refined.report.tiles, _shares(refined), _outcomes(refined))
        return refined

    def _learn(self, plan: RefinePlan, megapixel_s: float) -> None:
        before = self._paces[plan.kind].megapixel_s if plan.kind in self._paces else megapixel_s
        self._paces[plan.kind] = _Pace(before + _WEIGHT * (megapixel_s - before), self._pool.clock())


def exchanged_bytes(working_size: tuple[int, int], plan: RefinePlan | None) -> int:
    """Most bytes that cross at a time for a request whose image another process holds.

    Args:
        working_size: (height, width) of the canvas.
        plan: How its matte is refined; None where it is not.
    """
    height, width = working_size
    most = height * width * (_COLOURS + _PLANE) + _EDGES
    if plan is not None:
        shape, tiles = plan.by.shape, plan.options.batch
        most = max(most, tiles * (shape.side**2 * (_COLOURS + _PLANE) + shape.answer**2 * _PLANE + _EDGES))
    return most


def _begin(image: NDArray[np.uint8] | DistantImage, coarse: NDArray[np.float32], plan: RefinePlan) -> Refinement:
    if isinstance(image, np.ndarray):
        return refine(image, coarse, plan.by.shape, plan.options)
    return image.refine(coarse, plan.by.shape, plan.options)


async def drive(
    refinement: Refinement,
    on_host: Callable[[Callable[[], Step]], Awaitable[Step]],
    ask: Callable[[tuple[Question, ...]], Awaitable[Answers]],
) -> Refined:
    """Run a refinement to its end.

    Args:
        refinement: That has not begun.
        on_host: Runs a step of it in a thread.
        ask: Answers the questions of a step, in order.
    """
    answers: Answers | None = None
    while True:
        step = await on_host(partial(advance, refinement, answers))
        if isinstance(step, Refined):
            return step
        answers = await ask(step)


def advance(refinement: Refinement, answers: Answers | None) -> Step:
    """One step: its questions, or the result."""
    try:
        return next(refinement) if answers is None else refinement.send(answers)
    except StopIteration as end:
        refined: Refined = end.value
        return refined


def _filtered(guided: GuidedFilter, tiles: tuple[Question, ...]) -> Answers:
    return [guided.answer(tile) for tile in tiles if isinstance(tile, Tile)]


async def _ask_engine(engine: Engine, items: Sequence[Item]) -> Answers:
    """Submit items together; their answers in order. Whatever ends the wait takes back all that wait still."""
    tasks = [asyncio.create_task(engine.submit(item)) for item in items]
    try:
        outcomes = await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
    return [_alpha(outcome) for outcome in outcomes]


def _alpha(outcome: Outcome) -> NDArray[np.float32]:
    (alpha,) = outcome.arrays.values()
    return np.asarray(alpha, np.float32)


def _shares(refined: Refined) -> list[float]:
    return [stage.band_share for stage in refined.report.stages]


def _outcomes(refined: Refined) -> dict[str, int]:
    stages = refined.report.stages
    used = sum(bool(stage.tiles and not stage.dropped) for stage in stages)
    return {"refined": used, "dropped": refined.report.dropped, "nothing": len(stages) - used - refined.report.dropped}

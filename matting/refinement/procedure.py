"""Refinement as a conversation: stage by stage, it asks for the tiles of the band and composes the answers.

Rules of this module: no engine, device, clock or randomness. At most these live at image size: the image (it is the
caller's), one float matte, and the changes of the tiles that were asked for.
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from matting.refinement.band import FULL, Band, find_band
from matting.refinement.coarse import CoarseMask
from matting.refinement.crop import look_again
from matting.refinement.evidence import Evidence, contradiction, find_evidence
from matting.refinement.fusion import Change, Surroundings, believed
from matting.refinement.options import FusionOptions, RefineOptions
from matting.refinement.port import Answers, Question, Refined, Report, Size, StageReport, TileShape
from matting.refinement.sampling import strip, strips, support, window
from matting.refinement.schedule import PUBLISHED, scaled, stage_sizes
from matting.refinement.tiles import Place, batches, cut, plan

Refinement: TypeAlias = Generator[tuple[Question, ...], Answers, Refined]
"""Yields questions of one kind, at most `RefineOptions.batch`; is sent their answers in the same order."""

DEFAULTS = RefineOptions()

_FULLY = 0.05
"""A pixel that was changed by this much, or more, is moved by all of what contradicts the coarse mask."""


def refine(
    image: NDArray[np.uint8], coarse: NDArray[np.float32], shape: TileShape, options: RefineOptions = DEFAULTS
) -> Refinement:
    """Refine a coarse mask to the image's own size.

    Nothing is asked where the mask is empty or full, or has all pixels already. The answers may be computed in any
    order and company. Outside of the boundary bands the result is, to the bit, `matting.geometry.restore` of the coarse
    mask (and of the crop, where there is one).

    Args:
        image: (H, W, 3) uint8 RGB.
        coarse: (h, w) float32 in [0, 1], the network's answer at the working size.
        shape: Of the refiner's tiles.
        options: How.

    Raises:
        ValueError: An answer has another shape than its question.
    """
    size = image.shape[0], image.shape[1]
    source = CoarseMask(np.asarray(coarse, np.float32), size)
    if options.crop is not None:
        source = yield from look_again(image, source, options.crop)
    box = source.crop.box if source.crop is not None else None
    if not options.stages or not stage_sizes(size, source.resolution):
        return Refined(source.at(size), Report((), box))
    state = _start(source)
    way = _Way(shape, options, find_evidence(state.alpha, options.band))
    reports = []
    for stage_size in _sizes(size, source.resolution, way):
        state, report = yield from _stage(image, source, state, stage_size, way)
        reports.append(report)
    return Refined(state.alpha, Report(tuple(reports), box))


def run(refinement: Refinement, answer: Callable[[tuple[Question, ...]], Answers]) -> Refined:
    """Drive a refinement in a plain loop.

    Args:
        refinement: As `refine` made it.
        answer: Is given the questions of one step, and returns their answers in the same order.
    """
    try:
        questions = next(refinement)
        while True:
            questions = refinement.send(answer(questions))
    except StopIteration as end:
        refined: Refined = end.value
        return refined


@dataclass(frozen=True, slots=True)
class _Way:
    shape: TileShape
    options: RefineOptions
    evidence: Evidence


@dataclass(slots=True)
class _State:
    """The matte so far.

    Attributes:
        alpha: (h, w) float32 at the last stage's size.
        changed: (h, w) uint8, 1 where it is not what the direct upsampling gives; None where nothing is.
    """

    alpha: NDArray[np.float32] = field(repr=False)
    changed: NDArray[np.uint8] | None = field(default=None, repr=False)


def _start(source: CoarseMask) -> _State:
    if source.crop is None:
        return _State(source.whole)
    seen = max(have / own for have, own in zip(source.resolution, source.image, strict=True))
    return _State(source.at(scaled(source.image, min(1.0, seen))))


def _sizes(image: Size, resolution: Size, way: _Way) -> tuple[Size, ...]:
    if way.options.scales is None:
        return stage_sizes(image, resolution, PUBLISHED if way.evidence.thresholded else 1)
    return tuple(scaled(image, scale) for scale in way.options.scales)


def _stage(
    image: NDArray[np.uint8], source: CoarseMask, state: _State, size: Size, way: _Way
) -> Generator[tuple[Question, ...], Answers, tuple[_State, StageReport]]:
    options = way.options
    band = find_band(state.alpha, options.band, _at(way.evidence.hidden, state.alpha.shape))
    places, whole = plan(size, way.shape, band.weight)
    mask, changed = _enlarged(source, state, size)
    if band.share > options.band.max_share:
        return _State(mask, changed), StageReport(size, band.share, 0, whole, "the band is too wide")
    changes, dropped = yield from _ask(image, mask, places, band, way)
    if not dropped and options.fusion is not None:
        ratio = max(size[0] / state.alpha.shape[0], size[1] / state.alpha.shape[1])
        _fuse(changes, Surroundings(size, ratio, options.fusion.sigma), options.fusion)
        dropped = _judge(changes, mask, options.fusion)
    if not dropped:
        changed = _apply(changes, mask, changed)
        if options.fusion is not None:
            _settle(changes, mask, way.evidence, options.fusion.rounds)
    return _State(mask, changed), StageReport(size, band.share, len(places), whole, dropped)


def _enlarged(source: CoarseMask, state: _State, size: Size) -> tuple[NDArray[np.float32], NDArray[np.uint8] | None]:
    """The mask at a stage's size: the direct upsampling, to the bit, and what the stages before have changed of it."""
    mask = source.at(size)
    if state.changed is None:
        return mask, None
    before = (state.alpha.shape[0], state.alpha.shape[1])
    more = state.alpha - source.at(before)
    changed = np.zeros(size, np.uint8)
    scale = before[0] / size[0]
    for rows in strips(size[0]):
        if not state.changed[support(before[0], scale, rows)].any():
            continue
        mask[rows] += strip(more, size, rows)
        np.clip(mask[rows], 0.0, 1.0, out=mask[rows])
        np.greater(strip(state.changed, size, rows), 0.0, out=changed[rows].view(np.bool_))
    return mask, changed


def _ask(
    image: NDArray[np.uint8], mask: NDArray[np.float32], places: tuple[Place, ...], band: Band, way: _Way
) -> Generator[tuple[Question, ...], Answers, tuple[list[Change], str]]:
    """The changes that the refiner would make, by tile, or why they are not used."""
    if not places:
        return [], ""
    seen = _resized(image, (mask.shape[0], mask.shape[1]))
    side, answered = way.shape.side, way.shape.answer
    scale, own = (_scale(plane, mask) for plane in (band.weight, way.evidence.hidden))
    changes = []
    for batch in batches(places, way.options.batch):
        answers = yield tuple(cut(seen, mask, place, side) for place in batch)
        for place, answer in zip(batch, answers, strict=True):
            if answer.shape != (answered, answered):
                raise ValueError(f"expected the answer to a tile, {(answered, answered)}, found {answer.shape}")
            values = np.clip(answer[place.inner], 0.0, 1.0).astype(np.float32, copy=False) - mask[place.cell]
            if not np.isfinite(values).all():
                return [], "the refiner's answer is not a number"
            values *= window(way.evidence.hidden, own, *place.cell) / np.float32(FULL)
            changes.append(Change(place.cell, values, window(band.weight, scale, *place.cell) / np.float32(FULL)))
    return changes, ""


def _fuse(changes: list[Change], surroundings: Surroundings, options: FusionOptions) -> None:
    """Leave of the changes, in place, what is believed."""
    for change in changes:
        surroundings.add(change)
    for change in changes:
        change.values = believed(change.values, surroundings.around(change.cell), options)


def _judge(changes: list[Change], mask: NDArray[np.float32], options: FusionOptions) -> str:
    """Why the changes of a stage are not used, all together; empty where they are."""
    more = sum(float((change.values * change.weight).sum(dtype=np.float64)) for change in changes)
    share = abs(more) / max(float(mask.sum(dtype=np.float64)), 1.0)
    return "" if share <= options.max_area_change else f"the area would change by {share:.0%}"


def _apply(
    changes: list[Change], mask: NDArray[np.float32], changed: NDArray[np.uint8] | None
) -> NDArray[np.uint8] | None:
    """Change the mask in place; where it has been changed by now."""
    for change in changes:
        values = change.values * change.weight
        touched = values != 0
        if not touched.any():
            continue
        part = mask[change.cell]
        part += values
        np.clip(part, 0.0, 1.0, out=part)
        if changed is None:
            changed = np.zeros(mask.shape, np.uint8)
        changed[change.cell] |= touched.view(np.uint8)
    return changed


def _settle(changes: list[Change], mask: NDArray[np.float32], evidence: Evidence, rounds: int) -> None:
    """Move the changed pixels, in place, towards a matte whose means are those that the coarse mask has measured."""
    scale = _scale(evidence.mask, mask)
    for _ in range(rounds):
        more = contradiction(evidence, mask)
        for change in changes:
            part = mask[change.cell]
            part += np.minimum(np.abs(change.values) * change.weight / _FULLY, 1.0) * window(more, scale, *change.cell)
            np.clip(part, 0.0, 1.0, out=part)


def _scale(plane: NDArray[np.generic], frame: NDArray[np.generic]) -> tuple[float, float]:
    """Pixels of a plane per pixel of a frame, by axis."""
    return plane.shape[0] / frame.shape[0], plane.shape[1] / frame.shape[1]


def _at(plane: NDArray[np.uint8], size: tuple[int, ...]) -> NDArray[np.uint8]:
    if plane.shape == size:
        return plane
    return np.asarray(cv2.resize(plane, (size[1], size[0]), interpolation=cv2.INTER_LINEAR), np.uint8)


def _resized(image: NDArray[np.uint8], size: Size) -> NDArray[np.uint8]:
    """The original at a stage's size, antialiased."""
    if image.shape[:2] == size:
        return image
    return np.asarray(cv2.resize(image, (size[1], size[0]), interpolation=cv2.INTER_AREA), np.uint8)

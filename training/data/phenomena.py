"""What the rich sets mix: one function for each kind of scene, and how often each comes."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import cv2
import numpy as np

from training.data import subjects
from training.data.backgrounds import background
from training.data.crops import photographed
from training.data.glass import glassy
from training.data.optics import foot, mirrored, moved_or_defocused, onto
from training.data.palettes import any_colour
from training.data.parts import Material, Part, Subject, transformed
from training.data.raster import Image, Layer, render
from training.data.scene import Level, Scene, Stage, begin, lit, shadowed, staged
from training.data.shapes import Rng
from training.data.smoke import smoky, veiled

Kind = Callable[[Stage], Scene]
_STRANDS = 60
_DARK = 0.2
_THIN = {"bicycle", "furniture", "headphones", "lamp", "spectacles", "tool", "writing"}
"""What nobody could make out when it has the surface of its background."""


def backdrop(stage: Stage, sits: bool = False) -> Image:
    """A background as always, or one from a real photograph, sharp or not."""
    rng, size = stage.background, stage.size
    if rng.uniform() > 0.3:
        return background(rng, size, stage.light, stage.difficulty, sits)
    picture = photographed(rng, size)
    if rng.uniform() < 0.7 - 0.4 * stage.difficulty:
        return _softened(picture, float(np.exp(rng.uniform(np.log(0.004), np.log(0.03)))))
    return picture


def _softened(picture: Image, share: float) -> Image:
    """Out of focus by a share of the frame."""
    return np.asarray(cv2.GaussianBlur(picture, (0, 0), share * picture.shape[0]), np.float32)


def _family(rng: Rng) -> str:
    """Any family, old or new."""
    return subjects.drawn_family(rng, subjects.FAMILIES if rng.uniform() < 0.55 else subjects.RICH_FAMILIES)


def _first_family(rng: Rng) -> str:
    return subjects.drawn_family(rng, subjects.FAMILIES)


def _rich_family(rng: Rng) -> str:
    return subjects.drawn_family(rng, subjects.RICH_FAMILIES)


def _finished(stage: Stage, layer: Layer, behind: Image, sits: bool) -> Scene:
    """The layer, whose colours are final, with its shadow on the background."""
    behind = shadowed(stage.lighting, behind, layer.alpha, stage.light, sits)
    return Scene(layer.colour, layer.alpha, np.clip(behind, 0, 1))


def _drawn(stage: Stage, parts: list[Part]) -> Layer:
    """Parts in units of the frame, in the scene's light."""
    layer = render(parts, stage.size, stage.light, stage.surfaces)
    return Layer(lit(stage.lighting, layer, stage.light), layer.alpha)


def _objects(stage: Stage) -> Scene:
    """One of the newer families."""
    rng = stage.subject
    subject = subjects.draw(rng, _rich_family(rng))
    layer = _drawn(stage, subjects.framed(subject, rng))
    return _finished(stage, layer, backdrop(stage, subject.sits), subject.sits)


def _glass(stage: Stage) -> Scene:
    return glassy(stage, backdrop(stage, sits=True))


def _smoke(stage: Stage) -> Scene:
    return smoky(stage, backdrop(stage))


def _veil(stage: Stage) -> Scene:
    return veiled(stage, backdrop(stage))


def _blur(stage: Stage) -> Scene:
    """The subject moves, or is out of focus."""
    rng = stage.subject
    subject = subjects.draw(rng, _family(rng))
    layer = moved_or_defocused(rng, _drawn(stage, subjects.framed(subject, rng)))
    return _finished(stage, layer, backdrop(stage, subject.sits), subject.sits)


def _placed(parts: list[Part], scale: float, x: float, y: float) -> list[Part]:
    """The frame's content made smaller, its middle put to (x, y)."""
    matrix = np.array([[scale, 0.0, x - scale / 2], [0.0, scale, y - scale / 2]])
    moved = [transformed(part, matrix) for part in parts]
    return [replace(part, strands=part.strands[:_STRANDS]) for part in moved]


def _several(stage: Stage) -> Scene:
    """One subject and others that are none: smaller, further away, mostly out of focus; sometimes of its own kind."""
    rng, size = stage.subject, stage.size
    family = _family(rng)
    subject = subjects.draw(rng, family)
    parts = subjects.framed(subject, rng)
    layer = _drawn(stage, parts)
    extent = float(np.sqrt(max(float((layer.alpha > 0.5).mean()), 0.01)))
    others: list[Part] = []
    for _ in range(int(rng.integers(1, 4))):
        other = subjects.draw(rng, family if rng.uniform() < 0.5 else _family(rng))
        scale = float(np.clip(extent * rng.uniform(0.35, 0.75), 0.1, 0.5))
        others += _placed(subjects.framed(other, rng), scale, float(rng.uniform(0, 1)), float(rng.uniform(0.2, 0.9)))
    behind = onto(backdrop(stage, subject.sits), render(others, size, stage.light, stage.surfaces))
    if rng.uniform() < 0.65:
        behind = _softened(behind, float(np.exp(rng.uniform(np.log(0.004), np.log(0.02)))))
    return _finished(stage, layer, behind, subject.sits)


def _group(stage: Stage) -> Scene:
    """Two to four things of one size side by side: all of them are the subject."""
    rng = stage.subject
    count, family = int(rng.integers(2, 5)), _family(rng)
    first = subjects.draw(rng, family)
    alike = first.cut or rng.uniform() < 0.6
    scale = float(rng.uniform(1.2, 1.6)) / (count + 0.3) * (1.3 if first.cut else 1.0)
    floor, spread = float(rng.uniform(0.6, 0.95)), float(rng.uniform(0.75, 0.95))
    parts: list[Part] = []
    for place in rng.permutation(count):
        subject = subjects.draw(rng, family) if alike else _uncut(rng)
        framed = subjects.framed(replace(subject, share=(0.9, 1.0)), rng)
        own = scale * float(rng.uniform(0.85, 1.1))
        x = 0.5 + spread * ((place + 0.5) / count - 0.5) + rng.normal(0, 0.02)
        low = 1.0 if subject.cut else _lowest(framed)  # what is cut goes on below its frame, and this frame too
        bottom = 1.0 if subject.cut else max(floor, own) + rng.normal(0, 0.02)
        parts += _placed(framed, own, float(x), float(bottom - (low - 0.5) * own))
    return _finished(stage, _drawn(stage, parts), backdrop(stage, first.sits), first.sits)


def _lowest(parts: list[Part]) -> float:
    """How far down the parts reach."""
    return max(float(curve[:, 1].max()) for part in parts for curve in (*part.contours, *part.strands))


def _thick_family(rng: Rng) -> str:
    family = _family(rng)
    while family in _THIN:
        family = _family(rng)
    return family


def _camouflage(stage: Stage) -> Scene:
    """A subject with the very surface of its background; its shading, a slight difference and its shadow betray it."""
    rng, size = stage.subject, stage.size
    subject = subjects.draw(rng, _thick_family(rng))
    parts = [replace(p, material=_greyed(p)) for p in subjects.framed(subject, rng)]
    layer = render(parts, size, stage.light, stage.surfaces)
    own = stage.background
    behind = photographed(own, size) if own.uniform() < 0.5 else background(own, size, stage.light, 1.0, subject.sits)
    if behind.mean() < _DARK:
        behind = np.float32(_DARK) + np.float32(1 - _DARK) * behind  # in the dark nobody could say where it is
    matrix = np.array([[1.0, 0.0, rng.uniform(-0.5, 0.5) * size], [0.0, 1.0, rng.uniform(-0.5, 0.5) * size]])
    skin = cv2.warpAffine(behind, matrix, (size, size), borderMode=cv2.BORDER_REFLECT)
    away = 0.02 + rng.uniform(0.15, 0.5) * float(behind.std())
    lift = (rng.normal(0, 0.015, 3) + rng.choice((-1.0, 1.0)) * away).astype(np.float32)
    skin = skin + np.float32(rng.uniform(0.1, 0.45)) * (skin.mean(axis=(0, 1)) - skin)
    shade = layer.colour - np.float32(0.5)
    colour = np.clip(skin * (1 + shade) + np.float32(0.5) * shade + lift, 0, 1).astype(np.float32)
    return _finished(stage, Layer(colour, layer.alpha), behind, subject.sits)


def _greyed(part: Part) -> Material:
    """The part's shading alone, around a middle grey, with a trace of its pattern."""
    material = part.material
    bright = 0.5 + 0.25 * (float(material.colour.mean()) - 0.5)
    return replace(
        material,
        colour=np.full(3, bright),
        second=np.full(3, bright * 0.92),
        relief=max(0.5, material.relief),
        gloss=0.0,
    )


def _reflection(stage: Stage) -> Scene:
    """Something on a floor, a table or water that mirrors it; what is mirrored is not the subject."""
    rng = stage.subject
    subject = _uncut(rng)
    scale, line = float(rng.uniform(0.5, 0.85)), float(rng.uniform(0.6, 0.88))
    parts = subjects.framed(replace(subject, share=(0.85, 1.0)), rng)
    layer = _drawn(stage, _placed(parts, scale, float(rng.uniform(0.4, 0.6)), line - (_lowest(parts) - 0.5) * scale))
    line = foot(layer.alpha)
    behind = _floored(rng, backdrop(stage), line - float(rng.uniform(0.02, 0.25)))
    behind = onto(behind, mirrored(rng, layer, line))
    return _finished(stage, layer, behind, True) if rng.uniform() < 0.4 else Scene(layer.colour, layer.alpha, behind)


def _uncut(rng: Rng) -> Subject:
    """A subject that is whole within the frame."""
    while True:
        subject = subjects.draw(rng, _family(rng))
        if not subject.cut:
            return subject


def _floored(rng: Rng, behind: Image, horizon: float) -> Image:
    """A mirroring plane below the horizon: the background upside down under a colour of its own."""
    size = behind.shape[0]
    axis = (np.arange(size, dtype=np.float32) + 0.5) / size
    rows = np.abs(2 * np.float32(horizon) - axis) * size - np.float32(0.5)
    across, down = np.meshgrid(axis * size - np.float32(0.5), rows)
    below = cv2.remap(behind, across, down, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    floor = below + np.float32(rng.uniform(0.3, 0.9)) * (any_colour(rng).astype(np.float32) - below)
    softness = np.float32(np.exp(rng.uniform(np.log(0.003), np.log(0.06))))
    share = np.clip((axis - np.float32(horizon)) / softness + np.float32(0.5), 0, 1)[:, None, None]
    return np.asarray(behind + share * (floor - behind), np.float32)


KINDS: dict[str, Kind] = {
    "plain": staged,
    "objects": _objects,
    "glass": _glass,
    "smoke": _smoke,
    "veil": _veil,
    "blur": _blur,
    "several": _several,
    "group": _group,
    "camouflage": _camouflage,
    "reflection": _reflection,
}

Mixture = Mapping[str, float]
"""Kinds of scenes and how often each comes; the shares sum to 1."""

PLAIN: Mixture = {"plain": 1.0}
RICH: Mixture = {
    "plain": 0.55, "objects": 0.16, "glass": 0.06, "smoke": 0.04, "veil": 0.02,
    "blur": 0.05, "several": 0.05, "group": 0.03, "camouflage": 0.02, "reflection": 0.02,
}  # fmt: skip
HARD: Mixture = {"plain": 0.34, "camouflage": 0.33, "glass": 0.15, "smoke": 0.10, "veil": 0.08}


def compose(index: int, size: int, seed: int, level: Level, mixture: Mixture) -> tuple[Scene, Rng]:
    """The scene `index` of a mixed set before the camera, and the generator for what follows.

    A mixture of plain scenes only is `training.data.scene.compose`.
    """
    stage = begin(index, size, seed, level)
    return KINDS[_kind(index, seed, mixture)](stage), stage.camera


def _kind(index: int, seed: int, mixture: Mixture) -> str:
    names = list(mixture)
    if len(names) == 1:
        return names[0]
    return names[int(np.random.default_rng([seed, index, 3]).choice(len(names), p=list(mixture.values())))]


_NAMED: dict[str, Callable[[Rng], str]] = {
    "plain": _first_family,
    "objects": _rich_family,
    "blur": _family,
    "several": _family,
    "camouflage": _thick_family,
}
"""Of the kinds whose subject is of one family that is drawn first: how."""


def family_of(index: int, seed: int, level: Level, mixture: Mixture) -> str | None:
    """Which family the subject of `compose` is of; None where it is of none, or of several."""
    named = _NAMED.get(_kind(index, seed, mixture))
    return None if named is None else named(begin(index, 1, seed, level).subject)

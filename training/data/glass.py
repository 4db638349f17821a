"""Glass and other clear things: tinted, more opaque towards their edges, with highlights, contents and refraction.

The matte of a clear thing is how much of what is seen is its own light: its tint, what it reflects, what it holds. The
rest is the background, bent by refraction, so that image = foreground * alpha + bent background * (1 - alpha) exactly.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from training.data import subjects
from training.data.optics import over, thinned
from training.data.palettes import METAL, WOOD, any_colour, pick
from training.data.parts import Part, Subject, plain
from training.data.raster import Image, Layer, Light, Plane, render
from training.data.scene import Scene, Stage, shadowed
from training.data.shapes import Points, Rng, blob, box, ellipse, limb, mirror, points, smooth
from training.data.surfaces import painted

_COARSE = 96
_BRIGHT = 0.55
_TINTS = (
    (0.85, 0.92, 0.92),
    (0.92, 0.94, 0.96),
    (0.30, 0.50, 0.32),
    (0.50, 0.30, 0.12),
    (0.35, 0.55, 0.75),
    (0.75, 0.78, 0.80),
)
_DRINKS = (
    (0.45, 0.05, 0.10),
    (0.90, 0.75, 0.25),
    (0.95, 0.55, 0.15),
    (0.20, 0.10, 0.06),
    (0.93, 0.90, 0.84),
    (0.65, 0.80, 0.85),
    (0.30, 0.55, 0.20),
)


@dataclass(frozen=True)
class _Ware:
    """A clear body and what of the thing is not clear: stoppers, caps, labels."""

    body: list[Part]
    solid: list[Part]
    filled: bool = True


@dataclass(frozen=True)
class _Shape:
    """A body's coverage (S, S) and, from a coarse copy, `edge` (1 at its rim, 0 well inside) and `slope` (S, S, 2)."""

    coverage: Plane
    edge: Plane
    slope: Image


def _symmetric(*half: tuple[float, float]) -> Points:
    """An outline from its right half, top to bottom."""
    right = points(*half)
    return np.concatenate([right, mirror(right)[::-1]])


def _goblet(rng: Rng) -> _Ware:
    wide, deep, stem = rng.uniform(0.35, 0.6), rng.uniform(0.5, 0.95), rng.uniform(0.4, 0.8)
    bowl = smooth(
        _symmetric((wide * rng.uniform(0.7, 1.0), -deep), (wide, -deep * 0.5), (wide * 0.5, -0.08), (0.05, 0.0)), 6
    )
    foot = ellipse((0, stem), (wide * rng.uniform(0.6, 0.9), 0.07))
    return _Ware([Part(plain(np.ones(3)), [bowl, limb(points((0, -0.03), (0, stem)), (0.06, 0.05)), foot])], [])


def _tumbler(rng: Rng) -> _Ware:
    top, low, high = rng.uniform(0.4, 0.6), rng.uniform(0.3, 0.45), rng.uniform(0.7, 1.5)
    tilt = rng.uniform(0.03, 0.2)
    body = _symmetric((top, -high), (low, 0.0))
    rims = [ellipse((0, -high), (top, top * tilt)), ellipse((0, 0), (low, low * tilt))]
    straw = [
        Part(painted(rng), [limb(points((low * 0.3, -0.1), (top * 1.2, -high - rng.uniform(0.2, 0.5))), (0.06, 0.06))])
    ]
    return _Ware([Part(plain(np.ones(3)), [body, *rims])], straw if rng.uniform() < 0.2 else [])


def _bottle(rng: Rng) -> _Ware:
    half, neck, shoulder = rng.uniform(0.25, 0.45), rng.uniform(0.08, 0.16), rng.uniform(-0.4, 0.2)
    outline = _symmetric((neck, -1.0), (neck, shoulder - 0.3), (half, shoulder), (half, 0.98), (half * 0.9, 1.0))
    solid = []
    if rng.uniform() < 0.6:
        cap = plain(pick(rng, WOOD if rng.uniform() < 0.5 else METAL), 0.5, 0.3)
        solid.append(Part(cap, [box(-neck * 1.1, -1.12, neck * 1.1, -0.94)]))
    if rng.uniform() < 0.5:
        top = rng.uniform(shoulder + 0.05, 0.5)
        solid.append(Part(painted(rng), [box(-half, top, half, top + rng.uniform(0.15, 0.4))]))
    return _Ware([Part(plain(np.ones(3)), [smooth(outline, 4) if rng.uniform() < 0.5 else outline])], solid)


def _bulb(rng: Rng) -> _Ware:
    globe = smooth(_symmetric((0.0, -0.75), (0.55, -0.3), (0.4, 0.2), (0.2, 0.55), (0.18, 0.62)), 7)
    socket = Part(plain(pick(rng, METAL), 0.8, 0.6), [box(-0.18, 0.55, 0.18, 0.95)])
    bends = points((-0.1, 0.5), (-0.2, -0.2), (0.0, -0.1), (0.2, -0.2), (0.1, 0.5))
    wire = Part(plain(np.array([0.95, 0.7, 0.3])), strands=[smooth(bends, 5, closed=False)], width=0.02)
    return _Ware([Part(plain(np.ones(3)), [globe])], [wire, socket], filled=False)


def _sheet(rng: Rng) -> _Ware:
    """A bubble, a bag of clear film, a lump of ice."""
    kind = rng.uniform()
    if kind < 0.35:
        shape = ellipse((0, 0), (1, 1))
    elif kind < 0.7:
        shape = ellipse((0, 0), (rng.uniform(0.5, 0.9), 0.8), rng.normal(0, 0.1), rng.uniform(3, 7))
    else:
        shape = blob(rng, (0, 0), (0.8, 0.8), 0.3)
    return _Ware([Part(plain(np.ones(3)), [shape])], [], filled=False)


def _drawn(rng: Rng) -> tuple[Subject, int]:
    """A clear subject, and how many of its parts are clear; the others are solid."""
    kind = rng.uniform()
    if kind < 0.3:
        subject = subjects.draw(rng, "vessel")
        return subject, len(subject.parts)
    ware = (_goblet, _tumbler, _bottle, _bottle, _bulb, _sheet)[int(rng.integers(6))](rng)
    return Subject([*ware.body, *ware.solid], (0.45, 0.95), sits=ware.filled), len(ware.body)


def _shape_of(coverage: Plane) -> _Shape:
    size = coverage.shape[0]
    small = cv2.resize(coverage, (_COARSE, _COARSE), interpolation=cv2.INTER_AREA)
    rows, columns = (np.flatnonzero(small.max(axis=axis) > 0.3) for axis in (1, 0))
    narrow = min(len(rows), len(columns)) if len(rows) and len(columns) else 1
    sigma = float(np.clip(0.09 * narrow, 1.0, 8.0))
    cushion = cv2.GaussianBlur(small, (0, 0), sigma)
    gx = cv2.Sobel(cushion, cv2.CV_32F, 1, 0, scale=sigma / 8)
    gy = cv2.Sobel(cushion, cv2.CV_32F, 0, 1, scale=sigma / 8)
    planes = np.dstack([np.clip(2 * (1 - cushion), 0, 1), gx, gy]).astype(np.float32)
    large = cv2.resize(planes, (size, size), interpolation=cv2.INTER_LINEAR)
    return _Shape(coverage, np.ascontiguousarray(large[..., 0]), np.ascontiguousarray(large[..., 1:]))


def _clear(rng: Rng, shape: _Shape, behind: Image) -> Layer:
    """The body itself: a tint that gathers towards the rim, which is dark before what is bright."""
    tint = (pick(rng, _TINTS, 0.03) if rng.uniform() < 0.8 else any_colour(rng)).astype(np.float32)
    low = float(rng.uniform(0.05, 0.45))
    high = float(rng.uniform(max(low, 0.45), 0.95))
    power = float(np.exp(rng.uniform(np.log(0.8), np.log(3.0))))
    opacity = np.float32(low) + np.float32(high - low) * shape.edge ** np.float32(power)
    rim = tint * np.float32(rng.uniform(0.15, 0.6) if behind.mean() > _BRIGHT else rng.uniform(0.6, 1.15))
    colour = tint + shape.edge[..., None] * (rim - tint)
    return Layer(np.clip(colour, 0, 1), shape.coverage * opacity)


def _contents(rng: Rng, shape: _Shape) -> Layer:
    """A liquid up to a level, inside the walls."""
    size = shape.coverage.shape[0]
    rows = np.flatnonzero(shape.coverage.max(axis=1) > 0.3)
    top, bottom = (rows[0], rows[-1] + 1) if len(rows) else (0, size)
    level = (top + (bottom - top) * rng.uniform(0.15, 0.75)) / size
    axis = (np.arange(size, dtype=np.float32) + 0.5) / size
    below = np.clip((axis - np.float32(level)) * size + 0.5, 0, 1)[:, None]
    inner = np.clip((0.55 - shape.edge) * 8, 0, 1)
    drink = pick(rng, _DRINKS, 0.03).astype(np.float32)
    shade = np.float32(1) - np.float32(rng.uniform(0.1, 0.6)) * shape.edge
    opacity = np.float32(rng.uniform(0.35, 1.0))
    return Layer(np.clip(drink * shade[..., None], 0, 1), (inner * below * shape.coverage * opacity).astype(np.float32))


def _highlights(rng: Rng, shape: _Shape, light: Light) -> Layer:
    """What the surface mirrors of a lamp and of windows."""
    size = shape.coverage.shape[0]
    facing = -(shape.slope[..., 0] * light.direction[0] + shape.slope[..., 1] * light.direction[1])
    glint = np.clip((facing - np.float32(rng.uniform(0.05, 0.2))) * np.float32(rng.uniform(1, 5)), 0, 0.9)
    rows, columns = (np.flatnonzero(shape.coverage.max(axis=axis) > 0.3) for axis in (1, 0))
    if not len(rows):
        return Layer(np.ones((size, size, 3), np.float32), np.zeros((size, size), np.float32))
    x0, x1, y0, y1 = (float(v) / size for v in (columns[0], columns[-1] + 1, rows[0], rows[-1] + 1))
    streaks = []
    for _ in range(int(rng.integers(1, 4))):
        x = x0 + (x1 - x0) * (rng.uniform(0.12, 0.35) if rng.uniform() < 0.7 else rng.uniform(0.65, 0.85))
        a = y0 + (y1 - y0) * rng.uniform(0.08, 0.5)
        b = a + (y1 - y0) * rng.uniform(0.2, 0.45)
        width = (x1 - x0) * rng.uniform(0.02, 0.08)
        bend = (b - a) * rng.normal(0, 0.06)
        streaks.append(limb(points((x, a), (x + bend, (a + b) / 2), (x, b)), (width, width * 1.4, width)))
    drawn = render([Part(plain(np.ones(3), 0.0), streaks)], size, light, rng).alpha * np.float32(rng.uniform(0.3, 0.95))
    alpha = shape.coverage * (1 - (1 - drawn) * (1 - glint)).astype(np.float32)
    colour = np.full((size, size, 3), rng.uniform(0.88, 1.0), np.float32)
    return Layer(colour, alpha)


def _bent(rng: Rng, behind: Image, shape: _Shape) -> Image:
    """The background as seen through the body."""
    size = behind.shape[0]
    strength = size * float(rng.uniform(-0.12, 0.2))
    axis = np.arange(size, dtype=np.float32)
    x = axis[None, :] + np.float32(strength) * shape.slope[..., 0]
    y = axis[:, None] + np.float32(strength) * shape.slope[..., 1]
    seen = cv2.remap(behind, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    return np.asarray(behind + shape.coverage[..., None] * (seen - behind), np.float32)


def glassy(stage: Stage, behind: Image) -> Scene:
    """A scene of one clear subject before `behind`."""
    size, rng = stage.size, stage.subject
    subject, clear = _drawn(rng)
    parts = subjects.framed(subject, rng)
    shape = _shape_of(render(parts[:clear], size, stage.light, stage.surfaces).alpha)
    layer = _clear(rng, shape, behind)
    if subject.sits and rng.uniform() < 0.6:
        layer = over(layer, _contents(rng, shape))
    layer = over(_highlights(rng, shape, stage.light), layer)
    if parts[clear:]:
        layer = over(render(parts[clear:], size, stage.light, stage.surfaces), layer)
    faint = thinned(layer, float(rng.uniform(0.3, 1.0))).alpha
    behind = shadowed(stage.lighting, behind, faint, stage.light, subject.sits)
    return Scene(layer.colour, layer.alpha, np.clip(_bent(rng, behind, shape), 0, 1))

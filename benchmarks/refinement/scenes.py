"""The fixed set: procedural photographs of 4 to 24 megapixels with exact mattes.

A subject has what is hard at these sizes: hair of one to three pixels, wires across the picture, holes, a net, and a
translucent wing with ribs. Widths of hair and wires are in pixels of the image, whatever its size. `easy` colours of
subject and background are far apart; `hard` ones overlap, and both are busy.

Alpha is the mean of 4 x 4 samples per pixel, times the opacity. The image is α F + (1 - α) B, with a little grain. All
is drawn in strips of rows: besides the result a scene needs some tens of MiB, and the same seed gives the same scene.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Plane = NDArray[np.float32]
Curve = NDArray[np.float64]

SIZES = ((2048, 2048), (2160, 3840), (4000, 6000))
"""(height, width) of the set."""

VERSION = 1
"""Of the drawing: a cached scene of another version is drawn again."""

_SAMPLES = 4
_SHIFT = 4
_STRIP = 128
_GRAIN = 1.5
_OPAQUE = 255
_WING, _RIB = 110, 190


@dataclass(frozen=True, slots=True)
class SceneSpec:
    """What makes a scene.

    Attributes:
        height: In pixels.
        width: In pixels.
        colours: How far apart subject and background are.
        seed: Everything else.
    """

    height: int
    width: int
    colours: Literal["easy", "hard"]
    seed: int

    @property
    def name(self) -> str:
        return f"{self.width}x{self.height}-{self.colours}-{self.seed}"


@dataclass(frozen=True, slots=True)
class Scene:
    """A photograph and its truth: (H, W, 3) uint8 RGB and (H, W) float32 in [0, 1]."""

    image: Image
    alpha: Plane


@dataclass(frozen=True, slots=True)
class _Stroke:
    """Something to draw: a polyline of a width in pixels, or a filled polygon where the width is 0. Points are x, y."""

    points: Curve
    value: int
    width: float = 0.0


def specs(sizes: tuple[tuple[int, int], ...] = SIZES, seeds: int = 2) -> list[SceneSpec]:
    """The set: every size in easy and hard colours; the smallest as often as there are seeds, the others once."""
    return [
        SceneSpec(height, width, colours, seed)
        for height, width in sizes
        for colours in ("easy", "hard")
        for seed in range(seeds if (height, width) == SIZES[0] else 1)
    ]


def load(spec: SceneSpec, cache: Path | None) -> Scene:
    """A scene from the cache, or drawn and put there."""
    if cache is None:
        return draw(spec)
    folder = cache / spec.name
    about = {**asdict(spec), "version": VERSION}
    known = folder / "scene.json"
    if known.exists() and json.loads(known.read_text()) == about:
        return Scene(np.load(folder / "image.npy"), np.load(folder / "alpha.npy"))
    scene = draw(spec)
    folder.mkdir(parents=True, exist_ok=True)
    known.unlink(missing_ok=True)
    np.save(folder / "image.npy", scene.image)
    np.save(folder / "alpha.npy", scene.alpha)
    known.write_text(json.dumps(about))  # last: without it the files are not believed
    return scene


def draw(spec: SceneSpec) -> Scene:
    """Draw a scene."""
    rng = np.random.default_rng([spec.seed, spec.height, spec.width])
    strokes = _subject(rng, spec.height, spec.width)
    front, behind = _surfaces(rng, spec.colours)
    image = np.empty((spec.height, spec.width, 3), np.uint8)
    alpha = np.empty((spec.height, spec.width), np.float32)
    spans = _spans(strokes)
    for top in range(0, spec.height, _STRIP):
        rows = slice(top, min(top + _STRIP, spec.height))
        alpha[rows] = _coverage(strokes, spans, rows, spec.width)
        colour, ground = front.rows(rows, spec.width), behind.rows(rows, spec.width)
        mixed = ground + alpha[rows, :, None] * (colour - ground)
        grain = rng.standard_normal(mixed.shape[:2], np.float32) * np.float32(_GRAIN)
        image[rows] = np.rint(mixed + grain[..., None]).clip(0, 255)
    return Scene(image, alpha)


def _subject(rng: np.random.Generator, height: int, width: int) -> list[_Stroke]:
    """What is drawn, back to front."""
    unit = float(min(height, width))
    middle = np.array([width * rng.uniform(0.42, 0.58), height * rng.uniform(0.5, 0.58)])
    angles = np.linspace(0, 2 * np.pi, 720, endpoint=False)
    waves = [0.03 / k * np.cos(k * angles + rng.uniform(0, 6.28)) for k in range(2, 7)]
    radius = unit * (0.24 + np.sum(waves, axis=0))
    body = middle + radius[:, None] * np.stack((np.cos(angles), np.sin(angles)), axis=1)
    return [
        *_wing(rng, middle, unit),
        _Stroke(body, _OPAQUE),
        *_holes(rng, middle, unit),
        *_net(rng, middle, unit),
        *_hair(rng, middle, angles, radius, unit),
        *_wires(rng, middle, unit, (height, width)),
    ]


def _wing(rng: np.random.Generator, middle: Curve, unit: float) -> Iterator[_Stroke]:
    """A translucent leaf at the left, with ribs that are less so."""
    along = np.linspace(0, 1, 80)
    spread = np.sin(np.pi * along) * 0.13 * unit
    axis = middle + np.outer(along * 0.42 * unit, [-0.9, -0.45])
    normal = np.array([-0.45, 0.9])
    yield _Stroke(np.concatenate((axis + spread[:, None] * normal, (axis - spread[:, None] * normal)[::-1])), _WING)
    for place in np.linspace(0.3, 0.95, 9):
        start, index = middle + place * 0.42 * unit * np.array([-0.9, -0.45]), int(place * 79)
        for side in (-1, 1):
            end = axis[index - 12] + side * spread[index - 12] * normal
            yield _Stroke(np.stack((start, end)), _RIB, float(rng.uniform(2, 5)))


def _holes(rng: np.random.Generator, middle: Curve, unit: float) -> Iterator[_Stroke]:
    angles = np.linspace(0, 2 * np.pi, 100, endpoint=False)
    for turn in (0.4, 2.2, 4.0):
        centre = middle + 0.12 * unit * np.array([np.cos(turn), np.sin(turn)])
        sides = unit * rng.uniform(0.015, 0.045, 2)
        yield _Stroke(centre + sides * np.stack((np.cos(angles), np.sin(angles)), axis=1), 0)


def _net(rng: np.random.Generator, middle: Curve, unit: float) -> Iterator[_Stroke]:
    """A net at the lower right, of threads of two or three pixels."""
    corner = middle + unit * np.array([0.16, 0.08])
    side, count = 0.2 * unit, 18
    for index in range(count + 1):
        bend = np.sin(np.linspace(0, np.pi, 12)) * side * rng.uniform(-0.02, 0.02)
        run, place = np.linspace(0, side, 12), side * index / count
        yield _Stroke(corner + np.stack((run, place + bend), axis=1), _OPAQUE, float(rng.uniform(2, 3.5)))
        yield _Stroke(corner + np.stack((place + bend, run), axis=1), _OPAQUE, float(rng.uniform(2, 3.5)))


def _hair(rng: np.random.Generator, middle: Curve, angles: Curve, radius: Curve, unit: float) -> Iterator[_Stroke]:
    """Seven hundred hairs of one to three pixels on the upper half of the body, in tufts."""
    along = np.linspace(0, 1, 14)
    for tuft in rng.uniform(np.pi + 0.2, 2 * np.pi - 0.2, 70):
        lean, reach = rng.normal(0, 0.5), unit * rng.uniform(0.06, 0.2)
        for root in tuft + rng.normal(0, 0.05, 10):
            start = float(radius[int(root / (2 * np.pi) * len(angles)) % len(angles)]) - 0.01 * unit
            turn = root + (lean + rng.normal(0, 0.15)) * along**2
            away = start + along * reach * rng.uniform(0.6, 1.1)
            points = middle + away[:, None] * np.stack((np.cos(turn), np.sin(turn)), axis=1)
            yield _Stroke(points, _OPAQUE, float(rng.uniform(1, 3)))


def _wires(rng: np.random.Generator, middle: Curve, unit: float, size: tuple[int, int]) -> Iterator[_Stroke]:
    """Wires that sag from the body towards the borders."""
    along = np.linspace(0, 1, 30)
    for end_x, end_y in ((0.03, 0.9), (0.97, 0.85), (0.97, 0.2), (0.06, 0.1)):
        end = np.array([size[1] * end_x, size[0] * end_y])
        points = middle + along[:, None] * (end - middle)
        points[:, 1] += np.sin(np.pi * along) * unit * rng.uniform(0.01, 0.04)
        yield _Stroke(points, _OPAQUE, float(rng.uniform(1, 2.5)))


def _spans(strokes: list[_Stroke]) -> NDArray[np.float64]:
    """(N, 2): the first and the last row that each stroke may touch."""
    return np.array([(s.points[:, 1].min() - s.width, s.points[:, 1].max() + s.width) for s in strokes])


def _coverage(strokes: list[_Stroke], spans: NDArray[np.float64], rows: slice, width: int) -> Plane:
    fine = np.zeros(((rows.stop - rows.start) * _SAMPLES, width * _SAMPLES), np.uint8)
    for index in np.flatnonzero((spans[:, 0] < rows.stop + 1) & (spans[:, 1] > rows.start - 1)):
        stroke = strokes[index]
        # OpenCV's coordinates are those of samples' centres, in sixteenths.
        places = np.rint(((stroke.points - (0, rows.start)) * _SAMPLES - 0.5) * (1 << _SHIFT)).astype(np.int32)
        if stroke.width:
            thickness = max(1, round(stroke.width * _SAMPLES))
            cv2.polylines(fine, [places], False, stroke.value, thickness, cv2.LINE_8, _SHIFT)
        else:
            cv2.fillPoly(fine, [places], stroke.value, cv2.LINE_8, _SHIFT)
    means = cv2.resize(fine.astype(np.float32), (width, rows.stop - rows.start), interpolation=cv2.INTER_AREA)
    return np.asarray(means / np.float32(_OPAQUE), dtype=np.float32)


@dataclass(frozen=True, slots=True)
class _Surface:
    """Colours everywhere: a base and two directions in colour, along which noise of several octaves moves them."""

    base: Plane
    directions: Plane
    grids: NDArray[np.float32]
    cells: tuple[float, ...]

    def rows(self, rows: slice, width: int) -> Plane:
        """(h, W, 3) float32 in levels."""
        shape = (rows.stop - rows.start, width)
        colour = np.broadcast_to(self.base, (*shape, 3)).copy()
        for direction, grids in zip(self.directions, self.grids, strict=True):
            noise = np.zeros(shape, np.float32)
            for weight, cell, grid in zip((0.5, 0.3, 0.2), self.cells, grids, strict=True):
                matrix = np.array([[1 / cell, 0, 0], [0, 1 / cell, rows.start / cell]])
                flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
                noise += np.float32(weight) * cv2.warpAffine(
                    grid, matrix, (width, shape[0]), flags=flags, borderMode=cv2.BORDER_WRAP
                )
            colour += noise[..., None] * direction
        return colour.clip(0, 255)


def _surfaces(rng: np.random.Generator, colours: str) -> tuple[_Surface, _Surface]:
    """Of the subject and of what is behind it."""
    if colours == "easy":
        front, behind, contrast = np.array([205.0, 140.0, 80.0]), np.array([50.0, 85.0, 125.0]), (35.0, 25.0)
    else:
        front, behind, contrast = np.array([130.0, 115.0, 95.0]), np.array([105.0, 110.0, 105.0]), (80.0, 70.0)
    front, behind = front + rng.uniform(-15, 15, 3), behind + rng.uniform(-15, 15, 3)
    return _surface(rng, front, contrast[0]), _surface(rng, behind, contrast[1])


def _surface(rng: np.random.Generator, base: Curve, contrast: float) -> _Surface:
    light, hue = np.array([1.0, 1.0, 1.0]), rng.normal(0, 1, 3)
    directions = np.stack((contrast * light, contrast * 0.5 * hue)).astype(np.float32)
    grids = rng.uniform(-1, 1, (2, 3, 96, 96)).astype(np.float32)
    return _Surface(base.astype(np.float32), directions, grids, (90.0, 23.0, 5.0))

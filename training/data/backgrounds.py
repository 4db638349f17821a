"""What is behind the subject: walls, skies, landscapes, tables, clutter; some of it out of focus."""

from dataclasses import replace

import cv2
import numpy as np
from cv2.typing import MatLike

from training.data import subjects
from training.data.palettes import FOLIAGE, SKY, STRONG, WALL, WOOD, Colour, any_colour, pick, related
from training.data.parts import Material, Part, transformed
from training.data.raster import Image, Light, render, surface
from training.data.shapes import Rng, blob, box, ellipse, limb, points, polygon

_CLOTH_TEXTURES = (
    "cloud",
    "mottle",
    "folds",
    "stripes",
    "waves",
    "plaid",
    "checks",
    "dots",
    "tiles",
    "text",
    "shards",
    "brick",
    "wood",
)
_GROUND_TEXTURES = ("grass", "gravel", "leaves", "pebbles", "rough", "mottle", "ridges")


def _full(material: Material, size: int, rng: Rng) -> Image:
    return surface(material, (size, size), size, (0, 0), rng)


def _gradient(rng: Rng, size: int, first: Colour, second: Colour) -> Image:
    angle = rng.uniform(0, 2 * np.pi)
    axis = (np.arange(size, dtype=np.float32) + 0.5) / size - 0.5
    ramp = axis[None, :] * np.float32(np.cos(angle)) + axis[:, None] * np.float32(np.sin(angle))
    ramp = np.clip(0.5 + ramp * np.float32(rng.uniform(0.5, 1.5)), 0, 1)[..., None]
    return (first.astype(np.float32) + ramp * (second - first).astype(np.float32)).astype(np.float32)


def _wall(rng: Rng, size: int) -> Image:
    colour = pick(rng, WALL) if rng.uniform() < 0.5 else any_colour(rng)
    if rng.uniform() < 0.45:
        return _gradient(rng, size, colour, related(rng, colour, rng.uniform(0.1, 0.6)))
    material = Material(
        colour,
        related(rng, colour, rng.uniform(0.1, 0.6)),
        str(rng.choice(list(_CLOTH_TEXTURES))),
        scale=float(rng.uniform(0.4, 3.0)),
        angle=float(rng.choice((0.0, np.pi / 2, rng.uniform(0, 3)))),
        contrast=float(rng.uniform(0.2, 1.0)),
    )
    return _full(material, size, rng)


def _texture(rng: Rng, size: int) -> Image:
    """Leaves, gravel, dead-leaves clutter: busy all over."""
    first, second = (
        (pick(rng, FOLIAGE), pick(rng, FOLIAGE)) if rng.uniform() < 0.4 else (any_colour(rng), any_colour(rng))
    )
    names = (*_GROUND_TEXTURES, "shards", "spots", "marble")
    image = _full(
        Material(
            first,
            second,
            str(rng.choice(list(names))),
            scale=float(rng.uniform(0.5, 2.5)),
            contrast=float(rng.uniform(0.5, 1.3)),
        ),
        size,
        rng,
    )
    if rng.uniform() < 0.5:
        other = _full(
            Material(
                any_colour(rng),
                first,
                str(rng.choice(["shards", "leaves"])),
                scale=float(rng.uniform(0.7, 3)),
                contrast=1.0,
            ),
            size,
            rng,
        )
        image = (image + other) * np.float32(0.5)
    return image


def _landscape(rng: Rng, size: int) -> Image:
    """Sky over ground, with a soft or hard horizon and hills or trees on it."""
    sky = pick(rng, SKY)
    image = _gradient(rng, size, sky, related(rng, sky, 0.3))
    cloud = _full(Material(np.zeros(3), np.ones(3), "cloud", scale=float(rng.uniform(1, 3)), contrast=1.0), size, rng)
    image = image + np.float32(rng.uniform(0, 0.35)) * (cloud - 0.4)
    return _ground(rng, image, rng.uniform(0.35, 0.85))


def _ground(rng: Rng, image: Image, horizon: float) -> Image:
    """The lower part of `image` replaced by a plane in perspective."""
    size = image.shape[0]
    first, second = (pick(rng, FOLIAGE), pick(rng, WOOD)) if rng.uniform() < 0.6 else (pick(rng, WALL), any_colour(rng))
    plane = _full(
        Material(
            first,
            second,
            str(rng.choice(list(_GROUND_TEXTURES))),
            scale=float(rng.uniform(0.5, 2)),
            contrast=float(rng.uniform(0.3, 1)),
        ),
        size,
        rng,
    )
    return _lower(rng, image, plane, horizon)


def _table(rng: Rng, size: int) -> Image:
    """A table top, boards or a floor that meets a wall, or fills the frame when seen from above."""
    wood = pick(rng, WOOD) if rng.uniform() < 0.7 else any_colour(rng)
    name = (
        "wood" if rng.uniform() < 0.65 else str(rng.choice(["marble", "weave", "plaid", "tiles", "mottle", "stripes"]))
    )
    material = Material(
        wood,
        related(rng, wood, rng.uniform(0.3, 0.8)),
        name,
        scale=float(rng.uniform(0.5, 2.0)),
        angle=float(rng.choice((0.0, np.pi / 2, rng.uniform(0, 3)))),
        contrast=float(rng.uniform(0.5, 1.1)),
    )
    plane = _full(material, size, rng)
    for _ in range(int(rng.integers(0, 6)) if name == "wood" else 0):
        at, angle = rng.uniform(0, size, 2), material.angle
        reach = 2 * size * np.array([np.cos(angle), np.sin(angle)])
        ends = [tuple(int(v) for v in at + s * reach) for s in (-1, 1)]
        cv2.line(plane, ends[0], ends[1], [float(c) for c in wood * 0.35], max(1, round(size * 0.006)), cv2.LINE_AA)
    glow = _gradient(rng, size, np.full(3, 0.7), np.full(3, 1.2))
    plane = plane * glow
    return plane if rng.uniform() < 0.55 else _lower(rng, _wall(rng, size), plane, rng.uniform(0.2, 0.8))


def _lower(rng: Rng, above: Image, below: Image, horizon: float) -> Image:
    size = above.shape[0]
    axis = (np.arange(size, dtype=np.float32) + 0.5) / size
    line = np.float32(horizon) + np.float32(rng.normal(0, 0.05)) * (axis - 0.5)
    softness = np.float32(np.exp(rng.uniform(np.log(0.003), np.log(0.08))))
    share = np.clip((axis[:, None] - line[None, :]) / softness + 0.5, 0, 1)[..., None]
    return above + share * (below - above)


def _flags(rng: Rng) -> list[Part]:
    """Bands of strong colours: flags, shelves, curtains, signs."""
    x, y, w, h = rng.uniform(-0.2, 0.8), rng.uniform(-0.2, 0.7), rng.uniform(0.2, 0.6), rng.uniform(0.2, 0.7)
    count, tall = int(rng.integers(3, 12)), rng.uniform() < 0.5
    colours = [pick(rng, STRONG) for _ in range(int(rng.integers(2, 4)))]
    parts = []
    for k in range(count):
        a, b = k / count, (k + 1) / count
        band = box(x + w * a, y, x + w * b, y + h) if tall else box(x, y + h * a, x + w, y + h * b)
        colour = colours[k % len(colours)]
        parts.append(Part(Material(colour, colour * 0.7, "folds", scale=0.8, contrast=0.6, relief=0.0), [band]))
    return parts


def _scrap(rng: Rng) -> Part:
    """One anonymous thing of the background."""
    centre, reach = (rng.uniform(-0.1, 1.1), rng.uniform(-0.1, 1.1)), np.exp(rng.uniform(np.log(0.04), np.log(0.35), 2))
    radii = (float(reach[0]), float(reach[1]))
    kind = int(rng.integers(5))
    if kind == 0:
        shape = box(centre[0] - radii[0], centre[1] - radii[1], centre[0] + radii[0], centre[1] + radii[1])
    elif kind == 1:
        shape = ellipse(centre, radii, rng.uniform(0, 3))
    elif kind == 2:
        shape = blob(rng, centre, radii, 0.3)
    elif kind == 3:
        shape = polygon(rng, centre, radii, int(rng.integers(3, 7)))
    else:
        end = (centre[0] + rng.normal(0, 0.5), centre[1] + rng.normal(0, 0.5))
        shape = limb(points(centre, end), (radii[0] * 0.3, radii[1] * 0.3))
    colour = any_colour(rng)
    texture = str(rng.choice(["cloud", "mottle", "folds", "stripes", "text", "wood", "shards", "tiles"]))
    return Part(
        Material(
            colour,
            related(rng, colour, 0.5),
            texture,
            scale=float(rng.uniform(0.3, 2)),
            contrast=float(rng.uniform(0.2, 1)),
            relief=float(rng.uniform(0, 0.5)),
        ),
        [shape],
    )


def _clutter(rng: Rng, difficulty: float) -> list[Part]:
    parts: list[Part] = []
    for _ in range(int(rng.integers(0, 3 + round(9 * difficulty)))):
        parts.append(_scrap(rng))
    if rng.uniform() < 0.15 + 0.15 * difficulty:
        parts += _flags(rng)
    if rng.uniform() < 0.12 + 0.15 * difficulty:
        parts += _other_subject(rng)
    return parts


def _other_subject(rng: Rng) -> list[Part]:
    """Something that could have been the subject, but is small or half outside."""
    parts = subjects.framed(subjects.draw(rng), rng)
    scale = rng.uniform(0.2, 0.45)
    side = rng.choice((-1.0, 1.0))
    at = (0.5 + side * rng.uniform(0.3, 0.55) - scale / 2, rng.uniform(0.0, 0.8) - scale / 2)
    matrix = np.array([[scale, 0.0, at[0]], [0.0, scale, at[1]]])
    moved = [transformed(part, matrix) for part in parts]
    return [replace(part, strands=part.strands[:40]) for part in moved]


def _lights(rng: Rng, image: Image) -> None:
    """Bokeh: discs of out-of-focus light, added in place."""
    size = image.shape[0]
    layer = np.zeros_like(image)
    for _ in range(int(rng.integers(5, 30))):
        centre = tuple(int(v) for v in rng.uniform(0, size, 2))
        colour = np.clip(any_colour(rng) * 0.6 + 0.4, 0, 1) * rng.uniform(0.2, 0.7)
        cv2.circle(
            layer, centre, max(1, round(size * rng.uniform(0.01, 0.06))), [float(c) for c in colour], -1, cv2.LINE_AA
        )
    np.maximum(image, cv2.GaussianBlur(layer, (0, 0), max(0.4, size * 0.003)), out=image)


def background(rng: Rng, size: int, light: Light, difficulty: float, standing: bool) -> Image:
    """A background of (size, size, 3) float32 in [0, 1]; `standing` asks mostly for one with something to stand on."""
    weights = np.array([0.28, 0.14, 0.22, 0.36] if standing else [0.42, 0.24, 0.22, 0.12])
    kind = int(rng.choice(4, p=weights))
    blurred = rng.uniform() < 0.75 - 0.45 * difficulty
    focus = float(np.exp(rng.uniform(np.log(0.004), np.log(0.03)))) if blurred else 0.0
    work = size // 2 if focus > 0.008 else size
    image = (_wall, _texture, _landscape, _table)[kind](rng, work)
    own = np.random.default_rng(rng.integers(1 << 62))
    clutter = _clutter(rng, difficulty)
    if clutter:
        layer = render(clutter, work, light, own)
        image = image + layer.alpha[..., None] * (layer.colour - image)
    if blurred and rng.uniform() < 0.2:
        _lights(rng, image)
    image = np.clip(image, 0, 1).astype(np.float32)
    seen: MatLike = cv2.GaussianBlur(image, (0, 0), focus * work) if focus else image
    if work != size:
        seen = cv2.resize(seen, (size, size), interpolation=cv2.INTER_LINEAR)
    return np.asarray(seen, np.float32)

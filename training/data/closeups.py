"""Close-ups: a subject's boundary as a large photograph shows it, with strands, holes, veils and defocus.

`training.data.scene` draws whole photographs, in which a strand is a pixel wide and most pixels are decided. A refiner
sees windows of much larger ones, so that is what is drawn here, with the same parts, materials and backgrounds and the
same exact coverage.
"""

from dataclasses import replace

import cv2
import numpy as np

from training.data.backgrounds import background
from training.data.degrade import Photo, camera
from training.data.palettes import HAIR, any_colour, pick
from training.data.parts import Material, Part, transformed
from training.data.raster import Layer, Light, Plane, render
from training.data.scene import Level
from training.data.shapes import Points, Rng, blob, box, ellipse, fringe, limb, polygon, rough, smooth
from training.data.subjects import recoloured
from training.data.surfaces import painted

_DIFFICULTY: dict[str, tuple[float, float]] = {"easy": (0.0, 0.4), "hard": (0.6, 1.0), "mixed": (0.0, 1.0)}


def _outline(rng: Rng) -> Points:
    """A large body whose boundary crosses the window."""
    angle, away = rng.uniform(0, 2 * np.pi), rng.uniform(0.0, 0.75)
    centre = (0.5 + away * np.cos(angle), 0.5 + away * np.sin(angle))
    reach = away + rng.uniform(-0.25, 0.25) if away > 0.4 else rng.uniform(0.2, 0.45)
    radii = (reach * rng.uniform(0.7, 1.4), reach * rng.uniform(0.7, 1.4))
    kind = rng.uniform()
    if kind < 0.6:
        return blob(rng, centre, radii, rng.uniform(0.05, 0.3))
    if kind < 0.8:
        return polygon(rng, centre, radii, int(rng.integers(3, 8)))
    outline = blob(rng, centre, radii, 0.2)
    return rough(rng, outline, rng.uniform(0.003, 0.02), rng.uniform(0.015, 0.05))


def _hair(rng: Rng) -> Material:
    tone = pick(rng, HAIR, 0.03) if rng.uniform() < 0.6 else any_colour(rng)
    return Material(tone, np.clip(tone * 1.6 + 0.05, 0, 1), "streaks", scale=3.0, contrast=0.6, relief=0.2)


def _strands(rng: Rng, outline: Points, material: Material, pixel: float) -> list[Part]:
    """Tufts along the outline in several widths, from a quarter of a pixel to four."""
    parts = []
    for _ in range(int(rng.integers(1, 4))):
        width = pixel * float(np.exp(rng.uniform(np.log(0.3), np.log(3.5))))
        count = int(np.exp(rng.uniform(np.log(20), np.log(300))))
        droop = (float(rng.normal(0, 0.4)), float(rng.normal(0, 0.4)))
        tuft = fringe(rng, outline, count, float(rng.uniform(0.08, 0.7)), droop)
        shade = replace(material, colour=np.clip(material.colour * rng.uniform(0.75, 1.3), 0, 1))
        parts.append(Part(shade, strands=[smooth(strand, 4, closed=False) for strand in tuft], width=width))
    return parts


def _wires(rng: Rng, pixel: float) -> list[Part]:
    """Twigs, wires, bars and meshes across the window."""
    material, parts = painted(rng), []
    if rng.uniform() < 0.35:
        step, angle = rng.uniform(0.06, 0.25), rng.uniform(0, np.pi)
        grid = [np.array([[-1.0, y], [2.0, y]]) for y in np.arange(-1, 2, step)]
        cross = [line[:, ::-1] for line in grid] if rng.uniform() < 0.6 else []
        turn = np.array([[np.cos(angle), np.sin(angle), 0.0], [-np.sin(angle), np.cos(angle), 0.0]])
        width = float(rng.uniform(0.6, 6.0)) * pixel
        return [transformed(Part(material, strands=grid + cross, width=width), turn)]
    for _ in range(int(rng.integers(2, 12))):
        knots = rng.uniform(-0.2, 1.2, (3, 2))
        width = pixel * float(np.exp(rng.uniform(np.log(0.5), np.log(8))))
        parts.append(Part(material, strands=[smooth(knots, 8, closed=False)], width=width))
    return parts


def _holes(rng: Rng) -> list[Points]:
    """Gaps in a body: round, angular, or long."""
    found = []
    for _ in range(int(rng.integers(1, 8))):
        centre = (float(rng.uniform(0, 1)), float(rng.uniform(0, 1)))
        radii = (float(rng.uniform(0.01, 0.15)), float(rng.uniform(0.01, 0.15)))
        kind = rng.uniform()
        if kind < 0.5:
            found.append(ellipse(centre, radii, float(rng.uniform(0, 3))))
        elif kind < 0.75:
            found.append(box(centre[0] - radii[0], centre[1] - radii[1], centre[0] + radii[0], centre[1] + radii[1]))
        else:
            found.append(limb(rng.uniform(0, 1, (3, 2)), [float(rng.uniform(0.01, 0.05))] * 3))
    return found


def _parts(rng: Rng, pixel: float) -> list[Part]:
    kind = rng.uniform()
    outline = _outline(rng)
    if kind < 0.4:
        hair = _hair(rng)
        return [Part(hair if rng.uniform() < 0.7 else painted(rng), [outline]), *_strands(rng, outline, hair, pixel)]
    if kind < 0.55:
        return [*([Part(painted(rng), [outline])] if rng.uniform() < 0.7 else []), *_wires(rng, pixel)]
    material = painted(rng)
    body = Part(material, [outline], _holes(rng) if rng.uniform() < 0.4 else ())
    if kind < 0.7:
        veil = replace(painted(rng), opacity=float(rng.uniform(0.15, 0.85)), relief=0.0)
        return [Part(veil, [_outline(rng)]), body] if rng.uniform() < 0.6 else [Part(veil, [_outline(rng)])]
    return [body, *([Part(painted(rng), [_outline(rng)])] if rng.uniform() < 0.3 else [])]


def _thinned(rng: Rng, layer: Layer) -> Layer:
    """A slow change of opacity over the whole window: smoke, glass, gauze."""
    size = layer.alpha.shape[0]
    knots = np.clip(rng.normal(0.7, 0.35, (4, 4)), 0.1, 1).astype(np.float32)
    return Layer(layer.colour, layer.alpha * cv2.resize(knots, (size, size), interpolation=cv2.INTER_CUBIC).clip(0, 1))


def _defocused(rng: Rng, layer: Layer) -> Layer:
    """Out of focus as a lens makes it: colour and coverage are blurred together, and alpha stays exact."""
    sigma = float(np.exp(rng.uniform(np.log(0.4), np.log(5.0))))
    alpha, lit = (
        np.asarray(cv2.GaussianBlur(each, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE), np.float32)
        for each in (layer.alpha, layer.colour * layer.alpha[..., None])
    )
    return Layer(np.clip(lit / np.maximum(alpha, 1e-3)[..., None], 0, 1), alpha)


def closeup(index: int, size: int, seed: int, level: Level = "mixed") -> tuple[Photo, Plane]:
    """The close-up `index` of `seed`.

    Args:
        index: 0 or more; every index is another scene.
        size: Side in pixels. Strands are as many pixels wide at every size.
        seed: The set.
        level: How much the colours of subject and background are alike, and how busy they are.

    Returns:
        image uint8 (size, size, 3) RGB and alpha float32 (size, size) in [0, 1], exact coverage.
    """
    rng = np.random.default_rng([seed, index, 2])
    difficulty = float(rng.uniform(*_DIFFICULTY[level]))
    angle = rng.uniform(0, 2 * np.pi)
    light = Light((float(np.cos(angle)), float(np.sin(angle))), float(rng.uniform(0, 1)))
    behind = background(rng, size, light, difficulty, standing=False)
    parts = _parts(rng, 1.0 / size)
    if rng.uniform() < 0.8 * max(0.0, difficulty - 0.35):
        mean = behind.reshape(-1, 3).mean(axis=0).astype(np.float64)
        parts = recoloured(parts, mean, float(rng.uniform(0.3, 0.8)))
    layer = render(parts, size, light, rng)
    if rng.uniform() < 0.12:
        layer = _thinned(rng, layer)
    if rng.uniform() < 0.3:
        layer = _defocused(rng, layer)
    alpha = layer.alpha[..., None]
    return camera(layer.colour * alpha + behind * (1 - alpha), rng), layer.alpha

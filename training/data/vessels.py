"""Vessels seen obliquely: cups with saucer and spoon, bowls, vases, bottles, jars."""

from itertools import pairwise

import cv2
import numpy as np

from training.data.palettes import METAL, pick
from training.data.parts import Material, Part, Subject, plain
from training.data.shapes import (
    Pair,
    Points,
    Rng,
    blob,
    ellipse,
    limb,
    points,
    smooth,
)
from training.data.surfaces import glazed, painted


def _turned(profile: list[Pair], tilt: float) -> list[Points]:
    """A body of revolution as hulls of neighbouring rings; profile = (radius, height), tilt 0 side .. 1 top."""
    rings = [ellipse((0.0, -height * np.sqrt(1 - tilt**2)), (radius, radius * tilt)) for radius, height in profile]
    return [
        cv2.convexHull(np.concatenate(pair).astype(np.float32))[:, 0].astype(np.float64) for pair in pairwise(rings)
    ]


def _profile(rng: Rng) -> list[Pair]:
    """Radius against height of a cup, bowl, vase, bottle or jar."""
    kind = rng.choice(["cup", "cup", "bowl", "vase", "bottle", "jar"])
    if kind == "cup":
        return [(rng.uniform(0.45, 0.75), 0.0), (0.75, rng.uniform(0.2, 0.6)), (0.8, rng.uniform(0.8, 1.5))]
    if kind == "bowl":
        return [(0.35, 0.0), (0.7, 0.25), (0.92, 0.5), (1.0, rng.uniform(0.6, 0.8))]
    heights = np.cumsum([0.0, *rng.uniform(0.2, 0.6, 4)])
    if kind == "bottle":
        radii = [0.4, 0.42, 0.4, 0.14, 0.13]
        heights = np.array([0.0, 0.8, 1.3, 1.7, 2.1]) * rng.uniform(0.8, 1.2)
    elif kind == "jar":
        radii = [0.5, 0.55, 0.55, 0.5, 0.45]
    else:
        radii = list(rng.uniform(0.2, 0.7, 5))
    return list(zip(radii, (float(h) for h in heights), strict=True))


def _saucer(rng: Rng, tilt: float, radius: float) -> list[Part]:
    material = glazed(rng)
    centre = (rng.normal(0, 0.06), rng.normal(0, 0.03))
    rim = Material(material.colour * 0.82, material.second * 0.8, material.texture, material.scale, relief=0.3)
    parts = [
        Part(material, [ellipse(centre, (radius, radius * tilt))]),
        Part(rim, [ellipse(centre, (radius * 0.66, radius * 0.66 * tilt))], detail=True),
    ]
    parts.append(
        Part(material, [ellipse((centre[0], centre[1] + 0.02), (radius * 0.6, radius * 0.6 * tilt))], detail=True)
    )
    if rng.uniform() < 0.5:
        angle = rng.uniform(-0.6, 0.9)
        start = (radius * 0.35 * np.cos(angle), radius * tilt * 0.75)
        end = (start[0] + radius * 0.95 * np.cos(angle), start[1] - radius * 0.7 * tilt * np.sin(angle))
        metal = plain(pick(rng, METAL), 0.9, 0.8)
        parts.append(
            Part(
                metal,
                [
                    limb(
                        points(start, ((start[0] + end[0]) / 2, (start[1] + end[1]) / 2 - 0.02), end),
                        (0.05, 0.045, 0.08),
                    ),
                    ellipse(start, (0.16, 0.1), -angle),
                ],
            )
        )
    return parts


_LIQUIDS = (
    (0.20, 0.11, 0.06),
    (0.36, 0.20, 0.10),
    (0.62, 0.42, 0.25),
    (0.75, 0.30, 0.12),
    (0.55, 0.60, 0.30),
    (0.9, 0.87, 0.8),
)


def _handle(rng: Rng, glaze: Material, top: float, rise: float, tilt: float) -> Part:
    """An ear at one side, from just below the rim down; `rise` is the height of the rim on the picture."""
    angle = rng.uniform(-0.5, 0.5) + (0.0 if rng.uniform() < 0.5 else np.pi)
    out, y0, y1 = top * 0.93, -rise * 0.85, -rise * rng.uniform(0.2, 0.4)
    reach = out + rng.uniform(0.25, 0.55)
    dx, dy = np.cos(angle), np.sin(angle) * tilt
    path = points(
        (out * dx, y0 + out * dy),
        (reach * dx, y0 + reach * dy),
        (reach * dx, y1 + reach * dy),
        (out * 0.9 * dx, y1 + out * 0.9 * dy),
    )
    width = rng.uniform(0.1, 0.2)
    return Part(glaze, [limb(path, (width, width, width, width))])


def _contents(rng: Rng, liquid: Material, mouth: float, top: float, depth: float) -> list[Part]:
    """A liquid's surface inside the rim, perhaps with foam."""
    fill = rng.uniform(0.05, 0.3)
    centre = (0.0, mouth + fill * depth)
    parts = [Part(liquid, [ellipse(centre, (top * (0.92 - fill * 0.3), depth * (0.9 - fill)))], detail=True)]
    if rng.uniform() < 0.4:
        foam = plain(np.array([0.85, 0.74, 0.6]), 0.2)
        parts.append(Part(foam, [blob(rng, centre, (top * 0.5, depth * 0.45), 0.4)], detail=True))
    return parts


def vessel(rng: Rng) -> Subject:
    """A cup, mug, bowl, vase or bottle, often with handle, saucer and contents, from the side or from above."""
    tilt = float(rng.beta(2.0, 2.0) * 0.85 + 0.08)
    profile, glaze = _profile(rng), glazed(rng)
    (top, height), foot = profile[-1], profile[0][0]
    rise = height * float(np.sqrt(1 - tilt**2))
    parts: list[Part] = []
    if rng.uniform() < 0.45:
        parts += _saucer(rng, max(tilt, 0.15), rng.uniform(1.15, 1.7) * max(foot, 0.6))
    handle = [_handle(rng, glaze, top, rise, tilt)] if rng.uniform() < 0.6 else []
    front = bool(handle) and rng.uniform() < 0.5
    mouth, depth = (0.0, -rise), top * tilt
    inside = Material(glaze.colour * 0.55, glaze.colour * 0.35, "mottle", relief=0.5)
    liquid = plain(pick(rng, _LIQUIDS), 0.3, 0.4)
    parts += [] if front else handle
    parts.append(Part(glaze, _turned(profile, tilt)))
    parts.append(Part(plain(np.clip(glaze.colour * 1.1 + 0.05, 0, 1), 0.2), [ellipse(mouth, (top, depth))]))
    parts.append(Part(inside, [ellipse(mouth, (top * 0.92, depth * 0.9))], detail=True))
    if rng.uniform() < 0.7:
        parts += _contents(rng, liquid, -rise, top, depth)
    if rng.uniform() < 0.25:
        y = -rise * 0.45
        band = smooth(points((-1.2, y), (0, y + tilt * 0.8), (1.2, y)), closed=False)
        label = np.concatenate([band, np.add(band, (0.0, -rng.uniform(0.1, 0.4)))[::-1]])
        parts.append(Part(painted(rng), [label], detail=True))
    parts += handle if front else []
    return Subject(parts, (0.42, 1.0), sits=True)

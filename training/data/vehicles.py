"""Vehicles: rockets and other towers, cars, aeroplanes."""

import numpy as np

from training.data.palettes import METAL, STRONG, pick, related
from training.data.parts import Material, Part, Subject, plain, turned
from training.data.shapes import Pair, Rng, box, ellipse, limb, mirror, points, smooth
from training.data.surfaces import painted


def rocket(rng: Rng) -> Subject:
    """A tall body with a nose cone, fins, boosters and bands: rockets, towers, bottles, lighthouses."""
    width, height = rng.uniform(0.12, 0.3), 1.0
    body = painted(rng, pick(rng, ((0.93, 0.93, 0.94), (0.85, 0.45, 0.2), (0.5, 0.5, 0.52), (0.2, 0.2, 0.25))))
    accent = painted(rng)
    nose = smooth(
        np.concatenate(
            [
                points(
                    (-width, -height), (-width * 0.75, -height - width), (0, -height - width * rng.uniform(1.6, 3.5))
                ),
                points((width * 0.75, -height - width), (width, -height)),
            ]
        ),
        6,
    )
    parts: list[Part] = []
    if rng.uniform() < 0.6:
        fin = points((width * 0.9, 0.3), (width * rng.uniform(1.8, 3.2), 1.0), (width * 0.9, 0.85))
        parts += [Part(accent, [fin]), Part(accent, [mirror(fin)])]
    if rng.uniform() < 0.5:
        x, thin, top = width * 1.5, width * rng.uniform(0.35, 0.6), rng.uniform(-0.6, 0.2)
        booster = smooth(
            points((x - thin, 0.95), (x - thin, top), (x, top - thin * 2.5), (x + thin, top), (x + thin, 0.95)), 4
        )
        parts += [Part(accent, [booster]), Part(accent, [mirror(booster)])]
    parts += [
        Part(body, [box(-width, -height - 0.05, width, 1.0)]),
        Part(body if rng.uniform() < 0.5 else accent, [nose]),
    ]
    for _ in range(int(rng.integers(0, 5))):
        y, h = rng.uniform(-0.9, 0.9), rng.uniform(0.02, 0.15)
        parts.append(Part(plain(pick(rng, STRONG)), [box(-width, y, width, y + h)], detail=True))
    parts.append(
        Part(
            plain(np.full(3, 0.15), 0.6),
            [points((-width * 0.5, 0.98), (width * 0.5, 0.98), (width * 0.75, 1.15), (-width * 0.75, 1.15))],
        )
    )
    angle = float(rng.normal(0, 0.12) if rng.uniform() < 0.7 else rng.uniform(-1.5, 1.5))
    return Subject(turned(parts, angle), (0.55, 1.0), sits=True)


def _wheel(centre: Pair, radius: float, tyre: Material, hub: Material) -> list[Part]:
    x, y = centre
    reach = radius * 0.55
    turns = np.arange(5) * 1.257
    spokes = [points((x, y), (x + reach * np.cos(a), y + reach * np.sin(a))) for a in turns]
    return [
        Part(tyre, [ellipse(centre, (radius, radius))]),
        Part(hub, [ellipse(centre, (radius * 0.6, radius * 0.6))], detail=True),
        Part(tyre, strands=spokes, width=0.02, detail=True),
    ]


def car(rng: Rng) -> Subject:
    """A car, van or bus from the side."""
    body = painted(rng)
    roof, bonnet, back = -rng.uniform(0.45, 0.8), -rng.uniform(0.1, 0.35), -rng.uniform(0.1, 0.75)
    shell = points(
        (-1, 0.3),
        (-1.02, 0.0),
        (-0.9, bonnet),
        (-0.45, bonnet - 0.04),
        (-0.2, roof),
        (0.5, roof),
        (0.85, back),
        (1.0, back + 0.1),
        (1.02, 0.3),
    )
    glass = plain(pick(rng, ((0.2, 0.25, 0.3), (0.6, 0.7, 0.78), (0.1, 0.1, 0.12))), 0.4, 0.6)
    window = points((-0.36, bonnet - 0.04), (-0.16, roof + 0.07), (0.46, roof + 0.07), (0.62, bonnet - 0.04))
    parts = [
        Part(body, [smooth(shell, 4)]),
        Part(glass, [window], detail=True),
        Part(body, [box(0.1, roof, 0.16, bonnet)], detail=True),
    ]
    tyre, hub = plain(np.full(3, 0.08), 0.6), plain(pick(rng, METAL), 0.7, 0.5)
    radius = rng.uniform(0.17, 0.25)
    for x in (-0.6, 0.62):
        parts += _wheel((x, 0.3), radius, tyre, hub)
    parts.append(
        Part(plain(np.array([0.98, 0.92, 0.7]), gloss=0.8), [ellipse((-0.95, 0.05), (0.06, 0.07))], detail=True)
    )
    parts.append(
        Part(
            plain(related(rng, body.colour, 0.4)),
            strands=[points((-0.98, 0.16), (1.0, 0.16)), points((0.12, bonnet), (0.12, 0.26))],
            width=0.02,
            detail=True,
        )
    )
    return Subject(parts, (0.55, 0.98), sits=True)


def plane(rng: Rng) -> Subject:
    """An aeroplane or glider in the air."""
    body, wing = painted(rng), painted(rng)
    fuselage = limb(points((-1, 0.05), (0, 0), (1.0, -0.08)), (0.14, rng.uniform(0.2, 0.34), 0.08))
    near = points(
        (-0.25, 0.05), (0.1, 0.05), (rng.uniform(0.3, 0.8), rng.uniform(0.4, 0.95)), (rng.uniform(0.1, 0.3), 0.75)
    )
    far = points((-0.2, -0.06), (0.1, -0.08), (0.5, -rng.uniform(0.3, 0.6)), (0.35, -rng.uniform(0.3, 0.6)))
    tail = points((0.7, -0.1), (1.0, -0.14), (1.15, -rng.uniform(0.35, 0.6)), (0.98, -rng.uniform(0.35, 0.55)))
    windows = [ellipse((x, -0.03), (0.02, 0.025)) for x in np.linspace(-0.7, 0.6, int(rng.integers(0, 14)))]
    parts = [
        Part(wing, [far]),
        Part(body, [tail]),
        Part(body, [fuselage]),
        Part(plain(np.full(3, 0.12)), windows, detail=True),
        Part(wing, [near]),
    ]
    angle = float(rng.normal(0, 0.5))
    return Subject(turned(parts, angle), (0.4, 0.98))

"""Thin and hollow things: bicycles, headphones with their cable, lamps, spectacles, guitars, umbrellas; and toys."""

from itertools import pairwise

import numpy as np

from training.data.palettes import METAL, STRONG, WOOD, any_colour, pick, related
from training.data.parts import Material, Part, Subject, plain, turned
from training.data.shapes import Pair, Points, Rng, box, ellipse, limb, mirror, points, rotate, shifted, smooth
from training.data.surfaces import glazed, painted


def _steel(rng: Rng) -> Material:
    return Material(pick(rng, METAL), pick(rng, METAL), "streaks", contrast=0.5, relief=0.8, gloss=0.6)


def _ring(centre: Pair, radius: float, width: float) -> tuple[Points, Points]:
    return ellipse(centre, (radius, radius), count=72), ellipse(centre, (radius - width, radius - width), count=72)


def _wheel(centre: Pair, radius: float, tyre: Material, metal: Material, spokes: int) -> list[Part]:
    rim, hole = _ring(centre, radius, radius * 0.11)
    turns = np.linspace(0, 2 * np.pi, spokes, endpoint=False)
    x, y = centre
    rays = [points((x, y), (x + radius * 0.92 * np.cos(a), y + radius * 0.92 * np.sin(a))) for a in turns]
    return [
        Part(metal, strands=rays, width=radius * 0.018),
        Part(tyre, [rim], [hole]),
        Part(metal, [ellipse(centre, (radius * 0.08, radius * 0.08))]),
    ]


def bicycle(rng: Rng) -> Subject:
    """A bicycle from the side: two wheels with spokes, a frame of tubes, mostly holes."""
    frame, steel, tyre = painted(rng), _steel(rng), plain(np.full(3, float(rng.uniform(0.05, 0.2))), 0.4)
    radius = float(rng.uniform(0.38, 0.5))
    rear, front = (-0.75, 0.0), (0.8, 0.0)
    crank, seat, head = (-0.1, 0.05), (-0.32, -rng.uniform(0.6, 0.8)), (0.6, -rng.uniform(0.55, 0.75))
    width = float(rng.uniform(0.04, 0.07))
    tubes = [(rear, crank), (crank, seat), (seat, head), (crank, head), (rear, seat)]
    if rng.uniform() < 0.25:
        tubes.remove((seat, head))
    lean = (head[0] - 0.06, head[1] - 0.18)
    lines = [limb(points(a, b), (width, width)) for a, b in tubes]
    parts = [
        *_wheel(rear, radius, tyre, steel, int(rng.integers(10, 25))),
        *_wheel(front, radius, tyre, steel, int(rng.integers(10, 25))),
        Part(steel, [_ring(crank, 0.13, 0.05)[0]], [_ring(crank, 0.13, 0.05)[1]]),
        Part(frame, lines),
        Part(frame, [limb(points(front, (0.66, -0.35), lean), (width, width, width))]),
        Part(steel, [limb(points(seat, (seat[0] - 0.03, seat[1] - 0.15)), (0.04, 0.04))]),
    ]
    saddle = smooth(points((-0.2, -0.03), (0.2, -0.01), (0.18, 0.03), (-0.05, 0.06), (-0.2, 0.05)), 5)
    parts.append(Part(plain(any_colour(rng) * 0.5, 0.5), [shifted(saddle, seat[0] - 0.03, seat[1] - 0.18)]))
    bar = points(lean, (lean[0] + 0.12, lean[1] - 0.06), (lean[0] + 0.22, lean[1] + rng.uniform(-0.08, 0.16)))
    parts.append(Part(steel, [limb(bar, (0.045, 0.045, 0.06))]))
    pedal = rotate(points((0, 0), (0.0, 0.2)), float(rng.uniform(0, 6.3))) + crank
    parts.append(Part(steel, [limb(pedal, (0.04, 0.04)), ellipse((pedal[1][0], pedal[1][1]), (0.08, 0.03))]))
    return Subject(parts, (0.6, 0.98), sits=True)


def headphones(rng: Rng) -> Subject:
    """A band, two cushions and often a cable that hangs or loops."""
    shell, pad = painted(rng) if rng.uniform() < 0.5 else glazed(rng), plain(np.full(3, rng.uniform(0.06, 0.4)), 0.6)
    half, tall = rng.uniform(0.55, 0.8), rng.uniform(0.7, 1.0)
    arch = np.linspace(np.pi, 2 * np.pi, 9)
    band = np.stack([np.cos(arch) * half, np.sin(arch) * tall], axis=1)
    thick = float(rng.uniform(0.08, 0.18))
    parts = [Part(shell, [limb(band, (thick * 0.7, thick, thick, thick * 0.7))])]
    size = (float(rng.uniform(0.16, 0.28)), float(rng.uniform(0.28, 0.42)))
    for side in (-1, 1):
        centre = (side * half, 0.18)
        parts.append(Part(pad, [ellipse((centre[0] - side * 0.13, 0.18), size, side * 0.1, 2.6)]))
        parts.append(Part(shell, [ellipse(centre, (size[0] * 0.8, size[1] * 0.95), side * 0.1, 2.4)]))
        ring = ellipse(centre, (size[0] * 0.4, size[1] * 0.5), side * 0.1)
        parts.append(Part(plain(related(rng, shell.colour, 0.4)), [ring], detail=True))
    if rng.uniform() < 0.65:
        knots = np.concatenate(
            [points((half, 0.5)), rng.uniform((-0.9, 0.6), (0.9, 1.3), (int(rng.integers(3, 6)), 2))]
        )
        cable = smooth(knots, 10, closed=False)
        parts.insert(0, Part(pad, strands=[cable], width=float(rng.uniform(0.02, 0.045))))
    return Subject(turned(parts, float(rng.normal(0, 0.25))), (0.5, 0.95))


def lamp(rng: Rng) -> Subject:
    """A desk lamp with a bent arm, or a shade on a stand."""
    metal, shade = _steel(rng) if rng.uniform() < 0.5 else painted(rng), painted(rng)
    base = Part(metal, [ellipse((0, 1.0), (rng.uniform(0.3, 0.5), 0.09))])
    width = float(rng.uniform(0.04, 0.08))
    if rng.uniform() < 0.5:
        elbow, head = (-rng.uniform(0.2, 0.6), rng.uniform(-0.1, 0.3)), (rng.uniform(0.0, 0.5), -rng.uniform(0.5, 0.8))
        arms = [limb(points((0, 1.0), elbow), (width, width)), limb(points(elbow, head), (width, width))]
        hood = smooth(points((-0.1, -0.12), (0.1, -0.12), (0.34, 0.25), (-0.34, 0.25)), 4)
        cone = rotate(hood, float(-rng.uniform(0.2, 0.9))) + head
        joint = ellipse(elbow, (width, width))
        return Subject([base, Part(metal, [*arms, joint]), Part(shade, [cone])], (0.55, 0.95), sits=True)
    top, low = rng.uniform(0.2, 0.4), rng.uniform(0.4, 0.65)
    hood = points((-top, -0.9), (top, -0.9), (low, -0.25), (-low, -0.25))
    glow = Material(
        np.clip(shade.colour + 0.3, 0, 1), shade.second, shade.texture, shade.scale, contrast=0.3, relief=0.3
    )
    stem = limb(points((0, 1.0), (0, -0.3)), (width, rng.uniform(0.04, 0.3), width))
    return Subject([base, Part(metal, [stem]), Part(glow, [hood])], (0.55, 0.95), sits=True)


def spectacles(rng: Rng) -> Subject:
    """Rims around nothing, or around tinted glass; a bridge and two sides."""
    rim, power = painted(rng) if rng.uniform() < 0.6 else _steel(rng), float(rng.uniform(2.0, 4.0))
    wide, tall, width = rng.uniform(0.34, 0.44), rng.uniform(0.24, 0.4), rng.uniform(0.03, 0.1)
    outer = [ellipse((s * 0.5, 0), (wide, tall), power=power) for s in (-1, 1)]
    inner = [ellipse((s * 0.5, 0), (wide - width, tall - width), power=power) for s in (-1, 1)]
    bridge = limb(
        points((-0.5 + wide - 0.03, -0.08), (0, -0.16), (0.5 - wide + 0.03, -0.08)), (width, width * 0.8, width)
    )
    lift = rng.uniform(-0.5, 0.1)
    ear = points((0.48 + wide, -0.1), (1.15, -0.12 + lift * 0.4), (1.2, lift))
    sides = [limb(path, (width,) * 3) for path in (ear, mirror(ear))]
    rims = [Part(rim, [o], [i]) for o, i in zip(outer, inner, strict=True)]
    parts = [Part(rim, sides), *rims, Part(rim, [bridge])]
    if rng.uniform() < 0.55:
        tint, opacity = any_colour(rng) * 0.5, float(rng.uniform(0.15, 0.9))
        glass = Material(tint, tint * 0.7, contrast=0.3, relief=0.2, gloss=0.6, opacity=opacity)
        parts.insert(1, Part(glass, inner))
    return Subject(turned(parts, float(rng.normal(0, 0.25))), (0.55, 0.95))


def guitar(rng: Rng) -> Subject:
    """A guitar or a violin: a waisted body, a hole that is painted, a long neck, strings."""
    wood = Material(pick(rng, WOOD), pick(rng, WOOD), "wood", scale=1.2, contrast=0.8, relief=0.5, gloss=0.4)
    body = wood if rng.uniform() < 0.6 else painted(rng)
    waist, hip = rng.uniform(0.28, 0.42), rng.uniform(0.45, 0.6)
    half = points((0.0, -0.28), (0.36, -0.2), (waist, 0.15), (hip, 0.6), (0.3, 0.98), (0.0, 1.02))
    outline = smooth(np.concatenate([half, mirror(half)[::-1][1:-1]]), 7)
    neck = box(-0.06, -1.25, 0.06, 0.1)
    head = smooth(points((-0.1, -1.22), (0.1, -1.22), (0.13, -1.6), (-0.13, -1.6)), 4)
    strings = [points((x, -1.45), (x, 0.72)) for x in np.linspace(-0.045, 0.045, 5)]
    pegs = [ellipse((s * 0.15, y), (0.04, 0.03)) for s in (-1, 1) for y in (-1.32, -1.43, -1.54)]
    dark = plain(np.full(3, 0.08))
    parts = [
        Part(_steel(rng), pegs), Part(body, [outline]), Part(dark, [ellipse((0, 0.3), (0.15, 0.15))], detail=True),
        Part(plain(wood.colour * 0.5, 0.3), [neck]), Part(wood, [head]),
        Part(dark, [box(-0.2, 0.68, 0.2, 0.74)], detail=True),
        Part(plain(np.full(3, 0.85)), strands=strings, width=0.008, detail=True),
    ]  # fmt: skip
    return Subject(turned(parts, float(rng.uniform(-1.6, 1.6))), (0.6, 0.98))


def umbrella(rng: Rng) -> Subject:
    """An open umbrella with its panels and a hooked handle."""
    first, second = any_colour(rng), any_colour(rng) if rng.uniform() < 0.5 else None
    count, high = int(rng.integers(5, 9)), rng.uniform(0.6, 0.95)
    edges = np.linspace(-1, 1, count + 1)
    parts: list[Part] = [
        Part(
            _steel(rng),
            strands=[smooth(points((0, -0.2), (0, 1.0), (0.1, 1.18), (0.22, 1.05)), 8, closed=False)],
            width=0.04,
        )
    ]
    rise = -high * np.sqrt(np.clip(1 - np.linspace(0, 1, 8) ** 2, 0, 1))
    for k, (a, b) in enumerate(pairwise(edges)):
        left = np.stack([a * np.linspace(0, 1, 8), rise], axis=1)
        right = np.stack([b * np.linspace(0, 1, 8), rise], axis=1)
        scallop = points(((a + b) / 2, -0.09))
        tone = second if second is not None and k % 2 else first
        shade = np.clip(tone * (1.1 - 0.4 * abs(a + b) / 2), 0, 1)
        parts.append(
            Part(
                Material(shade, shade * 0.8, "folds", contrast=0.4, relief=0.2),
                [np.concatenate([left, scallop, right[::-1]])],
            )
        )
    parts.append(Part(_steel(rng), [limb(points((0, -high + 0.02), (0, -high - 0.14)), (0.04, 0.03))]))
    return Subject(turned(parts, float(rng.normal(0, 0.4))), (0.55, 0.98))


def _blocks(rng: Rng) -> list[Part]:
    parts, floor = [], 1.0
    for _ in range(int(rng.integers(3, 6))):
        half, high, at = rng.uniform(0.2, 0.5), rng.uniform(0.2, 0.45), rng.normal(0, 0.12)
        block = plain(pick(rng, STRONG), 0.5, float(rng.uniform(0, 0.4)))
        if rng.uniform() < 0.75:
            shape = ellipse((at, floor - high / 2), (half, high / 2), power=9.0)
        else:
            shape = points((at - half, floor), (at + half, floor), (at, floor - high))
        parts.append(Part(block, [shape]))
        floor -= high * 0.98
        if len(shape) == 3:
            break
    return parts


def _duck(rng: Rng) -> list[Part]:
    skin = plain(pick(rng, ((0.95, 0.8, 0.12), (0.9, 0.5, 0.6), (0.4, 0.7, 0.85))), 0.9, 0.5)
    body = smooth(points((-1.0, -0.1), (-0.6, 0.15), (0.2, 0.0), (0.75, 0.2), (0.7, 0.75), (0.0, 0.95), (-0.7, 0.7)), 7)
    wing = smooth(points((-0.6, 0.3), (0.1, 0.25), (0.3, 0.5), (-0.1, 0.65)), 6)
    beak = smooth(points((0.85, -0.45), (1.2, -0.38), (1.15, -0.25), (0.85, -0.25)), 5)
    return [
        Part(plain(np.array([0.9, 0.4, 0.1]), 0.6, 0.4), [beak]),
        Part(skin, [body]),
        Part(skin, [ellipse((0.5, -0.4), (0.45, 0.45))]),
        Part(plain(skin.colour * 0.9, 0.8), [wing], detail=True),
        Part(plain(np.full(3, 0.05), gloss=0.8), [ellipse((0.68, -0.5), (0.07, 0.09))], detail=True),
    ]


def _robot(rng: Rng) -> list[Part]:
    shell, joint = painted(rng), _steel(rng)
    eye = plain(any_colour(rng), 0.3, 0.8)
    reaches = [(rng.uniform(0.6, 1.0), rng.uniform(-0.3, 0.5)) for _ in range(2)]
    paths = [points((0.45, -0.1), (0.8, 0.15), reach) for reach in reaches]
    arms = [limb(path, (0.14, 0.12, 0.16)) for path in (paths[0], mirror(paths[1]))]
    legs = [box(s * 0.25 - 0.12, 0.5, s * 0.25 + 0.12, 1.0) for s in (-1, 1)]
    antenna = points((0.0, -0.9), (rng.normal(0, 0.1), -1.2))
    return [
        Part(joint, strands=[antenna], width=0.03),
        Part(joint, [*arms, *legs, ellipse((antenna[1][0], -1.22), (0.06, 0.06))]),
        Part(shell, [ellipse((0, 0.15), (0.5, 0.45), power=6.0)]),
        Part(shell, [ellipse((0, -0.6), (0.42, 0.32), power=5.0)]),
        Part(eye, [ellipse((s * 0.17, -0.63), (0.1, 0.1)) for s in (-1, 1)], detail=True),
        Part(joint, [box(-0.25, 0.0, 0.25, 0.25)], detail=True),
    ]


def toy(rng: Rng) -> Subject:
    """A tower of blocks, a rubber duck, a robot."""
    return Subject((_blocks, _duck, _robot)[int(rng.integers(3))](rng), (0.4, 0.9), sits=True)

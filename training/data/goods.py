"""Things that ordinary product photographs show: shoes, packages, bottles with labels, fruit, luggage."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from training.data.palettes import FOLIAGE, METAL, WOOD, any_colour, cloth, pick, related
from training.data.parts import Material, Part, Subject, patterned, plain, turned
from training.data.shapes import Points, Rng, blob, box, ellipse, limb, mirror, points, shifted, smooth
from training.data.surfaces import glazed, painted, printed

_LEATHER = ("mottle", "weave", "cloud", "ridges", "streaks", "grain")
_FRUIT = (
    (0.80, 0.14, 0.10),
    (0.92, 0.72, 0.15),
    (0.55, 0.68, 0.18),
    (0.93, 0.50, 0.12),
    (0.36, 0.12, 0.28),
    (0.85, 0.35, 0.25),
)


def _leather(rng: Rng) -> Material:
    colour = cloth(rng)
    return patterned(rng, colour, related(rng, colour, 0.35), _LEATHER, (0.3, 2.0))


def _one_shoe(rng: Rng, upper: Material, rubber: Material) -> list[Part]:
    """From the side, toe to the right, about (-1, -0.8) to (1, 0.35)."""
    collar, toe, heel = -rng.uniform(0.45, 1.1), -rng.uniform(0.0, 0.22), rng.uniform(0.0, 0.35)
    body = smooth(
        points(
            (-0.92, 0.2), (-1.0, -0.2), (-0.88, collar), (-0.35, collar + rng.uniform(0.0, 0.12)),
            (-0.1, -0.36), (0.45, -0.18), (0.9, toe), (1.0, 0.16),
        ), 6,
    )  # fmt: skip
    sole = smooth(points((-0.98, 0.12), (0.2, 0.14), (1.04, 0.1), (1.02, 0.26), (0.1, 0.3), (-0.98, 0.28)), 5)
    opening = ellipse((-0.62, collar + 0.05), (0.27, 0.07), 0.08)
    cap = smooth(points((0.5, -0.14), (0.9, toe + 0.03), (0.98, 0.14), (0.55, 0.14)), 5)
    knots = np.linspace(0.0, 1.0, int(rng.integers(3, 7)))
    laces = [points((-0.35 + 0.6 * t, -0.42 + 0.24 * t), (-0.2 + 0.6 * t, -0.2 + 0.2 * t)) for t in knots]
    parts = [Part(rubber, [box(-0.95, 0.25, -0.45, 0.28 + heel)])] if heel > 0.12 else []
    parts += [
        Part(upper, [body]),
        Part(plain(upper.colour * 0.35), [opening], detail=True),
        Part(plain(related(rng, upper.colour, 0.3), 0.5), [cap], detail=True),
        Part(rubber, [sole]),
    ]
    if rng.uniform() < 0.7:
        parts.append(Part(plain(any_colour(rng)), strands=laces, width=0.045, detail=True))
    if rng.uniform() < 0.5:
        stripe = points((-0.3, 0.1), (-0.1, -0.3), (0.05, -0.27), (-0.12, 0.1))
        stripes = [shifted(stripe, 0.22 * k, 0.03 * k) for k in range(int(rng.integers(1, 4)))]
        parts.append(Part(plain(any_colour(rng), 0.2), stripes, detail=True))
    return parts


def _aside(parts: list[Part], x: float, y: float) -> list[Part]:
    """The parts moved."""

    def move(curves: Sequence[Points]) -> list[Points]:
        return [shifted(curve, x, y) for curve in curves]

    return [replace(p, contours=move(p.contours), holes=move(p.holes), strands=move(p.strands)) for p in parts]


def shoe(rng: Rng) -> Subject:
    """A shoe, boot or trainer from the side, or a pair of them."""
    upper, rubber = _leather(rng), plain(np.full(3, 0.9) if rng.uniform() < 0.5 else any_colour(rng), 0.5)
    parts = _one_shoe(rng, upper, rubber)
    if rng.uniform() < 0.35:
        parts = _aside(parts, rng.uniform(0.2, 0.7), -rng.uniform(0.1, 0.4)) + parts
    return Subject(parts, (0.45, 0.95), sits=True)


def package(rng: Rng) -> Subject:
    """A box seen from a corner: three faces, tape, a label, perhaps an open lid."""
    face = painted(rng) if rng.uniform() < 0.6 else _cardboard(rng)
    wide, deep, high, drop = (
        rng.uniform(0.3, 1.0),
        rng.uniform(0.2, 0.8),
        rng.uniform(0.25, 1.2),
        rng.uniform(0.1, 0.4),
    )
    left, right = np.array([-deep, -deep * drop]), np.array([wide, -wide * drop])
    down = np.array([0.0, high])
    corner = np.zeros(2)
    near_left = np.stack([corner, corner + left, corner + left + down, corner + down])
    near_right = np.stack([corner, corner + right, corner + right + down, corner + down])
    top = np.stack([corner, corner + left, corner + left + right, corner + right])
    shades = [_shade(face, factor) for factor in (0.7, 0.95, 1.15)]
    parts = []
    if rng.uniform() < 0.25:
        lift = np.array([rng.uniform(-0.3, 0.1), -rng.uniform(0.2, 0.5)])
        parts.append(Part(shades[1], [np.stack([left, left + right, left + right + lift, left + lift])]))
    parts += [Part(m, [c]) for m, c in zip(shades, (near_left, near_right, top), strict=True)]
    if rng.uniform() < 0.6:
        tape = plain(pick(rng, ((0.8, 0.7, 0.5), (0.9, 0.9, 0.9), (0.75, 0.1, 0.12))), 0.1, 0.3)
        a, b = rng.uniform(0.35, 0.45), rng.uniform(0.55, 0.65)
        strip = np.stack([right * a, right * b, right * b + left, right * a + left])
        flap = np.stack([right * a, right * b, right * b + down * 0.25, right * a + down * 0.25])
        parts.append(Part(tape, [strip, flap], detail=True))
    if rng.uniform() < 0.7:
        u, v = np.sort(rng.uniform(0.1, 0.9, 2)), np.sort(rng.uniform(0.25, 0.95, 2))
        label = np.stack([right * u[a] + down * v[b] for a, b in ((0, 0), (1, 0), (1, 1), (0, 1))])
        parts.append(Part(printed(rng), [label], detail=True))
    return Subject(parts, (0.4, 0.9), sits=True)


def _cardboard(rng: Rng) -> Material:
    tone = pick(rng, ((0.72, 0.56, 0.38), (0.62, 0.46, 0.30), (0.90, 0.88, 0.84)), 0.02)
    return Material(tone, tone * 0.85, "streaks", scale=1.5, contrast=0.4, relief=0.05)


def _shade(material: Material, factor: float) -> Material:
    return Material(
        np.clip(material.colour * factor, 0, 1), np.clip(material.second * factor, 0, 1), material.texture,
        material.scale, material.angle, material.contrast, 0.08, material.gloss,
    )  # fmt: skip


def flask(rng: Rng) -> Subject:
    """A bottle, tube, can or jar with a cap and a label, upright or lying."""
    half, shoulder, neck = rng.uniform(0.2, 0.42), rng.uniform(0.3, 0.95), rng.uniform(0.07, 0.2)
    rise = rng.uniform(0.05, 0.4)
    side = [(half, 1.0), (half, 1.0 - shoulder), (neck, 1.0 - shoulder - rise), (neck, 0.9 - shoulder - rise)]
    outline = points(*side, *[(-x, y) for x, y in reversed(side)])
    body = smooth(outline, 5) if rng.uniform() < 0.5 else outline
    material, cap = glazed(rng) if rng.uniform() < 0.6 else painted(rng), plain(any_colour(rng), 0.6, 0.4)
    top, thick, tall = 0.9 - shoulder - rise, neck * rng.uniform(1.1, 1.5), rng.uniform(0.08, 0.3)
    parts = [
        Part(material, [body]),
        Part(cap, [box(-thick, top - tall, thick, top + 0.03)]),
        Part(plain(cap.colour * 0.6), [box(-thick, top - 0.02, thick, top + 0.01)], detail=True),
    ]
    y0, y1 = np.sort(rng.uniform(1.02 - shoulder, 0.96, 2))
    if y1 - y0 > 0.1:
        label = painted(rng) if rng.uniform() < 0.6 else printed(rng)
        parts.append(Part(label, [box(-half * 0.97, y0, half * 0.97, y1)], detail=True))
        mark = ellipse((0, (y0 + y1) / 2), (half * 0.5, (y1 - y0) * 0.3))
        parts.append(Part(plain(any_colour(rng), 0.1), [mark], detail=True))
    shine = plain(np.full(3, 0.97), 0.0)
    if rng.uniform() < 0.6:
        parts.append(Part(shine, [box(-half * 0.75, 1.05 - shoulder, -half * 0.66, 0.9)], detail=True))
    lies = rng.uniform() < 0.2
    return Subject(turned(parts, float(rng.normal(np.pi / 2, 0.2))) if lies else parts, (0.45, 0.98), sits=not lies)


def _bunch(rng: Rng, skin: Material) -> list[Part]:
    count = int(rng.integers(8, 26))
    at = rng.normal(0, 1, (count, 2)) * (0.35, 0.5) + (0, 0.1)
    at[:, 0] *= 1.2 - np.clip(at[:, 1], -0.5, 0.9)
    stalk = limb(points((0, -0.5), (0.05, -1.0), (0.2, -1.2)), (0.08, 0.06, 0.05))
    order = np.argsort(at[:, 1])
    berries = [Part(skin, [ellipse((float(x), float(y)), (0.2, 0.21))]) for x, y in at[order]]
    return [Part(plain(pick(rng, WOOD), 0.5), [stalk]), *berries]


def _apple(rng: Rng, skin: Material) -> list[Part]:
    tall = rng.uniform(0.75, 1.25)
    half = points((0.5, -0.78 * tall), (0.95, -0.2), (0.6, 0.75))
    outline = smooth(np.concatenate([points((0, -0.62 * tall)), half, points((0, 0.7)), mirror(half)[::-1]]), 7)
    stalk = limb(
        points((0, -0.55 * tall), (0.03, -0.85 * tall), (rng.normal(0, 0.15), -1.15 * tall)), (0.05, 0.05, 0.08)
    )
    leaf = smooth(points((0.02, -0.85 * tall), (0.3, -1.15 * tall), (0.7, -1.1 * tall), (0.35, -0.88 * tall)), 6)
    leaves = [Part(plain(pick(rng, FOLIAGE), 0.6), [leaf])] if rng.uniform() < 0.5 else []
    return [Part(skin, [outline]), Part(plain(pick(rng, WOOD), 0.5), [stalk]), *leaves]


def _banana(rng: Rng, skin: Material) -> list[Part]:
    path = points((-0.9, -0.5), (-0.5, 0.15), (0.1, 0.35), (0.75, 0.1), (1.0, -0.2))
    parts = [Part(skin, [limb(path, (0.08, 0.34, 0.42, 0.34, 0.07))])]
    for k in range(int(rng.integers(0, 3))):
        parts.append(Part(skin, [limb(path * (1, 0.85) + (0.04, 0.16 * (k + 1)), (0.08, 0.32, 0.4, 0.32, 0.07))]))
    return [*parts, Part(plain(np.array([0.25, 0.18, 0.08])), [ellipse((-0.9, -0.52), (0.06, 0.08))], detail=True)]


def fruit(rng: Rng) -> Subject:
    """An apple or pear, bananas, grapes, or a cut half with its flesh."""
    tone = pick(rng, _FRUIT)
    skin = Material(
        tone, related(rng, tone, 0.4), str(rng.choice(["cloud", "mottle", "streaks", "spots"])),
        scale=float(rng.uniform(0.6, 2)), contrast=0.6, relief=0.8, gloss=float(rng.uniform(0, 0.6)),
    )  # fmt: skip
    kind = rng.uniform()
    if kind < 0.4:
        parts = _apple(rng, skin)
        if rng.uniform() < 0.35:
            parts = _aside(_apple(rng, skin), rng.uniform(0.8, 1.5), rng.uniform(-0.15, 0.05)) + parts
    elif kind < 0.6:
        parts = turned(_banana(rng, skin), float(rng.uniform(-0.6, 0.6)))
    elif kind < 0.8:
        parts = _bunch(rng, skin)
    else:
        flesh = plain(np.clip(tone * 0.5 + 0.45, 0, 1), 0.1)
        spokes = [points((0, 0), (np.cos(a) * 0.8, np.sin(a) * 0.62)) for a in np.arange(9) * 0.698]
        parts = [
            Part(skin, [ellipse((0, 0), (1, 0.8))]),
            Part(flesh, [ellipse((0, 0), (0.88, 0.69))], detail=True),
            Part(plain(np.clip(flesh.colour * 1.2, 0, 1), 0), strands=spokes, width=0.04, detail=True),
        ]
    return Subject(parts, (0.35, 0.9), sits=True)


def luggage(rng: Rng) -> Subject:
    """A rucksack, a tote, a suitcase with wheels: handles with holes, pockets, zips."""
    leather, metal = _leather(rng), plain(pick(rng, METAL), 0.8, 0.7)
    half, top = rng.uniform(0.45, 0.8), -rng.uniform(0.4, 0.9)
    power = float(rng.uniform(2.8, 7.0))
    body = ellipse((0, (1 + top) / 2), (half, (1 - top) / 2), power=power)
    width = float(rng.uniform(0.05, 0.12))
    reach, grip = top - rng.uniform(0.15, 0.7), half * rng.uniform(0.25, 0.6)
    handle = smooth(points((-grip, top + 0.1), (-grip, reach), (grip, reach), (grip, top + 0.1)), 7, closed=False)
    parts = [Part(leather if rng.uniform() < 0.6 else metal, strands=[handle], width=width), Part(leather, [body])]
    pocket = ellipse((0, 0.55), (half * 0.7, 0.3), power=4.0)
    parts += [
        Part(plain(related(rng, leather.colour, 0.25), 0.6), [pocket], detail=True),
        Part(metal, strands=[points((-half * 0.8, 0.12), (half * 0.8, 0.12))], width=0.025, detail=True),
    ]
    if rng.uniform() < 0.4:
        tyre = plain(np.full(3, 0.1), 0.5)
        parts.insert(0, Part(tyre, [ellipse((s * half * 0.75, 1.02), (0.09, 0.1)) for s in (-1, 1)]))
    elif rng.uniform() < 0.5:
        straps = [
            limb(points((s * half, top + 0.5), (s * (half + 0.3), 0.4), (s * half * 0.9, 0.9)), (width,) * 3)
            for s in (-1, 1)
        ]
        parts.insert(0, Part(leather, straps))
    if rng.uniform() < 0.3:
        parts.append(Part(painted(rng), [blob(rng, (0, -0.05), (half * 0.3, 0.15), 0.3)], detail=True))
    return Subject(parts, (0.4, 0.95), sits=True)

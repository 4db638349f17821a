"""Furniture, tools and bags, plants, and shapes with no name."""

import numpy as np

from training.data.palettes import FOLIAGE, METAL, WOOD, any_colour, pick, related
from training.data.parts import Material, Part, Subject, plain, turned
from training.data.shapes import (
    Pair,
    Points,
    Rng,
    blob,
    ellipse,
    fringe,
    limb,
    mirror,
    points,
    polygon,
    rotate,
    rough,
    smooth,
    superformula,
)
from training.data.surfaces import glazed, painted


def furniture(rng: Rng) -> Subject:
    """A chair, stool, table or lamp: thin bars and holes."""
    wood = (
        Material(pick(rng, WOOD), pick(rng, WOOD), "wood", scale=1.5, contrast=0.8, relief=0.6)
        if rng.uniform() < 0.6
        else painted(rng)
    )
    width = rng.uniform(0.04, 0.12)
    seat, high = rng.uniform(-0.1, 0.3), -rng.uniform(0.6, 1.1)
    half, skew = rng.uniform(0.4, 0.8), rng.uniform(0.1, 0.4)
    corners = [(-half, seat + 0.12), (half, seat + 0.12), (half - skew * 0.3, seat - 0.12), (-half + skew, seat - 0.12)]
    legs = [limb(points((x, y), (x * 1.1, y + rng.uniform(0.75, 0.9))), (width, width * 0.8)) for x, y in corners]
    parts = [Part(wood, legs)]
    if rng.uniform() < 0.7:
        posts = [points(corners[2], (corners[2][0] + 0.05, high)), points(corners[3], (corners[3][0] + 0.05, high))]
        rails = [
            points((posts[1][0][0] + 0.03, y), (posts[0][0][0] + 0.03, y))
            for y in np.linspace(high + 0.05, seat - 0.3, int(rng.integers(1, 5)))
        ]
        parts.append(Part(wood, [limb(p, (width, width)) for p in (*posts, *rails)]))
    parts.append(
        Part(
            painted(rng) if rng.uniform() < 0.4 else wood,
            [smooth(points(*corners), 3) if rng.uniform() < 0.5 else points(*corners)],
        )
    )
    if rng.uniform() < 0.3:
        parts.append(Part(painted(rng), [blob(rng, (0, seat - 0.3), (half * 0.5, 0.3), 0.15)]))
    return Subject(parts, (0.5, 0.95), sits=True)


def _racket(rng: Rng, grip: Material, metal: Material, shaft: Points) -> list[Part]:
    ring = (rng.uniform(0.3, 0.5), rng.uniform(0.35, 0.6))
    inner = (ring[0] * 0.8, ring[1] * 0.84)
    mesh = [points((x, -1.4), (x, 0.0)) for x in np.linspace(-0.4, 0.4, 7) if abs(x) < inner[0]]
    return [
        Part(plain(np.array([0.9, 0.9, 0.85])), strands=mesh, width=0.02, detail=True),
        Part(metal, [ellipse((0, -0.75), ring)], [ellipse((0, -0.75), inner)]),
        Part(grip, [shaft]),
    ]


def _scissors(grip: Material, metal: Material) -> list[Part]:
    blade = points((0, 0.1), (0.12, 0.0), (0.05, -1.0))
    blades = [rotate(blade, a) for a in (-0.25, 0.2)] + [rotate(mirror(blade), a) for a in (-0.2, 0.25)]
    loops = [ellipse((s * 0.26, 0.5), (0.22, 0.32), s * 0.5) for s in (-1, 1)]
    holes = [ellipse((s * 0.26, 0.5), (0.13, 0.22), s * 0.5) for s in (-1, 1)]
    return [Part(metal, blades), Part(grip, loops, holes)]


def _bag(rng: Rng, leather: Material) -> Subject:
    tops = -rng.uniform(0.6, 1.1), -rng.uniform(0.6, 1.1)
    strap = limb(points((-0.45, -0.2), (-0.35, tops[0]), (0.35, tops[1]), (0.45, -0.2)), (0.09,) * 4)
    bag = smooth(points((-0.6, -0.3), (0.6, -0.3), (rng.uniform(0.6, 0.8), 0.6), (-rng.uniform(0.6, 0.8), 0.6)), 5)
    clasp = plain(pick(rng, METAL), gloss=0.8)
    flap = smooth(points((-0.6, -0.3), (0.6, -0.3), (0.5, 0.1), (-0.5, 0.1)), 5)
    parts = [
        Part(leather, [strap]),
        Part(leather, [bag]),
        Part(plain(related(rng, leather.colour, 0.3), 0.5), [flap], detail=True),
        Part(clasp, [ellipse((0, 0.08), (0.09, 0.07))], detail=True),
    ]
    return Subject(parts, (0.4, 0.9), sits=True)


def tool(rng: Rng) -> Subject:
    """A racket, a hammer, scissors at any angle; or a bag."""
    grip = painted(rng)
    metal = Material(pick(rng, METAL), pick(rng, METAL), "streaks", contrast=0.5, relief=0.8, gloss=0.6)
    kind = int(rng.integers(4))
    shaft = limb(points((0, -0.3), (rng.normal(0, 0.05), 0.3), (0, 1.0)), (0.1, rng.uniform(0.08, 0.16), 0.18))
    if kind == 3:
        return _bag(rng, grip)
    if kind == 0:
        parts = _racket(rng, grip, metal, shaft)
    elif kind == 1:
        head = smooth(points((-0.5, -0.5), (0.35, -0.52), (0.6, -0.35), (0.35, -0.22), (-0.5, -0.25)), 5)
        parts = [Part(grip, [shaft]), Part(metal, [head])]
    else:
        parts = _scissors(grip, metal)
    return Subject(turned(parts, float(rng.uniform(0, 2 * np.pi))), (0.45, 0.95))


def _leaf(rng: Rng, at: Points, angle: float, length: float, breadth: float) -> Points:
    shape = smooth(
        points((0, 0), (0.3, -breadth), (0.75, -breadth * 0.7), (1.0, 0), (0.75, breadth * 0.7), (0.3, breadth)), 4
    )
    return rotate(shape * length, angle) + at


def plant(rng: Rng) -> Subject:
    """A branch, a shrub or a potted plant, with leaves and perhaps flowers."""
    green = Material(pick(rng, FOLIAGE), pick(rng, FOLIAGE), "mottle", scale=0.5, contrast=0.9, relief=0.6)
    dark = Material(green.colour * 0.65, green.second * 0.65, "mottle", scale=0.5, contrast=0.9, relief=0.5)
    stalk = plain(pick(rng, WOOD) if rng.uniform() < 0.5 else green.colour * 0.8, 0.6)
    length, breadth = rng.uniform(0.25, 0.7), rng.uniform(0.1, 0.35)
    stems: list[Points] = []
    leaves: list[Points] = []
    shaded: list[Points] = []
    tips: list[Points] = []
    for _ in range(int(rng.integers(2, 8))):
        angle = rng.normal(0, 0.6)
        reach = rng.uniform(0.6, 1.4)
        tip = np.array([np.sin(angle) * reach, -np.cos(angle) * reach])
        middle = tip * 0.5 + rng.normal(0, 0.08, 2)
        stem = smooth(np.stack([np.zeros(2), middle, tip]), 6, closed=False)
        stems.append(stem)
        tips.append(tip)
        for k in rng.integers(3, len(stem), int(rng.integers(3, 12))):
            leaf = _leaf(rng, stem[k], rng.uniform(-np.pi, 0.3 * np.pi), length * rng.uniform(0.5, 1.0), breadth)
            (leaves if rng.uniform() < 0.6 else shaded).append(leaf)
    parts = [Part(stalk, strands=stems, width=float(rng.uniform(0.02, 0.06))), Part(dark, shaded), Part(green, leaves)]
    if rng.uniform() < 0.4:
        petal = plain(any_colour(rng), 0.4)
        for tip in tips:
            petals = [
                _leaf(rng, tip, a, 0.28, 0.3)
                for a in np.linspace(0, 2 * np.pi, int(rng.integers(5, 9)), endpoint=False)
            ]
            parts += [
                Part(petal, petals),
                Part(plain(np.array([0.85, 0.65, 0.15])), [ellipse((float(tip[0]), float(tip[1])), (0.09, 0.09))]),
            ]
    if rng.uniform() < 0.5:
        top, bottom = rng.uniform(0.3, 0.5), rng.uniform(0.2, 0.4)
        parts.append(Part(glazed(rng), [points((-top, -0.08), (top, -0.08), (bottom, 0.7), (-bottom, 0.7))]))
    return Subject(parts, (0.5, 1.0), sits=True)


def _unnamed_shape(rng: Rng, centre: Pair, radii: Pair) -> Points:
    kind = int(rng.integers(6))
    if kind == 0:
        return blob(rng, centre, radii, rng.uniform(0.1, 0.6))
    if kind == 1:
        return superformula(rng, centre, radii)
    if kind == 2:
        return polygon(rng, centre, radii, int(rng.integers(3, 10)))
    if kind == 3:
        return ellipse(centre, radii, rng.uniform(0, np.pi), rng.uniform(1.2, 8.0))
    if kind == 4:
        return smooth(polygon(rng, centre, radii, int(rng.integers(4, 9))), 6)
    return rough(rng, blob(rng, centre, radii, 0.25), 0.04, 0.05)


def unnamed(rng: Rng) -> Subject:
    """A union of arbitrary shapes with holes, loops and loose strands."""
    parts = []
    for index in range(int(rng.integers(1, 5))):
        centre = (0.0, 0.0) if index == 0 else (rng.uniform(-0.7, 0.7), rng.uniform(-0.7, 0.7))
        radii = (rng.uniform(0.3, 0.8), rng.uniform(0.3, 0.8))
        shape = _unnamed_shape(rng, centre, radii)
        holes = [blob(rng, centre, (radii[0] * 0.4, radii[1] * 0.4), 0.2)] if rng.uniform() < 0.2 else []
        strands = fringe(rng, shape, int(rng.integers(20, 150)), rng.uniform(0.1, 0.5)) if rng.uniform() < 0.25 else []
        parts.append(Part(painted(rng), [shape], holes, strands, float(rng.uniform(0.008, 0.02))))
    if rng.uniform() < 0.4:
        knots = rng.uniform(-1, 1, (int(rng.integers(3, 7)), 2))
        parts.append(Part(painted(rng), [limb(knots, (rng.uniform(0.05, 0.2), rng.uniform(0.05, 0.2)))]))
    for _ in range(int(rng.integers(0, 5))):
        parts.append(
            Part(
                painted(rng),
                [
                    _unnamed_shape(
                        rng,
                        (rng.uniform(-0.5, 0.5), rng.uniform(-0.5, 0.5)),
                        (rng.uniform(0.05, 0.3), rng.uniform(0.05, 0.3)),
                    )
                ],
                detail=True,
            )
        )
    return Subject(parts, (0.4, 0.98))

"""Animals: furry faces close up, quadrupeds from the side, birds, fish."""

import numpy as np

from training.data.palettes import FUR, Colour, any_colour, pick, related
from training.data.parts import Material, Part, Subject, plain, turned
from training.data.shapes import Pair, Points, Rng, blob, ellipse, fringe, limb, mirror, points, rotate, rough, smooth


def _coat(rng: Rng, colour: Colour, scale: float = 1.0) -> Material:
    pattern = str(rng.choice(["fur", "fur", "tabby", "tabby", "spots", "mottle", "streaks"]))
    second = pick(rng, FUR) if rng.uniform() < 0.6 else related(rng, colour, 0.5)
    return Material(
        colour,
        second,
        pattern,
        scale=float(scale * np.exp(rng.uniform(-0.2, 0.9))),
        angle=float(rng.uniform(0, np.pi)),
        contrast=float(rng.uniform(0.5, 1.0)),
        relief=0.6,
    )


def _furry(rng: Rng, material: Material, contour: Points, shag: float, detail: bool = False) -> Part:
    """A region with a hairy outline; `shag` is the length of the hairs."""
    outline = rough(rng, contour, shag * 0.25, max(shag * 0.4, 0.02))
    strands = fringe(rng, contour, int(rng.integers(120, 400)), shag * 1.2, (0.0, 0.2)) if shag > 0.01 else []
    return Part(material, [outline], strands=strands, width=float(rng.uniform(0.004, 0.012)), detail=detail)


def _eye(rng: Rng, centre: Pair, radius: float, iris: Material, slit: bool) -> list[Part]:
    white = plain(np.array([0.97, 0.97, 0.95]), 0.0)
    pupil = (radius * (0.22 if slit else 0.5), radius * (0.75 if slit else 0.5))
    return [
        Part(plain(np.array([0.07, 0.05, 0.04])), [ellipse(centre, (radius * 1.25, radius * 1.05))], detail=True),
        Part(iris, [ellipse(centre, (radius, radius * 0.85))], detail=True),
        Part(plain(np.array([0.02, 0.02, 0.02]), 0.0), [ellipse(centre, pupil)], detail=True),
        Part(
            white,
            [ellipse((centre[0] - radius * 0.3, centre[1] - radius * 0.35), (radius * 0.15, radius * 0.15))],
            detail=True,
        ),
    ]


def _ears(rng: Rng, coat: Material, shag: float) -> list[Part]:
    """Two ears, pointed or hanging, with their pink inside."""
    base, width = rng.uniform(0.5, 0.7), rng.uniform(0.22, 0.36)
    parts: list[Part] = []
    hanging = rng.uniform() < 0.25
    tip = (
        (base + rng.uniform(0.2, 0.5), rng.uniform(0.2, 0.7))
        if hanging
        else (base + rng.uniform(0.0, 0.3), rng.uniform(-1.6, -1.15))
    )
    outer = smooth(
        points(
            (base - width, -0.72),
            ((base - width + tip[0]) / 2 - 0.03, (tip[1] - 0.72) / 2 - 0.1),
            tip,
            (base + width * 1.1, -0.35),
        ),
        6,
    )
    middle = outer.mean(axis=0)
    inner = (outer - middle) * 0.62 + middle
    pink = Material(np.array([0.80, 0.58, 0.52]), coat.colour, "fur", contrast=0.8, relief=0.5)
    for flip in (False, True):
        contour, inside = (mirror(outer), mirror(inner)) if flip else (outer, inner)
        parts.append(_furry(rng, coat, contour, shag))
        if not hanging:
            parts.append(Part(pink, [inside], detail=True))
    return parts


def _muzzle(rng: Rng, pale: Material, coat: Material, turn: float) -> tuple[list[Part], float]:
    """The chest and the muzzle in a paler coat, and how low the muzzle sits."""
    parts: list[Part] = []
    if rng.uniform() < 0.6:
        parts.append(_furry(rng, pale, blob(rng, (turn, rng.uniform(1.0, 1.3)), (0.5, 0.45), 0.2), 0.05, detail=True))
    y = rng.uniform(0.3, 0.45)
    material = pale if rng.uniform() < 0.7 else coat
    parts.append(_furry(rng, material, blob(rng, (turn, y), (0.4, 0.3), 0.1), 0.04, detail=True))
    return parts, y


def _nose_and_mouth(rng: Rng, x: float, y: float) -> list[Part]:
    nose = smooth(points((x - 0.13, y - 0.16), (x, y - 0.19), (x + 0.13, y - 0.16), (x, y - 0.02)))
    tone = pick(rng, ((0.75, 0.45, 0.42), (0.10, 0.08, 0.08), (0.40, 0.24, 0.20)))
    lips = [points((x, y), (x, y + 0.1), (x + s * 0.12, y + 0.17), (x + s * 0.24, y + 0.12)) for s in (-1, 1)]
    return [
        Part(plain(tone, 0.6, 0.4), [nose], detail=True),
        Part(plain(np.array([0.15, 0.1, 0.09]), 0.0), strands=lips, width=0.025, detail=True),
    ]


def face(rng: Rng) -> Subject:
    """A cat-, dog- or bear-like face close up, with as much of the body as the frame shows."""
    colour = pick(rng, FUR)
    coat = _coat(rng, colour)
    pale = Material(np.clip(colour * 1.2 + 0.25, 0, 1), colour, "fur", contrast=0.6, relief=0.5)
    shag = float(rng.uniform(0.02, 0.12))
    turn = float(rng.normal(0, 0.12))
    body = blob(rng, (rng.normal(0, 0.5), rng.uniform(1.4, 2.0)), (rng.uniform(1.2, 2.2), rng.uniform(1.2, 1.9)), 0.12)
    skull = blob(rng, (0, 0), (rng.uniform(0.9, 1.1), rng.uniform(0.78, 0.95)), 0.06)
    parts = [_furry(rng, coat, body, shag), *_ears(rng, coat, shag), _furry(rng, coat, skull, shag)]
    muzzle, y = _muzzle(rng, pale, coat, turn)
    parts += muzzle
    iris = plain(pick(rng, ((0.75, 0.65, 0.15), (0.45, 0.62, 0.30), (0.35, 0.55, 0.75), (0.25, 0.14, 0.07))), 0.2, 0.3)
    slit, radius, gap = rng.uniform() < 0.5, rng.uniform(0.12, 0.22), rng.uniform(0.36, 0.48)
    for side in (-1, 1):
        parts += _eye(rng, (turn + side * gap, rng.uniform(-0.14, -0.1)), radius, iris, slit)
    parts += _nose_and_mouth(rng, turn, y)
    if rng.uniform() < 0.75:
        parts.append(_whiskers(rng, turn, y))
    parts = turned(parts, float(rng.normal(0, 0.2)))
    low = rng.uniform(0.7, 2.6)
    return Subject(parts, (0.65, 1.35), cut=True, frame=(-1.15, -1.3, 1.15, low))


def _whiskers(rng: Rng, x: float, y: float) -> Part:
    strands = []
    for side in (-1, 1):
        for _ in range(int(rng.integers(3, 8))):
            start, lift, reach = (
                (x + side * 0.22, y + rng.uniform(-0.08, 0.1)),
                rng.uniform(-0.45, 0.35),
                rng.uniform(0.7, 1.4),
            )
            strands.append(
                smooth(
                    points(
                        start,
                        (start[0] + side * reach * 0.5, start[1] + lift * 0.35 - 0.05),
                        (start[0] + side * reach, start[1] + lift),
                    ),
                    5,
                    closed=False,
                )
            )
    return Part(plain(np.full(3, rng.uniform(0.6, 0.97)), 0.0), strands=strands, width=float(rng.uniform(0.006, 0.014)))


def quadruped(rng: Rng) -> Subject:
    """A dog, horse, cow, sheep: seen from the side, standing or walking."""
    colour = pick(rng, FUR)
    coat = _coat(rng, colour, 1.2)
    far = Material(colour * 0.6, coat.second * 0.6, coat.texture, coat.scale, contrast=coat.contrast)
    leg, depth, shag = rng.uniform(0.35, 1.0), rng.uniform(0.3, 0.5), float(rng.uniform(0.0, 0.07))
    thick = rng.uniform(0.1, 0.22)
    parts = []
    for x, material in ((-0.62, far), (0.68, far), (-0.78, coat), (0.55, coat)):
        swing = rng.normal(0, 0.15)
        path = points((x, 0.1), (x + swing * 0.5, depth + leg * 0.5), (x + swing, depth + leg))
        parts.append(Part(material, [limb(path, (thick * 2.2, thick, thick * 0.8))]))
    neck = (-1.0 - rng.uniform(0.0, 0.35), rng.uniform(-0.9, -0.3))
    body = smooth(
        points(
            (-0.9, -depth * 0.8),
            (0, -depth * rng.uniform(0.6, 0.9)),
            (0.8, -depth * 0.85),
            (1.0, 0),
            (0.7, depth * 0.8),
            (0, depth),
            (-0.75, depth * 0.9),
            (-1.05, 0.1),
        )
    )
    tail_end = (1.1 + rng.uniform(0.1, 0.6), rng.uniform(-0.9, 0.8))
    tail = limb(
        points((0.92, -depth * 0.5), (1.15, tail_end[1] * 0.3), tail_end), (0.16, 0.12, rng.uniform(0.04, 0.25))
    )
    head = (neck[0] - 0.2, neck[1] + 0.02)
    snout = limb(
        points(head, (head[0] - rng.uniform(0.2, 0.45), head[1] + rng.uniform(0.05, 0.25))),
        (0.4, rng.uniform(0.16, 0.26)),
    )
    ear = smooth(
        points(
            (head[0] + 0.02, head[1] - 0.12),
            (head[0] + rng.uniform(-0.1, 0.25), head[1] - rng.uniform(0.3, 0.5)),
            (head[0] + 0.2, head[1] - 0.06),
        )
    )
    parts += [
        _furry(rng, coat, tail, shag * 2),
        _furry(rng, coat, body, shag),
        _furry(rng, coat, limb(points((-0.75, -0.05), neck), (0.7, 0.4)), shag),
    ]
    parts += [_furry(rng, coat, snout, shag), _furry(rng, coat, ellipse(head, (0.26, 0.22)), shag), Part(far, [ear])]
    parts += _eye(rng, (head[0] - 0.1, head[1] - 0.05), 0.04, plain(np.array([0.2, 0.12, 0.06])), False)
    return Subject(parts, (0.5, 0.98), sits=True)


def bird(rng: Rng) -> Subject:
    """A bird on thin legs or with a spread wing."""
    coat = _coat(rng, any_colour(rng) if rng.uniform() < 0.5 else pick(rng, FUR))
    wing = _coat(rng, related(rng, coat.colour, 0.4), 0.6)
    lean = rng.uniform(-0.6, 0.3)
    body = rotate(smooth(points((-0.9, 0), (-0.4, -0.42), (0.3, -0.4), (0.85, 0.02), (0.2, 0.42), (-0.5, 0.38))), lean)
    tail = rotate(
        points((0.6, -0.12), (1.5, rng.uniform(-0.35, 0.0)), (1.55, rng.uniform(0.05, 0.3)), (0.6, 0.14)), lean
    )
    at = rotate(points((-0.85, -0.3)), lean)[0]
    head = (float(at[0]), float(at[1]))
    size = rng.uniform(0.24, 0.34)
    beak = points(
        (head[0] - size * 0.8, head[1] - 0.08),
        (head[0] - size * 0.8 - rng.uniform(0.15, 0.6), head[1] + rng.uniform(-0.03, 0.15)),
        (head[0] - size * 0.8, head[1] + 0.1),
    )
    feather = smooth(points((-0.4, -0.15), (0.2, -0.3), (0.95, 0.0), (0.2, 0.22)))
    feather = (
        rotate(feather, lean) if rng.uniform() < 0.7 else points((-0.3, -0.2), (0.4, -1.4), (0.9, -1.3), (0.4, 0.0))
    )
    legs = [points((x, 0.25), (x + rng.normal(0, 0.05), 0.6), (x - 0.05, 0.95), (x - 0.2, 0.97)) for x in (-0.1, 0.12)]
    bill = plain(pick(rng, ((0.9, 0.6, 0.15), (0.15, 0.14, 0.13), (0.55, 0.5, 0.45))), 0.6, 0.2)
    parts = [
        Part(bill, strands=legs, width=0.05),
        Part(wing, [tail]),
        _furry(rng, coat, body, 0.03),
        Part(bill, [beak]),
    ]
    parts += [_furry(rng, coat, ellipse(head, (size, size * 0.92)), 0.02), _furry(rng, wing, feather, 0.02)]
    parts += _eye(rng, (head[0] - size * 0.35, head[1] - 0.05), 0.045, plain(any_colour(rng)), False)
    return Subject(parts, (0.45, 0.95), sits=True)


def fish(rng: Rng) -> Subject:
    """A fish from the side."""
    scales = Material(
        any_colour(rng),
        any_colour(rng),
        str(rng.choice(["dots", "weave", "waves", "stripes", "mottle"])),
        scale=1.2,
        contrast=0.7,
        relief=0.6,
        gloss=0.4,
    )
    height = rng.uniform(0.28, 0.55)
    body = smooth(
        points(
            (-1, 0.0),
            (-0.55, -height),
            (0.2, -height * 0.9),
            (0.8, -0.1),
            (0.8, 0.1),
            (0.2, height * 0.85),
            (-0.55, height * 0.9),
        )
    )
    tail = points((0.7, 0), (1.3, -rng.uniform(0.3, 0.6)), (1.12, 0), (1.3, rng.uniform(0.3, 0.6)))
    fin = points((-0.4, -height * 0.85), (0.0, -height * rng.uniform(1.3, 2.0)), (0.5, -height * 0.6))
    second = plain(related(rng, scales.colour, 0.4), 0.5)
    parts = [
        Part(second, [tail]),
        Part(second, [fin]),
        Part(scales, [body]),
        Part(second, [points((-0.3, 0.1), (0.1, 0.35), (0.05, 0.02))], detail=True),
    ]
    return Subject([*parts, *_eye(rng, (-0.72, -0.08), 0.07, plain(any_colour(rng)), False)], (0.5, 0.95))

"""People: portraits cut by the lower border, and whole figures. Units of a head's height, the head at the origin."""

import numpy as np

from training.data.palettes import HAIR, METAL, SKIN, STRONG, Colour, any_colour, cloth, pick, related
from training.data.parts import Material, Part, Subject, patterned, plain
from training.data.shapes import Points, Rng, blob, box, ellipse, fringe, limb, mirror, points, rough, smooth


def _skin(rng: Rng) -> Material:
    tone = pick(rng, SKIN, 0.025)
    return Material(tone, tone * (0.85, 0.7, 0.66), "mottle", scale=2.0, contrast=0.35, relief=0.55, gloss=0.15)


def _hair_material(rng: Rng) -> Material:
    tone = pick(rng, HAIR, 0.02)
    light = np.clip(tone * 1.7 + 0.05, 0, 1)
    return Material(tone, light, str(rng.choice(["streaks", "fur", "folds"])), scale=float(rng.uniform(0.8, 2.0)),
    angle=float(rng.normal(0, 0.3)),
                    contrast=0.8, relief=0.6, gloss=float(rng.uniform(0, 0.3)))  # fmt: skip


def _garment(rng: Rng, colour: Colour) -> Material:
    names = ("folds", "folds", "folds", "weave", "plaid", "stripes", "dots", "checks", "mottle", "waves")
    other = related(rng, colour, 0.35) if rng.uniform() < 0.65 else cloth(rng)
    return patterned(rng, colour, other, names, (0.8, 4.0))


def _eyes(rng: Rng, yaw: float, skin: Material) -> list[Part]:
    """Both eyes with iris and brow."""
    parts = []
    iris = plain(pick(rng, ((0.25, 0.15, 0.08), (0.25, 0.38, 0.55), (0.28, 0.38, 0.22), (0.06, 0.05, 0.05))))
    brow = plain(skin.colour * rng.uniform(0.2, 0.6))
    height, gap = rng.uniform(-0.08, -0.02), rng.uniform(0.14, 0.18)
    for side in (-1, 1):
        x = side * gap + yaw
        parts.append(Part(plain(skin.colour * 0.75), [ellipse((x, height), (0.085, 0.05))], detail=True))
        parts.append(Part(plain(np.array([0.92, 0.9, 0.88])), [ellipse((x, height), (0.065, 0.028))], detail=True))
        parts.append(Part(iris, [ellipse((x + yaw * 0.1, height), (0.028, 0.028))], detail=True))
        arch = points((x - 0.09, height - 0.08), (x, height - 0.115), (x + 0.09, height - 0.08))
        parts.append(Part(brow, [limb(arch, (0.02, 0.035, 0.02))], detail=True))
    return parts


def _face(rng: Rng, skin: Material, yaw: float) -> list[Part]:
    """Features of a face that looks along `yaw` (shift of the features, in heads)."""
    dark = plain(skin.colour * 0.72)
    parts = _eyes(rng, yaw, skin)
    nose = smooth(points((yaw, -0.04), (yaw * 1.6 + 0.05, 0.14), (yaw * 1.6, 0.17), (yaw * 1.6 - 0.06, 0.14)))
    parts.append(Part(dark, [nose], detail=True))
    lips = plain(np.clip(skin.colour * (0.85, 0.55, 0.55) + (0.06, 0, 0), 0, 1), gloss=0.2)
    smile = rng.uniform(-0.02, 0.05)
    width = rng.uniform(0.1, 0.16)
    mouth = points(
        (yaw - width, 0.28 - smile),
        (yaw, 0.28),
        (yaw + width, 0.28 - smile),
        (yaw, 0.30 + abs(smile) + rng.uniform(0.01, 0.04)),
    )
    parts.append(Part(lips, [smooth(mouth)], detail=True))
    if smile > 0.02:
        teeth = points(
            (yaw - width * 0.7, 0.28 - smile * 0.5),
            (yaw, 0.285),
            (yaw + width * 0.7, 0.28 - smile * 0.5),
            (yaw, 0.29 + smile * 0.4),
        )
        parts.append(Part(plain(np.array([0.95, 0.93, 0.9])), [smooth(teeth)], detail=True))
    if rng.uniform() < 0.2:
        frame = plain(np.full(3, rng.uniform(0.03, 0.4)), gloss=0.5)
        parts += [
            Part(
                frame,
                [ellipse((yaw + s * 0.16, -0.05), (0.12, 0.09), power=3)],
                [ellipse((yaw + s * 0.16, -0.05), (0.10, 0.07), power=3)],
                detail=True,
            )
            for s in (-1, 1)
        ]
    return parts


def _head(rng: Rng, skin: Material, hair: Material) -> tuple[list[Part], list[Part]]:
    """(parts behind the torso: hair at the back; parts before it: neck, head, face, hair on top)."""
    yaw = float(rng.normal(0, 0.06))
    rx = rng.uniform(0.34, 0.41)
    skull = smooth(
        points(
            (0, -0.5),
            (rx * 0.85, -0.33),
            (rx, -0.02),
            (rx * 0.8, 0.28),
            (0.12, 0.5),
            (-0.12, 0.5),
            (-rx * 0.8, 0.28),
            (-rx, -0.02),
            (-rx * 0.85, -0.33),
        )
    )
    neck_width = rng.uniform(0.32, 0.44)
    neck = limb(points((0, 0.2), (0, 0.6), (0, 1.0)), (neck_width, neck_width, neck_width * 1.4))
    behind: list[Part] = []
    front = [
        Part(skin, [neck]),
        *(Part(skin, [ellipse((s * (rx + 0.02), 0.02), (0.06, 0.12))]) for s in (-1, 1)),
        Part(skin, [skull]),
    ]
    front += _face(rng, skin, yaw) if rng.uniform() < 0.93 else []
    style = rng.uniform()
    if style < 0.9:
        back, cap = _hair_outlines(rng, rx, yaw, long=style < 0.5)
        width = float(rng.uniform(0.003, 0.012))
        length, count = rng.uniform(0.04, 0.22), int(rng.integers(40, 260))
        behind.append(Part(hair, [back], strands=fringe(rng, back, count, length, (0.0, 0.4)), width=width))
        front.append(Part(hair, [cap], strands=fringe(rng, cap, count // 2, length * 0.5, (0.0, 0.3)), width=width))
    if rng.uniform() < 0.12:
        beard = smooth(
            points(
                (-rx * 0.95, 0.1),
                (-rx * 0.75, 0.4),
                (0, 0.6),
                (rx * 0.75, 0.4),
                (rx * 0.95, 0.1),
                (yaw + 0.16, 0.22),
                (yaw, 0.19),
                (yaw - 0.16, 0.22),
            )
        )
        front.append(Part(hair, [rough(rng, beard, 0.015, 0.03)], holes=[ellipse((yaw, 0.29), (0.1, 0.035))]))
    if rng.uniform() < 0.15:
        front += _hat(rng, rx)
    return behind, front


def _hair_outlines(rng: Rng, rx: float, yaw: float, long: bool) -> tuple[Points, Points]:
    """Hair behind the head, and the cap with the hairline in front."""
    volume = rng.uniform(1.08, 1.55)
    if long:
        fall, spread = rng.uniform(0.5, 1.6), rng.uniform(0.9, 1.5)
        side = points(
            (rx * volume * 0.8, -0.48),
            (rx * volume * 1.05, -0.1),
            (rx * volume * spread, 0.5),
            (rx * volume * spread, fall),
            (rx * 0.4, fall + 0.1),
        )
        back = smooth(np.concatenate([points((0, -0.56 - 0.2 * (volume - 1))), side, mirror(side)[::-1]]))
    else:
        back = blob(rng, (0, -0.14), (rx * volume, 0.46 * volume), 0.06)
    back = rough(rng, back, rng.uniform(0.0, 0.035), rng.uniform(0.03, 0.1))
    line = rng.uniform(-0.36, -0.18)
    part = rng.uniform(-0.2, 0.2)
    top = -0.52 - 0.16 * (volume - 1)
    cap = points((-rx * 1.05, rng.uniform(-0.05, 0.25)), (-rx * volume * 0.95, -0.3), (-rx * 0.5, top), (rx * 0.5,
    top), (rx * volume * 0.95, -0.3), (rx * 1.05, rng.uniform(-0.05, 0.25)),
                 (rx * 0.86, -0.12), (rx * 0.6, line), (part + yaw, line + rng.uniform(-0.08, 0.1)), (-rx * 0.6,
                 line), (-rx * 0.86, -0.12))  # fmt: skip
    return back, rough(rng, smooth(cap), rng.uniform(0.0, 0.015), 0.04)


def _hat(rng: Rng, rx: float) -> list[Part]:
    material = _garment(rng, cloth(rng))
    crown = smooth(
        points(
            (-rx * 1.1, -0.3),
            (-rx * 1.0, -0.62),
            (0, -rng.uniform(0.68, 0.95)),
            (rx * 1.0, -0.62),
            (rx * 1.1, -0.3),
            (0, -0.24),
        )
    )
    brim = ellipse((0, -0.3), (rx * rng.uniform(1.1, 2.2), rng.uniform(0.04, 0.14)), rng.normal(0, 0.06))
    return [Part(material, [crown]), Part(material, [brim])]


def _torso(rng: Rng, garment: Material, half: float, skin: Material) -> list[Part]:
    """A torso from the shoulders down past any lower border, with what clothes carry."""
    slope = rng.uniform(0.85, 1.15)
    hips = half * rng.uniform(0.75, 1.15)
    side = points(
        (0.22, 0.66),
        (half * 0.6, slope - 0.12),
        (half * 0.95, slope + 0.12),
        (half * 1.05, slope + 0.7),
        (half * 0.95, slope + 1.8),
        (hips, 4.5),
        (hips, 7.5),
    )
    outline = np.concatenate([smooth(side, closed=False), smooth(mirror(side)[::-1], closed=False)])
    parts = [Part(garment, [rough(rng, outline, 0.012, 0.12)])]
    kind = rng.uniform()
    depth = rng.uniform(0.9, 2.2)
    if kind < 0.3:
        shirt = points((-0.24, 0.62), (0.24, 0.62), (0.02, depth), (-0.02, depth))
        parts.append(Part(_garment(rng, cloth(rng)) if rng.uniform() < 0.6 else skin, [shirt], detail=True))
        lapel = points((0.24, 0.6), (0.46, 0.85), (0.05, depth + 0.1), (0.0, depth))
        parts += [
            Part(plain(related(rng, garment.colour, 0.25), 0.6), [c], detail=True) for c in (lapel, mirror(lapel))
        ]
    elif kind < 0.55:
        ring = plain(pick(rng, METAL) if rng.uniform() < 0.4 else cloth(rng), 0.7, 0.3)
        width = rng.uniform(0.1, 0.26)
        parts.append(
            Part(
                ring,
                [limb(points((-0.34, 0.66), (-0.2, 0.84), (0, 0.9), (0.2, 0.84), (0.34, 0.66)), (width, width, width))],
            )
        )
    else:
        parts.append(Part(skin, [ellipse((0, 0.66), (0.26, rng.uniform(0.12, 0.4)))], detail=True))
    parts += _decorations(rng, half)
    return parts


def _decorations(rng: Rng, half: float) -> list[Part]:
    """Patches, straps, bands, buttons: strong edges that belong to the subject."""
    parts = []
    for _ in range(int(rng.integers(0, 6))):
        x, y = rng.uniform(-half, half) * 0.8, rng.uniform(1.1, 3.2)
        w, h = rng.uniform(0.06, 0.3), rng.uniform(0.06, 0.25)
        shape = box(x - w, y - h, x + w, y + h) if rng.uniform() < 0.5 else ellipse((x, y), (w, h))
        parts.append(
            Part(
                patterned(rng, pick(rng, STRONG), any_colour(rng), ("stripes", "text", "checks", "cloud"), (0.3, 2.0)),
                [shape],
                detail=True,
            )
        )
    if rng.uniform() < 0.3:
        x, colour = rng.uniform(0.2, 0.6) * half, plain(cloth(rng), 0.6)
        strap = limb(points((x, 0.8), (x * 1.1, 1.6), (x * 0.9, 4.0)), (0.12, 0.14, 0.14))
        parts += [Part(colour, [strap], detail=True), Part(colour, [mirror(strap)], detail=True)]
    if rng.uniform() < 0.3:
        line = points((rng.normal(0, 0.05), 0.9), (0.0, 2.0), (0.0, 5.0))
        parts.append(Part(plain(any_colour(rng), 0.6, 0.2), [limb(line, (0.04, 0.05, 0.05))], detail=True))
    return parts


def _arm(rng: Rng, side: int, half: float, sleeve: Material, skin: Material) -> list[Part]:
    """Shoulder, elbow, hand: hanging, folded before the body, or raised."""
    shoulder = (side * half * 0.9, 1.15)
    pose = rng.uniform()
    if pose < 0.5:
        elbow, hand = (side * (half * 1.1 + rng.uniform(0, 0.3)), 2.4), (side * half * rng.uniform(0.3, 1.2), 3.6)
    elif pose < 0.8:
        elbow, hand = (side * (half * 1.1 + 0.15), 2.3), (-side * half * rng.uniform(0.0, 0.5), rng.uniform(1.9, 2.6))
    else:
        elbow, hand = (
            (side * (half * 1.2 + rng.uniform(0.2, 0.8)), rng.uniform(1.4, 2.2)),
            (side * (half + rng.uniform(0, 0.8)), rng.uniform(-0.6, 0.8)),
        )
    width = rng.uniform(0.34, 0.5)
    path = points(shoulder, elbow, hand)
    end = np.asarray(hand) + (np.asarray(hand) - elbow) * 0.15
    return [
        Part(skin, [blob(rng, (float(end[0]), float(end[1])), (0.17, 0.2), 0.2)]),
        Part(sleeve, [limb(path, (width * 1.1, width * 0.9, width * 0.7))]),
    ]


def portrait(rng: Rng) -> Subject:
    """A person from the head down to somewhere, looking more or less at the camera."""
    skin, hair, garment = _skin(rng), _hair_material(rng), _garment(rng, cloth(rng))
    half = rng.uniform(0.8, 1.2)
    behind, head = _head(rng, skin, hair)
    torso = _torso(rng, garment, half, skin)
    arms = [part for side in (-1, 1) if rng.uniform() < 0.6 for part in _arm(rng, side, half, garment, skin)]
    hair_before_torso = rng.uniform() < 0.3
    parts = [*torso, *arms, *behind, *head] if hair_before_torso else [*behind, *torso, *head, *arms]
    low = float(np.exp(rng.uniform(np.log(0.75), np.log(3.6))))
    return Subject(parts, (0.75, 1.0), cut=True, frame=(-half, -0.62, half, low))


def figure(rng: Rng) -> Subject:
    """A whole person: standing, walking or with spread limbs."""
    skin, hair, garment = _skin(rng), _hair_material(rng), _garment(rng, cloth(rng))
    trousers, shoes = _garment(rng, cloth(rng)), plain(any_colour(rng))
    half = rng.uniform(0.6, 0.85)
    behind, head = _head(rng, skin, hair)
    stride = rng.uniform(0.1, 1.1)
    legs: list[Part] = []
    for side in (-1, 1):
        knee = (side * (half * 0.45 + stride * 0.5), 4.9 + rng.normal(0, 0.1))
        foot = (side * (half * 0.4 + stride * rng.uniform(0.4, 1.0)), 6.6)
        legs.append(Part(shoes, [limb(points((foot[0], 6.65), (foot[0] + 0.25, 6.75)), (0.3, 0.22))]))
        legs.append(Part(trousers, [limb(points((side * half * 0.4, 3.4), knee, foot), (0.6, 0.48, 0.34))]))
    flank = points(
        (0.2, 0.66), (half * 0.8, 0.9), (half, 1.3), (half * 0.8, 2.6), (half * 0.9, 3.6 + rng.uniform(0, 1.2))
    )
    shirt = np.concatenate([smooth(flank, closed=False), smooth(mirror(flank)[::-1], closed=False)])
    arms = [part for s in (-1, 1) for part in _arm(rng, s, half, garment, skin)]
    return Subject([*behind, *legs, Part(garment, [shirt]), *head, *arms], (0.55, 0.98), sits=True)

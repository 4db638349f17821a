"""Which subjects there are, how often, and how the camera frames one."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from training.data import animals, gear, glyphs, goods, people, things, vehicles, vessels
from training.data.parts import Part, Subject, transformed
from training.data.shapes import Rng

FAMILIES: dict[str, tuple[Callable[[Rng], Subject], float]] = {
    "portrait": (people.portrait, 0.27),
    "figure": (people.figure, 0.08),
    "face": (animals.face, 0.16),
    "quadruped": (animals.quadruped, 0.07),
    "bird": (animals.bird, 0.03),
    "fish": (animals.fish, 0.02),
    "vessel": (vessels.vessel, 0.16),
    "rocket": (vehicles.rocket, 0.04),
    "car": (vehicles.car, 0.03),
    "plane": (vehicles.plane, 0.02),
    "furniture": (things.furniture, 0.03),
    "tool": (things.tool, 0.03),
    "plant": (things.plant, 0.04),
    "unnamed": (things.unnamed, 0.06),
}


RICH_FAMILIES: dict[str, tuple[Callable[[Rng], Subject], float]] = {
    "shoe": (goods.shoe, 0.12),
    "package": (goods.package, 0.11),
    "flask": (goods.flask, 0.11),
    "fruit": (goods.fruit, 0.09),
    "luggage": (goods.luggage, 0.10),
    "bicycle": (gear.bicycle, 0.09),
    "headphones": (gear.headphones, 0.08),
    "lamp": (gear.lamp, 0.07),
    "spectacles": (gear.spectacles, 0.06),
    "guitar": (gear.guitar, 0.05),
    "umbrella": (gear.umbrella, 0.05),
    "toy": (gear.toy, 0.07),
    "writing": (glyphs.writing, 0.12),
}
"""What only the rich sets draw from by weight; the first families stay what they were, for the held-out sets do."""


def draw(rng: Rng, family: str | None = None) -> Subject:
    """A subject of the named family, or of one of the first families drawn by its weight."""
    if family is None:
        family = drawn_family(rng, FAMILIES)
    return (FAMILIES | RICH_FAMILIES)[family][0](rng)


def drawn_family(rng: Rng, families: Mapping[str, tuple[Callable[[Rng], Subject], float]]) -> str:
    """The name of a family, by weight."""
    names = list(families)
    weights = np.array([families[name][1] for name in names])
    return names[int(rng.choice(len(names), p=weights / weights.sum()))]


def _framing(subject: Subject, rng: Rng) -> NDArray[np.float64]:
    """The (2, 3) map from the subject's units to units of the frame's side, (0, 0) top left."""
    x0, y0, x1, y1 = subject.bounds()
    width, height = max(x1 - x0, 1e-3), max(y1 - y0, 1e-3)
    stretch = float(np.exp(rng.normal(0, 0.16)))
    share = float(rng.uniform(*subject.share))
    if rng.uniform() < 0.06 and not subject.cut:
        share *= 0.55
    scale = share / max(width * stretch, height)
    sx, sy = scale * stretch * rng.choice((-1.0, 1.0)), scale
    spare_x = 1 - width * abs(sx)
    centre_x = 0.5 + (rng.uniform(-0.5, 0.5) * max(spare_x, 0.1) if rng.uniform() < 0.5 else rng.normal(0, 0.04))
    if subject.cut:
        top = rng.uniform(0.0, 0.22) if rng.uniform() < 0.85 else rng.uniform(-0.15, 0.0)
        bottom_edge = 1.0 + rng.uniform(0.0, 0.08)
        sy = (bottom_edge - top) / height
        sx = float(np.sign(sx)) * sy * stretch
        centre_y = (bottom_edge + top) / 2
    else:
        spare_y = 1 - height * sy
        centre_y = 0.5 + (rng.uniform(-0.5, 0.5) * max(spare_y, 0.1) if rng.uniform() < 0.5 else rng.normal(0, 0.04))
    angle = rng.normal(0, 0.06)
    cosine, sine = np.cos(angle), np.sin(angle)
    linear = np.array([[cosine, -sine], [sine, cosine]]) @ np.diag([sx, sy])
    middle = np.array([(x0 + x1) / 2, (y0 + y1) / 2])
    shift = np.array([centre_x, centre_y]) - linear @ middle
    return np.concatenate([linear, shift[:, None]], axis=1)


def framed(subject: Subject, rng: Rng) -> list[Part]:
    """The parts in units of the frame's side: mostly central and large, some aside, small, or cut by a border."""
    matrix = _framing(subject, rng)
    return [transformed(part, matrix) for part in subject.parts]


def recoloured(parts: list[Part], towards: NDArray[np.float64], amount: float) -> list[Part]:
    """The parts with their colours moved towards one colour: camouflage."""
    return [
        replace(
            p,
            material=replace(
                p.material,
                colour=p.material.colour * (1 - amount) + towards * amount,
                second=p.material.second * (1 - amount) + towards * amount,
            ),
        )
        for p in parts
    ]

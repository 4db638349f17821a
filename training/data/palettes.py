"""Colours of things, as sRGB triples in [0, 1]."""

import colorsys
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from training.data.shapes import Rng

Colour = NDArray[np.float64]

SKIN = (
    (0.96, 0.80, 0.69),
    (0.90, 0.70, 0.56),
    (0.80, 0.60, 0.46),
    (0.68, 0.47, 0.34),
    (0.50, 0.33, 0.24),
    (0.34, 0.22, 0.16),
)
HAIR = ((0.08, 0.06, 0.05), (0.16, 0.10, 0.07), (0.30, 0.18, 0.10), (0.45, 0.28, 0.14), (0.66, 0.48, 0.26), (0.82,
0.70, 0.45),
        (0.55, 0.22, 0.10), (0.55, 0.54, 0.53), (0.85, 0.84, 0.82))  # fmt: skip
FUR = ((0.62, 0.45, 0.28), (0.74, 0.55, 0.34), (0.40, 0.28, 0.18), (0.22, 0.17, 0.14), (0.09, 0.08, 0.08), (0.55,
0.53, 0.50),
       (0.90, 0.87, 0.82), (0.80, 0.47, 0.20), (0.68, 0.60, 0.50))  # fmt: skip
CERAMIC = ((0.95, 0.94, 0.91), (0.93, 0.88, 0.78), (0.85, 0.90, 0.92), (0.72, 0.25, 0.18), (0.20, 0.32, 0.52), (0.24,
0.24, 0.25),
           (0.45, 0.58, 0.45), (0.80, 0.66, 0.42))  # fmt: skip
METAL = (
    (0.75, 0.76, 0.78),
    (0.55, 0.56, 0.58),
    (0.35, 0.36, 0.38),
    (0.80, 0.70, 0.42),
    (0.70, 0.44, 0.30),
    (0.92, 0.92, 0.93),
)
WOOD = (
    (0.55, 0.36, 0.20),
    (0.72, 0.53, 0.33),
    (0.36, 0.22, 0.13),
    (0.82, 0.68, 0.48),
    (0.24, 0.15, 0.10),
    (0.48, 0.40, 0.33),
)
FOLIAGE = (
    (0.20, 0.36, 0.12),
    (0.34, 0.50, 0.18),
    (0.14, 0.26, 0.12),
    (0.50, 0.58, 0.26),
    (0.58, 0.52, 0.22),
    (0.28, 0.42, 0.28),
)
SKY = (
    (0.45, 0.65, 0.90),
    (0.70, 0.82, 0.94),
    (0.85, 0.87, 0.90),
    (0.95, 0.75, 0.55),
    (0.30, 0.40, 0.60),
    (0.08, 0.10, 0.20),
)
WALL = (
    (0.90, 0.89, 0.86),
    (0.75, 0.74, 0.72),
    (0.55, 0.56, 0.58),
    (0.82, 0.76, 0.66),
    (0.30, 0.31, 0.33),
    (0.66, 0.74, 0.76),
    (0.08, 0.08, 0.09),
)
STRONG = (
    (0.90, 0.35, 0.10),
    (0.80, 0.12, 0.12),
    (0.12, 0.25, 0.60),
    (0.95, 0.80, 0.15),
    (0.10, 0.50, 0.30),
    (0.95, 0.95, 0.95),
    (0.08, 0.08, 0.09),
)


def pick(rng: Rng, palette: Sequence[tuple[float, float, float]], spread: float = 0.05) -> Colour:
    """One colour of `palette`, moved a little in every channel and in brightness."""
    colour = np.asarray(palette[int(rng.integers(len(palette)))])
    return np.clip(colour * rng.uniform(0.85, 1.12) + rng.normal(0.0, spread, 3), 0.02, 0.98)


def any_colour(rng: Rng) -> Colour:
    """A colour from the whole solid, mostly of moderate saturation as in photographs."""
    hue, saturation, value = rng.uniform(), rng.beta(1.4, 2.2), rng.beta(2.0, 1.6)
    return np.asarray(colorsys.hsv_to_rgb(hue, saturation, 0.05 + 0.93 * value))


def cloth(rng: Rng) -> Colour:
    """A colour clothes have: strong, muted, or nearly black or white."""
    return pick(rng, STRONG) if rng.uniform() < 0.4 else any_colour(rng)


def related(rng: Rng, colour: Colour, distance: float) -> Colour:
    """A neighbour of `colour`: lighter or darker, with a slight change of hue."""
    return np.clip(colour * (1.0 + rng.choice((-1.0, 1.0)) * distance) + rng.normal(0.0, distance / 6, 3), 0.01, 0.99)

"""Surfaces of made things: glazed, enamelled, painted, printed."""

import numpy as np

from training.data.palettes import CERAMIC, METAL, Colour, any_colour, pick, related
from training.data.parts import Material, patterned
from training.data.shapes import Rng

_SURFACES = (
    "cloud",
    "mottle",
    "stripes",
    "dots",
    "marble",
    "weave",
    "text",
    "checks",
    "waves",
    "spots",
    "shards",
    "wood",
)

_NATURAL = ("brick", "grass", "gravel", "moon", "tissue", "coins", "stars")


def glazed(rng: Rng) -> Material:
    """Ceramic, glass, enamel or metal: smooth, shining, sometimes decorated."""
    colour = pick(rng, CERAMIC if rng.uniform() < 0.75 else METAL, 0.03)
    if rng.uniform() < 0.3:
        return patterned(rng, colour, any_colour(rng), _SURFACES, (0.6, 2.5))
    return Material(
        colour,
        colour * 0.8,
        "mottle",
        scale=3.0,
        contrast=0.3,
        relief=float(rng.uniform(0.4, 0.9)),
        gloss=float(rng.uniform(0.1, 0.7)),
    )


def natural(rng: Rng) -> Material:
    """Stone, grass, tissue: textures from real photographs, in any colours."""
    colour = any_colour(rng)
    return patterned(rng, colour, related(rng, colour, 0.6), _NATURAL, (0.4, 2.0))


def printed(rng: Rng) -> Material:
    """Paper with something on it that looks like writing."""
    ink = any_colour(rng) * 0.5
    paper = np.full(3, float(rng.uniform(0.85, 0.98)))
    kind = str(rng.choice(["text", "print", "handwriting"]))
    if kind == "text":
        return Material(paper, ink, kind, scale=1.0, contrast=0.9)
    return Material(ink, paper, kind, scale=1.0, contrast=1.0)


def painted(rng: Rng, colour: Colour | None = None) -> Material:
    """Any surface of a manufactured thing."""
    base = any_colour(rng) if colour is None else colour
    second = related(rng, base, 0.4) if rng.uniform() < 0.6 else any_colour(rng)
    return patterned(rng, base, second, _SURFACES, (0.4, 3.0))

"""Letters, words and symbols as subjects, from fonts that come with matplotlib: the same on every machine."""

from functools import lru_cache
from pathlib import Path as FilePath

import numpy as np

from training.data.palettes import METAL, any_colour, pick
from training.data.parts import Material, Part, Subject, plain, turned
from training.data.shapes import Points, Rng, shifted
from training.data.surfaces import natural, painted

FONTS = (
    "DejaVuSans",
    "DejaVuSans-Bold",
    "DejaVuSans-BoldOblique",
    "DejaVuSerif",
    "DejaVuSerif-Bold",
    "DejaVuSansMono-Bold",
    "STIXGeneralBolIta",
)
_LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZabcdefghkmnpqrstuvwxyz0123456789&@?!§€%"
SYMBOLS = "★☂☎✂✈☃♞♜♛♚☕⚓❄☘☠☯♥♣♠♦✿❀☼✌☢♫♪⚙⚔⚖✎✔✖➤☁☾⚑✽❦☺☻✠✪❖➔⌘⚒⚘☸♨"
SYMBOL_FONT = "DejaVuSans"
_EM = 400.0


@lru_cache(maxsize=1)
def folder() -> FilePath:
    """Where matplotlib keeps its fonts."""
    import matplotlib as mpl  # slow to import, and only glyphs need it

    return FilePath(mpl.get_data_path()) / "fonts" / "ttf"


@lru_cache(maxsize=512)
def glyph(font: str, character: str) -> tuple[tuple[Points, ...], float]:
    """The closed contours of a character, and how far the next one is.

    Both are in units of the font's em, y downwards, the baseline at 0; the curves are not hinted.
    """
    from matplotlib.ft2font import FT2Font, LoadFlags
    from matplotlib.path import Path

    face = FT2Font(str(folder() / f"{font}.ttf"))
    face.set_size(_EM, 72)
    drawn = face.load_char(ord(character), flags=LoadFlags.NO_HINTING)
    vertices, codes = face.get_path()
    closed = Path(vertices, codes).to_polygons(closed_only=True) if len(vertices) else []
    polygons = [np.asarray(polygon, np.float64)[:-1] for polygon in closed]  # the last point is the first again
    curves = tuple(polygon * (1.0, -1.0) / _EM for polygon in polygons if len(polygon) > 2)
    return curves, float(drawn.linearHoriAdvance) / 65536 / _EM


def _area(curve: Points) -> float:
    following = np.roll(curve, -1, axis=0)
    return float(0.5 * np.sum(curve[:, 0] * following[:, 1] - following[:, 0] * curve[:, 1]))


def regions(curves: tuple[Points, ...]) -> list[tuple[Points, list[Points]]]:
    """Outer contours, largest first, each with all the holes: a hole is what turns against the largest contour."""
    ordered = sorted(curves, key=lambda curve: -abs(_area(curve)))
    sense = np.sign(_area(ordered[0])) if ordered else 1.0
    outer = [curve for curve in ordered if np.sign(_area(curve)) == sense]
    holes = [curve for curve in ordered if np.sign(_area(curve)) != sense]
    return [(one, [hole for hole in holes if _within(hole, one)]) for one in outer]


def _within(inner: Points, outer: Points) -> bool:
    return bool(np.all(inner.min(axis=0) >= outer.min(axis=0)) and np.all(inner.max(axis=0) <= outer.max(axis=0)))


def _swept(curve: Points, along: Points) -> list[Points]:
    """What an outline covers while it is moved along a vector: a quadrilateral for each edge."""
    following = np.roll(curve, -1, axis=0)
    return [np.stack([a, b, b + along, a + along]) for a, b in zip(curve, following, strict=True)]


def _written(rng: Rng) -> tuple[Points, ...]:
    """The contours of one symbol, one letter or a short word."""
    kind = rng.uniform()
    if kind < 0.45:
        return glyph(SYMBOL_FONT, SYMBOLS[int(rng.integers(len(SYMBOLS)))])[0]
    font = FONTS[int(rng.integers(len(FONTS)))]
    count = 1 if kind < 0.7 else int(rng.integers(2, 7))
    found: list[Points] = []
    at = 0.0
    for _ in range(count):
        curves, advance = glyph(font, _LETTERS[int(rng.integers(len(_LETTERS)))])
        found += [shifted(curve, at, 0.0) for curve in curves]
        at += advance
    return tuple(found)


def _face(rng: Rng) -> Material:
    kind = rng.uniform()
    if kind < 0.35:
        return plain(any_colour(rng), float(rng.uniform(0, 0.3)))
    if kind < 0.5:
        return Material(pick(rng, METAL), pick(rng, METAL), "streaks", contrast=0.5, relief=0.8, gloss=0.7)
    return natural(rng) if kind < 0.65 else painted(rng)


def writing(rng: Rng) -> Subject:
    """A symbol, a letter or a word: flat, textured, or cut from something thick."""
    curves = _written(rng)
    face = _face(rng)
    parts: list[Part] = []
    if rng.uniform() < 0.55:
        angle, depth = rng.uniform(0, np.pi), rng.uniform(0.03, 0.16)
        along = np.array([np.cos(angle), np.sin(angle)]) * depth
        side = plain(np.clip(face.colour * rng.uniform(0.35, 0.7), 0, 1), 0.2)
        parts.append(Part(side, [quad for curve in curves for quad in _swept(curve, along)]))
        for outline, holes in regions(curves):
            parts.append(Part(side, [outline + along], [hole + along for hole in holes]))
    parts += [Part(face, [outline], holes) for outline, holes in regions(curves)]
    turn = float(rng.normal(0, 0.1) if rng.uniform() < 0.7 else rng.uniform(-np.pi, np.pi))
    return Subject(turned(parts, turn), (0.4, 0.95), sits=rng.uniform() < 0.4)

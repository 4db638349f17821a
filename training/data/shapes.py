"""Outlines: closed contours and strokes as float64 arrays of (x, y) points, y downwards, in any unit."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]
Rng = np.random.Generator
Pair = tuple[float, float]


def points(*pairs: Pair) -> Points:
    """The given pairs as one (N, 2) array."""
    return np.asarray(pairs, dtype=np.float64)


def rotate(contour: Points, angle: float, about: Pair = (0.0, 0.0)) -> Points:
    """`contour` turned by `angle` radians (clockwise on screen) about a point."""
    cosine, sine = np.cos(angle), np.sin(angle)
    turn = np.array([[cosine, sine], [-sine, cosine]])
    return (contour - about) @ turn + about


def shifted(contour: Points, x: float, y: float) -> Points:
    """`contour` moved by (x, y)."""
    return contour + np.array((x, y))


def mirror(contour: Points, x: float = 0.0) -> Points:
    """`contour` reflected in the vertical line at `x`."""
    return contour * (-1.0, 1.0) + (2.0 * x, 0.0)


def ellipse(centre: Pair, radii: Pair, angle: float = 0.0, power: float = 2.0, count: int = 40) -> Points:
    """A superellipse |x/a|^power + |y/b|^power = 1 (an ellipse at power 2, nearly a rectangle above 5)."""
    t = np.linspace(0.0, 2.0 * np.pi, count, endpoint=False)
    cosine, sine = np.cos(t), np.sin(t)
    exponent = 2.0 / power
    curve = np.stack([np.sign(cosine) * np.abs(cosine) ** exponent, np.sign(sine) * np.abs(sine) ** exponent], axis=1)
    return rotate(curve * radii, angle) + centre


def box(x0: float, y0: float, x1: float, y1: float) -> Points:
    """The rectangle between two corners."""
    return points((x0, y0), (x1, y0), (x1, y1), (x0, y1))


def smooth(knots: Points, steps: int = 8, closed: bool = True) -> Points:
    """A Catmull-Rom spline through `knots`, `steps` points for each segment."""
    if closed:
        p0, p1, p2, p3 = (np.roll(knots, shift, axis=0) for shift in (1, 0, -1, -2))
    else:
        padded = np.concatenate([2 * knots[:1] - knots[1:2], knots, 2 * knots[-1:] - knots[-2:-1]])
        p0, p1, p2, p3 = padded[:-3], padded[1:-2], padded[2:-1], padded[3:]
    t = (np.arange(steps) / steps)[None, :, None]
    a, b, c, d = (p[:, None, :] for p in (p0, p1, p2, p3))
    curve = 0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)
    flat = curve.reshape(-1, 2)
    return flat if closed else np.concatenate([flat, knots[-1:]])


def blob(rng: Rng, centre: Pair, radii: Pair, roughness: float = 0.2, harmonics: int = 5) -> Points:
    """A smooth closed outline: an ellipse whose radius carries a few random harmonics."""
    t = np.linspace(0.0, 2.0 * np.pi, 72, endpoint=False)
    radius = np.ones_like(t)
    for k in range(2, 2 + harmonics):
        radius += roughness * rng.normal() / k * np.cos(k * t + rng.uniform(0.0, 2.0 * np.pi))
    radius = np.clip(radius, 0.25, 2.0)
    return np.stack([np.cos(t), np.sin(t)], axis=1) * radius[:, None] * radii + centre


def superformula(rng: Rng, centre: Pair, radii: Pair) -> Points:
    """Gielis' superformula (2003) with random symmetry and exponents, scaled to fit `radii`."""
    t = np.linspace(0.0, 2.0 * np.pi, 120, endpoint=False)
    m = int(rng.integers(2, 9))
    n1, n2, n3 = rng.uniform(0.6, 6.0), rng.uniform(0.6, 6.0), rng.uniform(0.6, 6.0)
    base = np.abs(np.cos(m * t / 4)) ** n2 + np.abs(np.sin(m * t / 4)) ** n3
    radius = np.maximum(base, 1e-3) ** (-1.0 / n1)
    radius = np.clip(radius / radius.max(), 0.12, 1.0)
    return np.stack([np.cos(t), np.sin(t)], axis=1) * radius[:, None] * radii + centre


def polygon(rng: Rng, centre: Pair, radii: Pair, corners: int) -> Points:
    """A random star-shaped polygon."""
    t = np.sort(rng.uniform(0.0, 2.0 * np.pi, corners))
    radius = rng.uniform(0.45, 1.0, corners)
    return np.stack([np.cos(t), np.sin(t)], axis=1) * radius[:, None] * radii + centre


def normals(path: Points, closed: bool) -> Points:
    """Unit normals along a path: the tangent turned by a quarter (outwards for the contours of this module)."""
    tangent = np.roll(path, -1, axis=0) - np.roll(path, 1, axis=0) if closed else np.gradient(path, axis=0)
    length = np.maximum(np.linalg.norm(tangent, axis=1, keepdims=True), 1e-9)
    return np.stack([tangent[:, 1], -tangent[:, 0]], axis=1) / length


def limb(path: Points, widths: Sequence[float], steps: int = 6) -> Points:
    """A tube along a smooth path, with a width at each knot and rounded ends."""
    curve = smooth(path, steps, closed=False)
    width = np.interp(np.linspace(0.0, 1.0, len(curve)), np.linspace(0.0, 1.0, len(widths)), widths)
    offset = normals(curve, closed=False) * (width[:, None] / 2)
    turn = np.linspace(0.0, np.pi, 7)[1:-1]
    caps = []
    for at, sign in ((-1, 1.0), (0, -1.0)):
        side = offset[at] * sign
        ahead = np.array([-side[1], side[0]])
        caps.append(curve[at] + np.cos(turn)[:, None] * side + np.sin(turn)[:, None] * ahead)
    return np.concatenate([curve + offset, caps[0], (curve - offset)[::-1], caps[1]])


def rough(rng: Rng, contour: Points, amplitude: float, spacing: float) -> Points:
    """`contour` resampled every `spacing` and displaced along its normals by noise: cloth, rock, fur."""
    closed = np.concatenate([contour, contour[:1]])
    along = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(closed, axis=0), axis=1))])
    count = int(np.clip(along[-1] / max(spacing, 1e-6), 8, 900))
    at = np.linspace(0.0, along[-1], count, endpoint=False)
    sampled = np.stack([np.interp(at, along, closed[:, k]) for k in (0, 1)], axis=1)
    noise = rng.normal(size=count)
    noise += np.convolve(np.concatenate([noise[-4:], noise, noise[:4]]), np.ones(9) / 3.0, mode="valid")
    return sampled + normals(sampled, closed=True) * (amplitude * 0.6 * noise)[:, None]


def fringe(rng: Rng, contour: Points, count: int, length: float, droop: Pair = (0.0, 0.0)) -> list[Points]:
    """Strands that leave `contour` outwards, each a polyline of five points; `droop` bends their tips."""
    index = rng.integers(0, len(contour), count)
    jitter = rng.uniform(0.0, 1.0, (count, 1))
    root = contour[index] * (1 - jitter) + contour[(index + 1) % len(contour)] * jitter
    direction = normals(contour, closed=True)[index] + rng.normal(0.0, 0.35, (count, 2))
    reach = (length * rng.uniform(0.4, 1.0, count) ** 1.5)[:, None]
    bend = rng.normal(0.0, 0.35, (count, 2)) + droop
    root = root - direction * reach * 0.3
    steps = np.linspace(0.0, 1.0, 5)[:, None, None]
    strands = root + direction * reach * 1.3 * steps + bend * reach * steps**2
    return [strands[:, k] for k in range(count)]

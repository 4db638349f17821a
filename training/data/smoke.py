"""Subjects without an outline: smoke, steam, clouds, flames and veils, alone or around something solid."""

import cv2
import numpy as np

from training.data import subjects, textures
from training.data.optics import foot, over
from training.data.palettes import Colour, any_colour
from training.data.parts import Material, Part, Subject
from training.data.raster import Image, Layer, Light, Plane, render
from training.data.scene import Scene, Stage, lit, shadowed
from training.data.shapes import Rng, points, smooth

_CONTRAST = 0.25


def _field(rng: Rng, name: str, size: int, scale: float, stretch: float = 1.0) -> Plane:
    """A texture over the whole frame, in [-1, 1], `scale` frames wide, `stretch` times as high as wide."""
    per_pixel = textures.TILE / (scale * size)
    angle = rng.normal(0, 0.3)
    cosine, sine = np.cos(angle), np.sin(angle)
    linear = np.array([[cosine, sine], [-sine, cosine]]) @ np.diag([per_pixel, per_pixel / stretch])
    start = rng.uniform(0, 4 * textures.TILE, 2) + linear @ np.array([0.5, 0.5])
    return textures.sample(name, (size, size), (float(start[0]), float(start[1])), linear)


def _stirred(rng: Rng, size: int) -> tuple[Plane, Plane]:
    """Where each pixel (x, y) of the frame comes from in air that turns, in shares of the frame."""
    axis = (np.arange(size, dtype=np.float32) + 0.5) / size
    reach = np.float32(rng.uniform(0.02, 0.1))
    across = axis[None, :] + reach * _field(rng, "cloud", size, float(rng.uniform(1.2, 3.0)))
    along = axis[:, None] + reach * _field(rng, "cloud", size, float(rng.uniform(1.2, 3.0)))
    return across, along


def _plume(rng: Rng, x: Plane, y: Plane, source: tuple[float, float]) -> Plane:
    """A column that widens upwards from a point, as an envelope in [0, 1]."""
    rise = np.clip((np.float32(source[1]) - y) / np.float32(rng.uniform(0.5, 0.95)), 0, 1.5)
    sway = np.float32(rng.normal(0, 0.12)) * np.sin(
        rise * np.float32(rng.uniform(2, 7)) + np.float32(rng.uniform(0, 6))
    )
    drift = np.float32(rng.normal(0, 0.15)) * rise
    width = np.float32(rng.uniform(0.02, 0.08)) + np.float32(rng.uniform(0.08, 0.3)) * rise
    away = (x - np.float32(source[0]) - drift - sway * rise) / width
    top = np.clip((np.float32(rng.uniform(0.9, 1.3)) - rise) * 3, 0, 1)
    base = np.clip((np.float32(source[1]) - y) * np.float32(40), 0, 1)
    return np.exp(-(away**2)) * top * base


def _puff(rng: Rng, x: Plane, y: Plane) -> Plane:
    """A few balls of vapour side by side."""
    found = np.zeros_like(x)
    centre = rng.uniform(0.35, 0.65, 2)
    for _ in range(int(rng.integers(3, 9))):
        at = centre + rng.normal(0, (0.16, 0.09))
        radius = np.float32(rng.uniform(0.07, 0.24))
        away = ((x - np.float32(at[0])) ** 2 + (y - np.float32(at[1])) ** 2) / radius**2
        np.maximum(found, np.clip(np.float32(1.4) - away, 0, 1), out=found)
    return found


def _density(rng: Rng, envelope: Plane, wispy: bool) -> Plane:
    """Vapour within an envelope: billows, or wisps."""
    size = envelope.shape[0]
    scale = float(rng.uniform(0.6, 2.0))
    billows = _field(rng, "mottle", size, scale, float(rng.uniform(1, 2)))
    if wispy:
        billows = 0.4 * billows + 0.9 * _field(rng, "ridges", size, scale * 0.8, float(rng.uniform(1.5, 3.0)))
    strength = np.float32(rng.uniform(0.35, 0.8))
    dense = np.clip(envelope * (np.float32(1.15) + strength * billows) - np.float32(0.12), 0, 1)
    opacity = np.float32(rng.uniform(0.6, 1.0))
    return np.asarray(cv2.pow(dense, float(rng.uniform(0.7, 1.3))) * opacity, np.float32)


def _tone(rng: Rng, behind: Image) -> Colour:
    """White, grey, black or coloured, and not what the background is: else nobody could say where it is."""
    against = behind.mean(axis=(0, 1)).astype(np.float64)
    rng = np.random.default_rng(rng.integers(1 << 62))  # what follows must not depend on how often it is asked
    while True:
        kind = rng.uniform()
        if kind < 0.55:
            tone = np.clip(np.full(3, rng.uniform(0.75, 1.0)) + rng.normal(0, 0.02, 3), 0, 1)
        else:
            tone = np.full(3, rng.uniform(0.03, 0.4)) if kind < 0.85 else any_colour(rng)
        if np.abs(tone - against).max() > _CONTRAST:
            return tone


def _shaded(rng: Rng, alpha: Plane, tone: Colour) -> Image:
    """The vapour's own light: brighter where the light falls, mottled."""
    size = alpha.shape[0]
    shade = 1 + np.float32(rng.uniform(0.03, 0.2)) * _field(rng, "mottle", size, float(rng.uniform(0.5, 1.5)))
    shade -= np.float32(rng.uniform(0, 0.35)) * alpha
    return np.clip(tone.astype(np.float32) * shade[..., None], 0, 1).astype(np.float32)


def _fire(rng: Rng, envelope: Plane) -> Layer:
    """Flames: white-yellow where dense, red where thin."""
    size = envelope.shape[0]
    tongues = _field(rng, "ridges", size, float(rng.uniform(0.7, 1.6)), float(rng.uniform(2, 4)))
    heat = np.clip(envelope * (np.float32(1.3) + tongues * np.float32(0.9)) - np.float32(0.15), 0, 1).astype(np.float32)
    colour = np.stack(
        [np.clip(0.75 + heat, 0, 1), np.clip(0.1 + heat * 0.9, 0, 1), np.clip(heat * 1.6 - 0.9, 0, 1)], axis=2
    )
    return Layer(colour.astype(np.float32), np.clip(heat * 1.5, 0, 1).astype(np.float32))


def _vapour(rng: Rng, behind: Image, source: tuple[float, float] | None = None) -> Layer:
    """Smoke, steam, a cloud or a flame; from a source if there is one."""
    x, y = _stirred(rng, behind.shape[0])
    if source is None and rng.uniform() < 0.45:
        alpha = _density(rng, _puff(rng, x, y), wispy=rng.uniform() < 0.3)
    else:
        at = source or (float(rng.uniform(0.35, 0.65)), float(rng.uniform(0.85, 1.1)))
        envelope = _plume(rng, x, y, at)
        if source is None and rng.uniform() < 0.2:
            return _fire(rng, envelope)
        alpha = _density(rng, envelope, wispy=rng.uniform() < 0.6)
    return Layer(_shaded(rng, alpha, _tone(rng, behind)), alpha)


def smoky(stage: Stage, behind: Image) -> Scene:
    """A scene of smoke, or of something solid that steams or smokes, before `behind`."""
    size, rng = stage.size, stage.subject
    if rng.uniform() > 0.35:
        layer = _vapour(rng, behind)
        return Scene(layer.colour, layer.alpha, behind)
    subject = subjects.draw(rng, str(rng.choice(["vessel", "vessel", "vessel", "flask", "unnamed"])))
    solid = render(subjects.framed(_lower(subject), rng), size, stage.light, stage.surfaces)
    behind = shadowed(stage.lighting, behind, solid.alpha, stage.light, subject.sits)
    steam = _vapour(rng, behind, _mouth(solid.alpha))
    layer = over(Layer(lit(stage.lighting, solid, stage.light), solid.alpha), steam)
    if rng.uniform() < 0.5:
        layer = over(steam, Layer(solid.colour, solid.alpha))
    return Scene(layer.colour, layer.alpha, np.clip(behind, 0, 1))


def _lower(subject: Subject) -> Subject:
    """The subject with as much room above it again."""
    x0, y0, x1, y1 = subject.bounds()
    return Subject(subject.parts, (0.75, 1.0), subject.sits, centred=True, frame=(x0, y0 - (y1 - y0), x1, y1))


def _mouth(alpha: Plane) -> tuple[float, float]:
    """Where something leaves a solid thing: in the middle of its upper part."""
    size = alpha.shape[0]
    rows = np.flatnonzero(alpha.max(axis=1) > 0.5)
    if not len(rows):
        return 0.5, foot(alpha)
    top = rows[0] + 0.08 * (rows[-1] - rows[0])
    columns = np.flatnonzero(alpha[int(top)] > 0.5)
    middle = float(columns.mean()) if len(columns) else size / 2
    return (middle + 0.5) / size, (float(top) + 0.5) / size


def _veil(rng: Rng, size: int, alpha: Plane, light: Light) -> Layer:
    """A gauze that hangs from the subject's top to beyond its sides, in folds."""
    x, top = _mouth(alpha)
    columns = np.flatnonzero(alpha.max(axis=0) > 0.5)
    half = (columns[-1] - columns[0]) / size / 2 if len(columns) else 0.3
    low, flare = rng.uniform(0.7, 1.1), half * rng.uniform(0.7, 1.4)
    cloth = smooth(
        points(
            (x - half * 0.3, top - 0.06), (x + half * 0.3, top - 0.06), (x + flare * 0.8, (top + low) / 2),
            (x + flare, low), (x, low + rng.uniform(-0.1, 0.05)), (x - flare, low), (x - flare * 0.8, (top + low) / 2),
        ), 8,
    )  # fmt: skip
    tone = any_colour(rng) if rng.uniform() < 0.4 else np.full(3, rng.uniform(0.75, 0.98))
    material = Material(tone, tone * 0.85, "folds", scale=float(rng.uniform(0.5, 1.2)), contrast=0.6, relief=0.2)
    layer = render([Part(material, [cloth])], size, light, rng)
    folds = _field(rng, "folds", size, float(rng.uniform(0.4, 1.0)))
    opacity = np.clip(np.float32(rng.uniform(0.2, 0.6)) + np.float32(rng.uniform(0.1, 0.3)) * folds, 0.05, 0.95)
    return Layer(layer.colour, layer.alpha * opacity.astype(np.float32))


def veiled(stage: Stage, behind: Image) -> Scene:
    """A scene of a person, or something else, under a thin cloth."""
    size, rng = stage.size, stage.subject
    subject = subjects.draw(rng, str(rng.choice(["portrait", "portrait", "portrait", "figure", "figure", "unnamed"])))
    solid = render(subjects.framed(subject, rng), size, stage.light, stage.surfaces)
    colour = lit(stage.lighting, solid, stage.light)
    behind = shadowed(stage.lighting, behind, solid.alpha, stage.light, subject.sits)
    layer = over(_veil(rng, size, solid.alpha, stage.light), Layer(colour, solid.alpha))
    return Scene(layer.colour, layer.alpha, np.clip(behind, 0, 1))

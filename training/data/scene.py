"""One procedural photograph: a subject before a background, its exact matte, and the camera's faults."""

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np

from training.data import subjects
from training.data.backgrounds import background
from training.data.degrade import Photo, camera
from training.data.raster import Image, Layer, Light, Plane, render
from training.data.shapes import Rng

Level = Literal["easy", "hard", "mixed"]
_DIFFICULTY: dict[str, tuple[float, float]] = {"easy": (0.0, 0.45), "hard": (0.55, 1.0), "mixed": (0.0, 1.0)}


@dataclass(frozen=True)
class Scene:
    """The layers before the camera: image = foreground * alpha + background * (1 - alpha), all float32 in [0, 1]."""

    foreground: Image
    alpha: Plane
    background: Image

    @property
    def image(self) -> Image:
        return self.background + self.alpha[..., None] * (self.foreground - self.background)


@dataclass(frozen=True)
class Stage:
    """What every scene begins with.

    Attributes:
        size: Side in pixels.
        light: Where the light comes from.
        difficulty: 0 to 1.
        rng: Decides what the scene as a whole is.
        subject: Draws the subject; like the following, a generator of its own, so that none disturbs another.
        background: Draws what is behind it.
        surfaces: Lays textures on its parts.
        lighting: Lights it and throws its shadow.
        camera: Takes the photograph.
    """

    size: int
    light: Light
    difficulty: float
    rng: Rng
    subject: Rng
    background: Rng
    surfaces: Rng
    lighting: Rng
    camera: Rng


def begin(index: int, size: int, seed: int, level: Level) -> Stage:
    """The stage of scene `index` of `seed`."""
    rng = np.random.default_rng([seed, index])
    difficulty = float(rng.uniform(*_DIFFICULTY[level]))
    angle = rng.uniform(0, 2 * np.pi)
    light = Light((float(np.cos(angle)), -abs(float(np.sin(angle)))), float(rng.uniform(0, 1)))
    return Stage(size, light, difficulty, rng, *(np.random.default_rng(rng.integers(1 << 62)) for _ in range(5)))


def shadowed(rng: Rng, behind: Image, alpha: Plane, light: Light, sits: bool) -> Image:
    """The background with the subject's shadow on the ground or on the wall behind. Shadows are not subject."""
    size = alpha.shape[0]
    if rng.uniform() > 0.65:
        return behind
    small = cv2.resize(alpha, (64, 64), interpolation=cv2.INTER_AREA)
    rows = np.flatnonzero(small.max(axis=1) > 0.1)
    foot = float(rows[-1] + 1) if len(rows) else 64.0
    if sits and rng.uniform() < 0.75:
        squash, shear = rng.uniform(0.05, 0.5), rng.normal(0, 0.8)
        matrix = np.array([[1.0, shear, -shear * foot], [0.0, squash, foot - squash * foot + rng.uniform(0, 1.5)]])
    else:
        far = rng.uniform(1, 7)
        matrix = np.array([[1.0, 0.0, -light.direction[0] * far], [0.0, 1.0, -light.direction[1] * far]])
    thrown = cv2.warpAffine(small, matrix, (64, 64))
    thrown = cv2.GaussianBlur(thrown, (0, 0), float(rng.uniform(0.6, 3.5)))
    strength = np.float32(rng.uniform(0.2, 0.75))
    return (
        behind * (1 - strength * cv2.resize(thrown, (size, size), interpolation=cv2.INTER_CUBIC).clip(0, 1))[..., None]
    )


def lit(rng: Rng, layer: Layer, light: Light) -> Image:
    """The foreground under one light for the whole subject: a gradient across it, warm or cold."""
    size = layer.alpha.shape[0]
    axis = (np.arange(size, dtype=np.float32) + 0.5) / size - 0.5
    slope = np.float32(rng.uniform(0, 0.9) * light.hardness)
    ramp = 1 + slope * (axis[None, :] * np.float32(light.direction[0]) + axis[:, None] * np.float32(light.direction[1]))
    tint = np.exp(rng.normal(0, 0.04, 3)).astype(np.float32)
    return np.clip(layer.colour * (ramp[..., None] * tint), 0, 1)


def compose(index: int, size: int, seed: int, level: Level = "mixed", family: str | None = None) -> tuple[Scene, Rng]:
    """The plain scene `index` of `seed` at `size`, before the camera, and the generator for what follows."""
    stage = begin(index, size, seed, level)
    return staged(stage, family), stage.camera


def staged(stage: Stage, family: str | None = None) -> Scene:
    """One solid subject of the first families, or of a named one, before a background."""
    size, light = stage.size, stage.light
    subject = subjects.draw(stage.subject, family)
    parts = subjects.framed(subject, stage.subject)
    behind = background(stage.background, size, light, stage.difficulty, subject.sits)
    if stage.rng.uniform() < 0.6 * max(0.0, stage.difficulty - 0.4):
        mean = behind.reshape(-1, 3).mean(axis=0).astype(np.float64)
        parts = subjects.recoloured(parts, mean, float(stage.rng.uniform(0.3, 0.7)))
    layer = render(parts, size, light, stage.surfaces)
    foreground = lit(stage.lighting, layer, light)
    behind = shadowed(stage.lighting, behind, layer.alpha, light, subject.sits)
    return Scene(foreground, layer.alpha, np.clip(behind, 0, 1))


def sample(index: int, size: int, seed: int, level: Level = "mixed", family: str | None = None) -> tuple[Photo, Plane]:
    """The procedural photograph `index` of `seed`.

    Args:
        index: 0 or more; every index is another scene.
        size: side in pixels. The scene does not depend on it, but for the grain of the sensor.
        seed: the set; training and held-out sets have different seeds (`training.data.sets`).
        level: how much the background is cluttered, sharp and like the subject.
        family: one of `subjects.FAMILIES`, or None for any.

    Returns:
        image uint8 (size, size, 3) RGB and alpha float32 (size, size) in [0, 1].
    """
    scene, rng = compose(index, size, seed, level, family)
    return camera(scene.image, rng), scene.alpha

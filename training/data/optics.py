"""What light does between the subject and the camera: layers over layers, motion and defocus, mirrors."""

import cv2
import numpy as np
from numpy.typing import NDArray

from training.data.raster import Image, Layer, Plane
from training.data.shapes import Rng

Kernel = NDArray[np.float32]


def over(front: Layer, back: Layer) -> Layer:
    """One layer before another: straight colours, exact coverage."""
    seen = back.alpha * (1 - front.alpha)
    alpha = front.alpha + seen
    colour = front.colour * front.alpha[..., None] + back.colour * seen[..., None]
    return Layer(_straight(colour, alpha, 1e-4), alpha)


def _straight(premultiplied: Image, alpha: Plane, least: float) -> Image:
    return (premultiplied / np.maximum(alpha, least)[..., None]).astype(np.float32)


def onto(behind: Image, layer: Layer) -> Image:
    """A layer over an opaque picture."""
    return behind + layer.alpha[..., None] * (layer.colour - behind)


def thinned(layer: Layer, opacity: Plane | float) -> Layer:
    """The layer with its coverage times an opacity in [0, 1]."""
    return Layer(layer.colour, layer.alpha * np.float32(opacity))


def motion(length: float, angle: float, bend: float = 0.0) -> Kernel:
    """The path of a point while the shutter is open, `length` pixels long; the weights sum to 1."""
    count = max(8, int(4 * length))
    t = np.linspace(-0.5, 0.5, count)
    along, across = length * t, length * bend * (t**2 - np.mean(t**2))
    x = along * np.cos(angle) - across * np.sin(angle)
    y = along * np.sin(angle) + across * np.cos(angle)
    reach = int(np.ceil(max(np.abs(x).max(), np.abs(y).max()))) + 1
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1))
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    for dx in (0, 1):
        for dy in (0, 1):
            weight = np.abs(1 - dx - (x - left)) * np.abs(1 - dy - (y - top))
            np.add.at(kernel, (top + dy + reach, left + dx + reach), weight)
    return (kernel / kernel.sum()).astype(np.float32)


def disc(radius: float) -> Kernel:
    """The image of a point out of focus: a disc of `radius` pixels with a soft edge."""
    reach = int(np.ceil(radius + 0.5))
    axis = np.arange(-reach, reach + 1)
    kernel = np.clip(radius + 0.5 - np.hypot(axis[:, None], axis[None, :]), 0, 1)
    return (kernel / kernel.sum()).astype(np.float32)


def blurred(layer: Layer, kernel: Kernel) -> Layer:
    """A layer seen through a blur: colour and coverage are blurred together, so that alpha stays exact.

    What touches the frame's border goes on outside.
    """
    alpha = _filtered(layer.alpha, kernel)
    lit = _filtered(layer.colour * layer.alpha[..., None], kernel)
    alpha = np.where(alpha < 1e-5, 0, np.clip(alpha, 0, 1)).astype(
        np.float32
    )  # long kernels go through a Fourier transform
    return Layer(np.clip(_straight(lit, alpha, 1e-3), 0, 1), alpha)


def _filtered(picture: Image, kernel: Kernel) -> Image:
    return np.asarray(cv2.filter2D(picture, -1, kernel, borderType=cv2.BORDER_REPLICATE), np.float32)


def moved_or_defocused(rng: Rng, layer: Layer) -> Layer:
    """The subject moved while the shutter was open, or lies before or behind the plane of focus."""
    size = layer.alpha.shape[0]
    if rng.uniform() < 0.7:
        length = size * float(np.exp(rng.uniform(np.log(0.015), np.log(0.1))))
        return blurred(layer, motion(length, float(rng.uniform(0, np.pi)), float(rng.normal(0, 0.4))))
    return blurred(layer, disc(size * float(np.exp(rng.uniform(np.log(0.004), np.log(0.02))))))


def foot(alpha: Plane) -> float:
    """The lowest row that the subject covers, as a share of the height; 1 where it covers none."""
    rows = np.flatnonzero(alpha.max(axis=1) > 0.1)
    return float(rows[-1] + 1) / alpha.shape[0] if len(rows) else 1.0


def mirrored(rng: Rng, layer: Layer, line: float) -> Layer:
    """The layer's image in a floor, a table or water below `line`: upside down, fainter with depth, perhaps rippled."""
    size = layer.alpha.shape[0]
    axis = (np.arange(size, dtype=np.float32) + 0.5) / size
    depth = axis - np.float32(line)
    columns, rows = np.meshgrid(axis * size - 0.5, (line - depth * np.float32(rng.uniform(0.9, 1.15))) * size - 0.5)
    if rng.uniform() < 0.5:
        waves, strength = rng.uniform(15, 60), size * rng.uniform(0.003, 0.02)
        swell = np.sin(2 * np.pi * waves * np.sqrt(np.clip(depth, 0, 1)) + rng.uniform(0, 6)) * np.clip(depth * 6, 0, 1)
        columns = columns + (np.float32(strength) * swell)[:, None]
    maps = columns.astype(np.float32), rows.astype(np.float32)
    alpha, lit = (
        np.asarray(cv2.remap(each, *maps, cv2.INTER_LINEAR), np.float32)
        for each in (layer.alpha, layer.colour * layer.alpha[..., None])
    )
    reach = np.float32(rng.uniform(0.15, 1.2))
    fade = np.float32(rng.uniform(0.25, 0.85)) * np.clip(1 - depth / reach, 0, 1) * (depth > 0)
    image = Layer(_straight(lit, alpha, 1e-3), (alpha * fade[:, None]).astype(np.float32))
    if rng.uniform() < 0.5:
        return blurred(image, disc(size * float(rng.uniform(0.002, 0.012))))
    return image

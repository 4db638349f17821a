"""Parts to pixels: exact area coverage by supersampling, shading, and composition of a layer."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from training.data import textures
from training.data.parts import Material, Part
from training.data.shapes import Rng

Plane = NDArray[np.float32]
Image = NDArray[np.float32]
SUPERSAMPLE = 4
_FRACTION_BITS = 4
_SHADING_SIDE = 40


@dataclass
class Layer:
    """Straight colour (S, S, 3) and coverage (S, S), float32 in [0, 1]. Where coverage is 0 the colour is void."""

    colour: Image
    alpha: Plane


@dataclass(frozen=True)
class Light:
    """Where the light comes from (a unit vector on the picture) and how hard it is (0 flat .. 1 hard)."""

    direction: tuple[float, float]
    hardness: float


@dataclass(frozen=True)
class _Window:
    """A rectangle of whole pixels."""

    x0: int
    y0: int
    x1: int
    y1: int

    def slices(self, factor: int = 1) -> tuple[slice, slice]:
        return slice(self.y0 * factor, self.y1 * factor), slice(self.x0 * factor, self.x1 * factor)

    @property
    def shape(self) -> tuple[int, int]:
        return self.y1 - self.y0, self.x1 - self.x0


def _window(part: Part, size: int) -> _Window | None:
    """The pixels that `part` may touch, with room for the shadow it throws on what is behind it."""
    curves = [*part.contours, *part.strands]
    if not curves:
        return None
    every = np.concatenate(curves) * size
    margin = part.width * size / 2 + 1 + (0 if part.detail else 0.025 * size)
    low, high = np.floor(every.min(axis=0) - margin), np.ceil(every.max(axis=0) + margin)
    x0, y0 = (int(v) for v in np.clip(low, 0, size))
    x1, y1 = (int(v) for v in np.clip(high, 0, size))
    return _Window(x0, y0, x1, y1) if x1 > x0 and y1 > y0 else None


def _fixed(curve: NDArray[np.float64], size: int, window: _Window) -> NDArray[np.int32]:
    """Scene units to OpenCV's fixed-point coordinates on the supersampled window (pixel centres at whole numbers)."""
    pixels = (curve * size - (window.x0, window.y0)) * SUPERSAMPLE - 0.5
    return np.round(np.clip(pixels, -30000, 30000) * (1 << _FRACTION_BITS)).astype(np.int32)


def _coverage(part: Part, size: int, window: _Window) -> NDArray[np.uint8]:
    """The binary region on the supersampled window, 0 or 255."""
    height, width = window.shape
    mask = np.zeros((height * SUPERSAMPLE, width * SUPERSAMPLE), np.uint8)
    for contour in part.contours:
        cv2.fillPoly(mask, [_fixed(contour, size, window)], 255, cv2.LINE_8, _FRACTION_BITS)
    for hole in part.holes:
        cv2.fillPoly(mask, [_fixed(hole, size, window)], 0, cv2.LINE_8, _FRACTION_BITS)
    if part.strands:
        thickness = max(1, round(part.width * size * SUPERSAMPLE))
        alike = len({len(strand) for strand in part.strands}) == 1
        lines = (
            list(_fixed(np.stack(part.strands), size, window))
            if alike
            else [_fixed(strand, size, window) for strand in part.strands]
        )
        cv2.polylines(mask, lines, False, 255, thickness, cv2.LINE_8, _FRACTION_BITS)
    return mask


def _area_average(mask: NDArray[np.uint8], shape: tuple[int, int]) -> Plane:
    """The fraction of each pixel that the supersampled mask covers."""
    return cv2.resize(mask, (shape[1], shape[0]), interpolation=cv2.INTER_AREA).astype(np.float32) * np.float32(1 / 255)


def _shading(mask: Plane, material: Material, light: Light) -> tuple[Plane, Plane]:
    """Brightness factor and highlight of a region inflated like a cushion, computed on a small copy of its mask."""
    height, width = mask.shape
    ratio = min(1.0, _SHADING_SIDE / max(height, width))
    small = cv2.resize(
        mask, (max(4, round(width * ratio)), max(4, round(height * ratio))), interpolation=cv2.INTER_AREA
    )
    sigma = max(1.0, 0.16 * min(small.shape))
    cushion = cv2.GaussianBlur(small, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)
    gx = cv2.Sobel(cushion, cv2.CV_32F, 1, 0, scale=1 / 8, borderType=cv2.BORDER_REPLICATE) * sigma
    gy = cv2.Sobel(cushion, cv2.CV_32F, 0, 1, scale=1 / 8, borderType=cv2.BORDER_REPLICATE) * sigma
    facing = -(gx * light.direction[0] + gy * light.direction[1]) * np.float32(3.0)
    occlusion = np.float32(0.35 * material.relief) * (1 - cushion)
    shade = 1 + np.float32(material.relief * (0.5 + light.hardness)) * facing - occlusion
    shine = np.float32(material.gloss) * np.clip(facing - 0.35, 0, 1) ** 2 * 4
    size = (width, height)
    return cv2.resize(shade, size, interpolation=cv2.INTER_LINEAR), cv2.resize(
        shine, size, interpolation=cv2.INTER_LINEAR
    )


def surface(material: Material, shape: tuple[int, int], size: int, offset: tuple[int, int], rng: Rng) -> Image:
    """The unlit colours of `material` over a window, (h, w, 3) float32; `offset` is the window's corner (x, y)."""
    per_pixel = textures.TILE / (material.scale * size)
    cosine, sine = np.cos(material.angle), np.sin(material.angle)
    linear = np.array([[cosine, sine], [-sine, cosine]]) * per_pixel
    start = rng.uniform(0, 4 * textures.TILE, 2) + linear @ (np.asarray(offset) + 0.5)
    pattern = textures.sample(material.texture, shape, (start[0], start[1]), linear)
    amount = np.clip(np.float32(0.5 * material.contrast) * (1 + pattern), 0, 1)[..., None]
    return material.colour.astype(np.float32) + amount * (material.second - material.colour).astype(np.float32)


def _paint(part: Part, window: _Window, size: int, light: Light, mask: Plane, rng: Rng) -> Image:
    colour = surface(part.material, window.shape, size, (window.x0, window.y0), rng)
    if part.material.relief or part.material.gloss:
        shade, shine = _shading(mask, part.material, light)
        colour = colour * np.clip(shade, 0.15, 1.9)[..., None] + shine[..., None]
    return np.clip(colour, 0, 1)


def render(parts: list[Part], size: int, light: Light, rng: Rng) -> Layer:
    """Draw `parts`, given in units of the frame's side, back to front.

    Colour is composed part over part; coverage is the area average of the union of the regions on a grid
    `SUPERSAMPLE` times finer, so that parts that abut leave no seam. The same parts and generator state give the
    same scene at every `size`.
    """
    premultiplied = np.zeros((size, size, 3), np.float32)
    over = np.zeros((size, size), np.float32)
    union = np.zeros((size * SUPERSAMPLE, size * SUPERSAMPLE), np.uint8)
    for part in parts:
        own = np.random.default_rng(rng.integers(1 << 62))
        window = _window(part, size)
        if window is None:
            continue
        fine = _coverage(part, size, window)
        if part.material.opacity < 1:
            fine = (fine * np.float32(part.material.opacity)).astype(np.uint8)
        mask = _area_average(fine, window.shape)
        colour = _paint(part, window, size, light, mask, own)
        here = window.slices()
        if part.detail:
            mask_colour = mask * over[here]
        else:
            np.maximum(union[window.slices(SUPERSAMPLE)], fine, out=union[window.slices(SUPERSAMPLE)])
            contact = cv2.GaussianBlur(mask, (0, 0), max(0.011 * size, 0.5))
            premultiplied[here] *= (1 - np.float32(0.4) * contact)[..., None]
            mask_colour = mask
            over[here] += mask - mask * over[here]
        premultiplied[here] += colour * mask_colour[..., None] - premultiplied[here] * mask[..., None]
    alpha = _area_average(union, (size, size))
    return Layer(np.clip(premultiplied / np.maximum(over, 1e-3)[..., None], 0, 1), alpha)

"""What a camera and a file format do to a picture. The matte is never touched."""

import cv2
import numpy as np
from cv2.typing import MatLike
from numpy.typing import NDArray

from training.data.raster import Image
from training.data.shapes import Rng

Photo = NDArray[np.uint8]


def _tone(image: Image, rng: Rng) -> Image:
    """Exposure, contrast, gamma, colour cast, saturation, vignette."""
    gain = np.float32(np.exp(rng.normal(0, 0.12)))
    cast = np.exp(rng.normal(0, 0.06, 3)).astype(np.float32)
    contrast, lift = np.float32(rng.uniform(0.75, 1.2)), np.float32(rng.normal(0, 0.03))
    image = ((image * (gain * cast) - 0.5) * contrast + (0.5 + lift)).astype(np.float32)
    saturation = np.float32(0.0 if rng.uniform() < 0.06 else rng.uniform(0.6, 1.25))
    grey = image @ np.array([0.299, 0.587, 0.114], np.float32)
    image = grey[..., None] + saturation * (image - grey[..., None])
    strength = rng.uniform(0, 0.5) if rng.uniform() < 0.35 else 0.0
    if strength:
        axis = (np.arange(image.shape[0], dtype=np.float32) + 0.5) / image.shape[0] - 0.5
        image = image * (1 - np.float32(strength) * (axis[:, None] ** 2 + axis[None, :] ** 2))[..., None]
    image = np.clip(image, 0, 1).astype(np.float32)
    if rng.uniform() < 0.5:
        return np.asarray(cv2.pow(image, float(np.exp(rng.normal(0, 0.15)))), np.float32)
    return image


def _optics(image: Image, rng: Rng) -> Image:
    """A little blur, motion, or a detour through a lower resolution."""
    size = image.shape[0]
    kind = rng.uniform()
    blurred: MatLike = image
    if kind < 0.35:
        blurred = cv2.GaussianBlur(image, (0, 0), max(0.2, size * float(rng.uniform(0.0008, 0.0035))))
    elif kind < 0.45:
        length = max(2, round(size * rng.uniform(0.006, 0.018)))
        kernel = np.zeros((length, length), np.float32)
        angle = rng.uniform(0, np.pi)
        middle, reach = (length - 1) / 2, (length - 1) / 2
        ends = [(round(middle + s * reach * np.cos(angle)), round(middle + s * reach * np.sin(angle))) for s in (-1, 1)]
        cv2.line(kernel, ends[0], ends[1], 1.0)
        blurred = cv2.filter2D(image, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REPLICATE)
    elif kind < 0.6:
        small = max(32, round(size * rng.uniform(0.45, 0.9)))
        shrunk = cv2.resize(image, (small, small), interpolation=cv2.INTER_AREA)
        blurred = cv2.resize(shrunk, (size, size), interpolation=cv2.INTER_LINEAR)
    return np.asarray(blurred, np.float32)


def _noise(image: Image, rng: Rng) -> Image:
    sigma = float(rng.uniform(0, 0.2) ** 2) if rng.uniform() < 0.7 else 0.0
    shape = image.shape[:2] if rng.uniform() < 0.5 else image.shape
    noise = rng.standard_normal(shape, dtype=np.float32) * np.float32(sigma)
    noise = noise if noise.ndim == 3 else noise[..., None]
    return image + noise * (np.float32(0.5) + np.float32(0.7) * cv2.sqrt(np.ascontiguousarray(image)))


def camera(image: Image, rng: Rng) -> Photo:
    """(H, W, 3) float32 in [0, 1] to the uint8 picture that a camera and a JPEG file would give."""
    image = _optics(_tone(image, rng), rng)
    noisy = _noise(image, rng)
    photo = (np.clip(noisy, 0, 1) * 255 + 0.5).astype(np.uint8)
    if rng.uniform() < 0.5:
        quality = int(rng.integers(30, 96))
        _, data = cv2.imencode(".jpg", photo, [cv2.IMWRITE_JPEG_QUALITY, quality])
        return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)
    return photo

"""The official augmentations of BiRefNet's training (`shared/reference/birefnet.md` section 4.2)."""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageEnhance

from training.data.degrade import Photo
from training.data.raster import Plane
from training.data.shapes import Rng

_ANGLE = 15.0
_CROP_SHARE = 30 / 1024


@dataclass(frozen=True)
class Augmentation:
    """Which of them are on. The defaults are the official ones.

    Attributes:
        flip: Probability of a mirrored image.
        enhance: Brightness and contrast times 0.5 to 1.5, colour times 0 to 2, sharpness times 0 to 3, always.
        rotate: Probability of a rotation by up to 15 degrees, bicubic; what comes from outside is black, alpha 0.
        pepper: Share of the pixels that become black or white.
        crop: Whether a border is cut off: 30 of 1024 pixels at most, in total, on each axis.
    """

    flip: float = 0.5
    enhance: bool = True
    rotate: float = 0.2
    pepper: float = 0.0015
    crop: bool = False

    def __post_init__(self) -> None:
        if not all(0 <= each <= 1 for each in (self.flip, self.rotate, self.pepper)):
            raise ValueError(f"expected probabilities and shares from 0 to 1, found {self}")


NONE = Augmentation(0.0, False, 0.0, 0.0, False)
FLIP = Augmentation(0.5, False, 0.0, 0.0, False)
"""What images composed over other backgrounds get: the background is augmentation enough, and nothing else official."""


def augment(rng: Rng, image: Photo, alpha: Plane, how: Augmentation) -> tuple[Photo, Plane]:
    """Change a photograph and its matte alike; colours and pepper change the photograph alone.

    Args:
        rng: Decides everything.
        image: (H, W, 3) uint8.
        alpha: (H, W) float32 in [0, 1].
        how: What is done.

    Returns:
        Both, of the given size, but for what a crop cuts off.
    """
    if rng.uniform() < how.flip:
        image, alpha = np.ascontiguousarray(image[:, ::-1]), np.ascontiguousarray(alpha[:, ::-1])
    if how.crop:
        image, alpha = _cropped(rng, image, alpha)
    if rng.uniform() < how.rotate:
        image, alpha = _rotated(float(rng.uniform(-_ANGLE, _ANGLE)), image, alpha)
    if how.enhance:
        image = _enhanced(rng, image)
    if how.pepper:
        image = _peppered(rng, image, how.pepper)
    return image, alpha


def _cropped(rng: Rng, image: Photo, alpha: Plane) -> tuple[Photo, Plane]:
    window = []
    for length in alpha.shape:
        kept = length - int(rng.integers(0, int(length * _CROP_SHARE) + 1))
        start = int(rng.integers(0, length - kept + 1))
        window.append(slice(start, start + kept))
    part = (window[0], window[1])
    return np.ascontiguousarray(image[part]), np.ascontiguousarray(alpha[part])


def _rotated(angle: float, image: Photo, alpha: Plane) -> tuple[Photo, Plane]:
    turned = Image.fromarray(image).rotate(angle, Image.Resampling.BICUBIC)
    matte = np.asarray(Image.fromarray(alpha).rotate(angle, Image.Resampling.BICUBIC), np.float32)
    return np.array(turned, np.uint8), np.clip(matte, 0, 1)  # bicubic overshoots


def _enhanced(rng: Rng, image: Photo) -> Photo:
    picture = Image.fromarray(image)
    for kind, low, high in (
        (ImageEnhance.Brightness, 0.5, 1.5),
        (ImageEnhance.Contrast, 0.5, 1.5),
        (ImageEnhance.Color, 0.0, 2.0),
        (ImageEnhance.Sharpness, 0.0, 3.0),
    ):
        picture = kind(picture).enhance(float(rng.uniform(low, high)))
    return np.array(picture, np.uint8)


def _peppered(rng: Rng, image: Photo, share: float) -> Photo:
    height, width = image.shape[:2]
    count = int(share * height * width)
    image = image.copy()
    image[rng.integers(0, height, count), rng.integers(0, width, count)] = 255 * rng.integers(0, 2, (count, 1))
    return image

"""Whatever a file stores becomes 8-bit RGB and, where it has transparency, 8-bit alpha.

RGB stays as it is, with its ICC profile: the network's published preprocessing does not manage colour either. Grey and
CMYK with a profile of their own are converted to sRGB, because their profile would be wrong on an RGB answer.
"""

import io
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, TiffImagePlugin

from matting.pictures import Pixels, share, to_array
from server.errors import NotAnImageError
from server.pipeline.header import DECODER_FAILURES

_DEEP_GREY = ("I;16", "I;16L", "I;16B", "I;16N")
_GREY = ("1", "L", "LA", "La")
_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")
_PLAIN = (*_GREY, *_ALPHA, "P", "RGB", "RGBX", "CMYK", "YCbCr")
_PNG_GREY_STEP = {"L;2": 85, "L;4": 17}
_TIFF_BITS, _TIFF_PHOTOMETRIC = 258, 262


@dataclass(frozen=True, slots=True)
class Colours:
    """An RGB image, and (h, w) uint8 or None; the profile describes `rgb` and is None for sRGB."""

    rgb: Image.Image
    alpha: Pixels | None
    icc_profile: bytes | None


def to_rgb(image: Image.Image, memory: Pixels | None = None) -> Colours:
    """Convert a loaded image of any supported mode.

    Args:
        image: What was decoded.
        memory: The array that it shares its pixels with, as in `share`, if it does.

    Raises:
        NotAnImageError: Its samples are of a kind that has no agreed meaning as a colour (floating point, 32-bit).
    """
    if image.mode in _DEEP_GREY:
        image, alpha = _from_deep_grey(image)
    elif image.mode == "LAB":
        return Colours(_converted(image, ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))), None, None)
    elif image.mode in _PLAIN:
        alpha = _alpha(image, memory)
        image.info.pop("transparency", None)  # or Pillow warns that RGB cannot carry it
    else:
        raise NotAnImageError(f"expected 8 or 16 bits per channel, found samples of the kind {image.mode!r}")
    found = _profile(image)
    if found is not None:
        profile, space = found
        if space == "RGB" and image.mode not in (*_GREY, "CMYK"):
            return Colours(_plain_rgb(image, memory), alpha, image.info["icc_profile"])
        if space == "GRAY" and image.mode in _GREY:
            return Colours(_converted(image.convert("L"), profile), alpha, None)
        if space == "CMYK" and image.mode == "CMYK":
            return Colours(_converted(image, profile), alpha, None)
    return Colours(_plain_rgb(image, memory), alpha, None)


def _plain_rgb(image: Image.Image, memory: Pixels | None) -> Image.Image:
    if image.mode == "RGBA" and memory is not None:
        return share(memory)
    return image if image.mode == "RGB" else image.convert("RGB")  # converting RGB to RGB copies it


def _from_deep_grey(image: Image.Image) -> tuple[Image.Image, Pixels | None]:
    """16-bit grey by rounding to 8 bits, where Pillow's own conversion clips at 255 and so turns white."""
    levels: NDArray[np.uint16] = np.asarray(image).astype(np.uint16, copy=False)
    highest = 65535
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        highest = (1 << image.tag_v2.get(_TIFF_BITS, (16,))[0]) - 1
        if image.tag_v2.get(_TIFF_PHOTOMETRIC) == 0:  # white is zero, which Pillow heeds at 8 bits only
            levels = (highest - levels).astype(np.uint16)
    grey = Image.fromarray(cv2.convertScaleAbs(levels, alpha=255 / highest).reshape(levels.shape))
    grey.info = dict(image.info)
    key = grey.info.pop("transparency", None)
    alpha = None if key is None else np.where(levels == key, 0, 255).astype(np.uint8)
    return grey, alpha


def _alpha(image: Image.Image, memory: Pixels | None) -> Pixels | None:
    if not image.has_transparency_data:
        return None
    if image.mode == "RGBA":
        if memory is not None:
            return np.asarray(cv2.extractChannel(memory, 3), dtype=np.uint8)
        return to_array(image.getchannel("A"))
    key = image.info.get("transparency")
    if image.mode in ("1", "L") and isinstance(key, int):
        # The key counts in the file's own levels, which the decoder has stretched to 8 bits.
        step = _PNG_GREY_STEP.get(str(image.info.get("stored_as")), 1)
        level = key * step if image.mode == "L" else 255 * bool(key)
        return to_array(image.convert("L").point([0 if each == level else 255 for each in range(256)]))
    return to_array(image.convert("RGBA").getchannel("A"))


def _profile(image: Image.Image) -> tuple[ImageCms.ImageCmsProfile, str] | None:
    """The image's profile and the space of its colours: `RGB`, `GRAY`, `CMYK`."""
    data = image.info.get("icc_profile")
    if not data:
        return None
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(data))
        return profile, profile.profile.xcolor_space.strip()
    except (ImageCms.PyCMSError, *DECODER_FAILURES):
        return None  # a damaged profile is neither used nor passed on


def _converted(image: Image.Image, source: ImageCms.ImageCmsProfile) -> Image.Image:
    try:
        transform = ImageCms.buildTransform(
            source,
            ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")),
            image.mode,
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
        converted = ImageCms.applyTransform(image, transform)
    except (ImageCms.PyCMSError, *DECODER_FAILURES):
        converted = None  # a profile that claims more than it holds
    return image.convert("RGB") if converted is None else converted

"""Which sizes the image is seen at, from the working size to its own."""

import math

from matting.refinement.port import Size

WORTHWHILE = 8 / 7
"""A first stage that shows the image less than this much larger than the coarse mask saw it is left out."""


PUBLISHED = 4
"""Stages of CRM's schedule, 1/8, 1/4, 1/2 and 1."""


def stage_sizes(image: Size, resolution: Size, least: int = 1) -> tuple[Size, ...]:
    """Sizes of the stages: the image's own last, and before it a half, a quarter, … while that is more than was seen.

    Counted from the image, as CRM does, so that all stages together cost about twice the last one, whatever the size.

    Args:
        image: (height, width) of the image.
        resolution: (height, width) at which the coarse mask sees the whole image. Its shape may be another one, because
            the network's canvas is squashed; the axis that was shrunk most decides.
        least: Stages that there are at least, where there are any: small ones repair regions (A.5).

    Returns:
        Empty where the coarse mask has all pixels already. Three sizes at 6000×4000 from 1024×1024.
    """
    larger = max(image[0] / resolution[0], image[1] / resolution[1])
    if larger <= 1.0:
        return ()
    sizes = [image]
    scale = 0.5
    while larger * scale > WORTHWHILE or len(sizes) < least:
        sizes.append(scaled(image, scale))
        scale /= 2
    return tuple(reversed(sizes))


def scaled(image: Size, scale: float) -> Size:
    """An image's size at a scale, at least one pixel each way."""
    return max(1, math.floor(image[0] * scale + 0.5)), max(1, math.floor(image[1] * scale + 0.5))

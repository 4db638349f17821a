"""The coarse mask, and what one direct upsampling of it gives at any size."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from matting.geometry import restore
from matting.refinement.port import Size
from matting.refinement.sampling import strips, window

_FADE = 0.05
"""Share of a crop's sides over which it fades into the whole."""


@dataclass(frozen=True, slots=True)
class Crop:
    """What the network said of a part of the image.

    Attributes:
        box: (top, left, bottom, right) in pixels of the image.
        mask: (h, w) float32 in [0, 1], at the working size.
    """

    box: tuple[int, int, int, int]
    mask: NDArray[np.float32] = field(repr=False)


@dataclass(frozen=True, slots=True)
class CoarseMask:
    """What the network said of the whole image, and perhaps again of a part of it.

    Attributes:
        whole: (h, w) float32 in [0, 1], at the working size.
        image: (height, width) of the image.
        crop: The part, or None.
    """

    whole: NDArray[np.float32] = field(repr=False)
    image: Size
    crop: Crop | None = None

    @property
    def resolution(self) -> Size:
        """(height, width) at which the whole image would have to be seen to see as much; the image's own at most."""
        height, width = self.whole.shape
        if self.crop is None:
            return height, width
        top, left, bottom, right = self.crop.box
        tall, wide = self.image
        return min(tall, round(height * tall / (bottom - top))), min(wide, round(width * wide / (right - left)))

    def at(self, size: Size) -> NDArray[np.float32]:
        """The matte at a size by one direct upsampling, (height, width) float32 in [0, 1]; an array of its own."""
        alpha = restore(self.whole, size)
        alpha = alpha.copy() if alpha is self.whole else alpha
        if self.crop is not None:
            _lay_over(alpha, self.crop, (size[0] / self.image[0], size[1] / self.image[1]), self.image)
        return alpha


def _lay_over(alpha: NDArray[np.float32], crop: Crop, scale: tuple[float, float], image: Size) -> None:
    """Blend a crop into a matte, in place and by strips."""
    top, left, bottom, right = crop.box
    box = (top * scale[0], bottom * scale[0]), (left * scale[1], right * scale[1])
    spans = [
        slice(max(0, int(low)), min(side, int(np.ceil(high))))
        for (low, high), side in zip(box, alpha.shape, strict=True)
    ]
    pitch = crop.mask.shape[0] / (box[0][1] - box[0][0]), crop.mask.shape[1] / (box[1][1] - box[1][0])
    fade_x = _fade(spans[1], box[1], at_edge=(left == 0, right == image[1]))
    for part in strips(spans[0].stop - spans[0].start):
        rows = slice(spans[0].start + part.start, spans[0].start + part.stop)
        fade_y = _fade(rows, box[0], at_edge=(top == 0, bottom == image[0]))
        weight = np.minimum(fade_y[:, None], fade_x[None, :])
        finer = window(crop.mask, pitch, rows, spans[1], (box[0][0], box[1][0]))
        alpha[rows, spans[1]] += weight * (finer - alpha[rows, spans[1]])


def _fade(span: slice, box: tuple[float, float], at_edge: tuple[bool, bool]) -> NDArray[np.float32]:
    """Weights of a crop along one axis: 1 within, falling to 0 at its ends unless the image ends there too."""
    centres = np.arange(span.start, span.stop, dtype=np.float64) + 0.5
    width = _FADE * (box[1] - box[0])
    weight = np.ones(len(centres))
    if not at_edge[0]:
        weight = np.minimum(weight, (centres - box[0]) / width)
    if not at_edge[1]:
        weight = np.minimum(weight, (box[1] - centres) / width)
    return np.clip(weight, 0.0, 1.0).astype(np.float32)

"""Foreground colours: what an undecided pixel would look like without the background that shows through it.

A pixel is I = α F + (1 - α) B. A cutout that keeps I carries the old background into the new one as a halo; with F it
does not. Blur-Fusion (Forte, "Approximate Fast Foreground Colour Estimation", ICIP 2021) estimates F from the
neighbourhood: with the weighted means over a window

    F̂ = Σ w(α) F / Σ w(α)        B̂ = Σ w(1 - α) B / Σ w(1 - α)        (1)

the estimate is F̂, corrected by what it does not explain of the pixel:

    F = F̂ + α (I - α F̂ - (1 - α) B̂), cut to the range of colours.   (2)

A first pass starts with F = B = I and a wide window, a second one takes F and B̂ of the first and a narrow one. The
paper's weight is w(α) = α; here it is α², by which a pixel counts for what it shows of the foreground and for how sure
that is.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Plane = NDArray[np.float32]

WIDE, NARROW = 91, 7
"""Sides of the two windows in pixels: the published 90 and 6, made odd so that they have a centre."""

BLEED = 2
"""Transparent pixels this near to the subject get its colours too, for viewers that mix neighbours before alpha."""

WORKING_BYTES = 42 << 20
"""What it takes at most besides its arguments and its result, however large the image is."""

WORKING_BYTES_PER_PIXEL = 105
"""The same for an image smaller than a tile."""

_HALO = WIDE // 2 + NARROW // 2
_TILE = 512
_LEVELS = np.arange(256)
# 8 bits again, so that sums of products are exact; one at least, so that faint pixels far from others count.
_WEIGHTS = np.maximum(np.rint(_LEVELS**2 / 255), _LEVELS > 0).astype(np.uint8)


def estimate_foreground(rgb: Bytes, alpha: Bytes, out: Bytes | None = None) -> Bytes:
    """Replace the colours of undecided pixels by the estimated foreground's.

    Opaque pixels keep their colours, and so do transparent ones, but for those within `BLEED` pixels of the subject.
    The sums are of integers, so that the tiles in which it works, of a few MiB however large the image is, give to the
    bit what the whole image would; and only tiles with something to replace cost more than a look.

    Args:
        rgb: (H, W, 3) uint8.
        alpha: (H, W) uint8, straight.
        out: (H, W, 3) uint8 to write to, a view of an RGBA image for example; not `rgb` itself.

    Returns:
        (H, W, 3) uint8; `out`, if it was given.

    Raises:
        ValueError: The sizes differ.
    """
    if rgb.shape[:2] != alpha.shape:
        raise ValueError(f"expected an image of the matte's size {alpha.shape}, found {rgb.shape[:2]}")
    result = np.empty_like(rgb) if out is None else out
    result[:] = rgb
    for top in range(0, alpha.shape[0], _TILE):
        for left in range(0, alpha.shape[1], _TILE):
            _replace(rgb, alpha, result, top, left)
    return result


def _replace(rgb: Bytes, alpha: Bytes, result: Bytes, top: int, left: int) -> None:
    """Estimate one tile of `result` from its surroundings."""
    above, before = min(top, _HALO), min(left, _HALO)
    window = np.s_[top - above : top + _TILE + _HALO, left - before : left + _TILE + _HALO]
    tile = np.s_[top : top + _TILE, left : left + _TILE]
    height, width = alpha[tile].shape
    inner = np.s_[above : above + height, before : before + width]
    replaced = _replaced(alpha[window])[inner]
    if not replaced.any():
        return
    colours = _estimated(rgb[window], alpha[window])[inner]
    np.copyto(result[tile], colours, where=replaced[..., None])


def _replaced(alpha: Bytes) -> NDArray[np.bool_]:
    side = 2 * BLEED + 1
    near = cv2.dilate(alpha, np.ones((side, side), np.uint8))
    return np.asarray((near > 0) & (alpha < 255), dtype=np.bool_)


def _estimated(rgb: Bytes, alpha: Bytes) -> Bytes:
    opaque, clear = _weights(alpha), _weights(np.bitwise_not(alpha))
    share = alpha.astype(np.float32)[..., None] / np.float32(255)
    image = rgb.astype(np.float32)
    foreground, background = rgb, rgb
    for side in (WIDE, NARROW):
        front = _weighted_mean(foreground, opaque, side)
        behind = _weighted_mean(background, clear, side)
        # Equation (2), as F̂ + α (I - B̂ - α (F̂ - B̂)).
        unexplained = image - behind - share * (front - behind)
        foreground = _rounded(front + share * unexplained)
        background = _rounded(behind)
    return foreground


def _weights(alpha: Bytes) -> Bytes:
    """The weight w of every pixel, (H, W, 3), once for each colour."""
    return np.asarray(cv2.cvtColor(_WEIGHTS[alpha], cv2.COLOR_GRAY2RGB), dtype=np.uint8)


def _weighted_mean(colours: Bytes, weights: Bytes, side: int) -> Plane:
    """Equation (1): (H, W, 3); 0 where nothing has weight. What lies beyond the image has none."""
    products = cv2.multiply(colours, weights, dtype=cv2.CV_16U)
    window = (side, side)
    border = cv2.BORDER_CONSTANT
    total = cv2.boxFilter(products, cv2.CV_32F, window, normalize=False, borderType=border)
    weight = cv2.boxFilter(weights[..., 0], cv2.CV_32F, window, normalize=False, borderType=border)
    return np.asarray(total / np.maximum(weight, 1)[..., None], dtype=np.float32)


def _rounded(colours: Plane) -> Bytes:
    return np.asarray(np.rint(colours).clip(0, 255), dtype=np.uint8)

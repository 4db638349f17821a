"""What comes after the network, on its device: the matte at image size, and the colours of the foreground.

The same functions as `matting.geometry.restore` and `matting.foreground.estimate_foreground`, which say what is
computed and why. Here an image crosses PCIe twice (3 bytes per pixel each way) for work that takes a core of the host
a second or two; there nothing crosses. Which of the two pays is measured by `benchmarks/gpu`, section `finish`.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from matting.foreground import BLEED, NARROW, WIDE
from server.backends.base import Finish, Finished

_STRIP = 1 << 21
"""Pixels that are estimated at a time: some 150 bytes of device memory each."""

_HALO = WIDE // 2 + NARROW // 2


def finish(work: Finish, device: torch.device) -> Finished:
    """As `FinishingBackend.finish`."""
    with torch.inference_mode():
        alpha = restore(torch.from_numpy(np.ascontiguousarray(work.alpha)).to(device), work.size)
        if work.input_alpha is not None:
            alpha = alpha * torch.from_numpy(work.input_alpha).to(device) * (1.0 / 255.0)
        levels = (alpha * 255).round().to(torch.uint8) if not work.deep or work.rgb is not None else alpha
        rgb = None
        if work.rgb is not None:
            image = torch.from_numpy(np.ascontiguousarray(work.rgb)).to(device)
            rgb = estimate_foreground(image, levels).cpu().numpy()
        plane = (alpha if work.deep else levels).cpu().numpy()
    return Finished(plane, rgb)


def restore(alpha: Tensor, size: tuple[int, int]) -> Tensor:
    """A matte at image size: area mean along axes that shrink, bilinear with half-pixel centres along those that grow.

    Args:
        alpha: (h, w) float32 in [0, 1].
        size: (height, width).

    Returns:
        (height, width) float32 in [0, 1].
    """
    height, width = size
    if height < alpha.shape[0]:
        alpha = _area(alpha.shape[0], height, alpha) @ alpha
    if width < alpha.shape[1]:
        alpha = alpha @ _area(alpha.shape[1], width, alpha).T
    if alpha.shape != size:
        alpha = functional.interpolate(alpha[None, None], size, mode="bilinear", align_corners=False)[0, 0]
    return alpha.clamp(0, 1)


def estimate_foreground(rgb: Tensor, alpha: Tensor) -> Tensor:
    """The colours of undecided pixels replaced by the foreground's, in strips, each with the surroundings it needs.

    Args:
        rgb: (H, W, 3) uint8.
        alpha: (H, W) uint8.

    Returns:
        (H, W, 3) uint8.
    """
    result = rgb.clone()
    height, width = alpha.shape
    rows = max(1, _STRIP // width)
    for top in range(0, height, rows):
        above = min(top, _HALO)
        window = slice(top - above, top + rows + _HALO)
        inner = slice(above, above + min(rows, height - top))
        replaced = _replaced(alpha[window])[inner]
        if bool(replaced.any()):
            colours = _estimated(rgb[window], alpha[window])[:, inner].permute(1, 2, 0)
            strip = result[top : top + rows]
            torch.where(replaced[..., None], colours, strip, out=strip)
    return result


def _area(before: int, after: int, like: Tensor) -> Tensor:
    """(after, before): each row the share of every old pixel in a new one."""
    edges = torch.arange(after + 1, device=like.device, dtype=torch.float64) * (before / after)
    at = torch.arange(before, device=like.device, dtype=torch.float64)
    covered = torch.minimum(edges[1:, None], at + 1) - torch.maximum(edges[:-1, None], at)
    return (covered.clamp(min=0) * (after / before)).to(like.dtype)


def _replaced(alpha: Tensor) -> Tensor:
    near = functional.max_pool2d(alpha[None].float(), 2 * BLEED + 1, stride=1, padding=BLEED)[0]
    return (near > 0) & (alpha < 255)


def _estimated(rgb: Tensor, alpha: Tensor) -> Tensor:
    opaque, clear = _weights(alpha), _weights(255 - alpha)
    share = alpha.float() / 255
    image = rgb.permute(2, 0, 1).int()
    foreground = background = image
    for side in (WIDE, NARROW):
        front = _weighted_mean(foreground, opaque, side)
        behind = _weighted_mean(background, clear, side)
        unexplained = image - behind - share * (front - behind)
        foreground = _rounded(front + share * unexplained)
        background = _rounded(behind)
    return foreground.to(torch.uint8)


def _weights(alpha: Tensor) -> Tensor:
    """w(α) = α² in 8 bits, one at least where there is any: (H, W) int32."""
    squares = (alpha.double() ** 2 / 255).round()
    return torch.maximum(squares, (alpha > 0).double()).int()


def _weighted_mean(colours: Tensor, weights: Tensor, side: int) -> Tensor:
    """(3, H, W) float32; 0 where nothing has weight. What lies beyond the image has none."""
    total, weight = _box(colours * weights, side), _box(weights, side)
    return total.float() / weight.float().clamp(min=1)


def _box(values: Tensor, side: int) -> Tensor:
    """Sums over windows of a side, of int32 along the last two axes.

    By differences of running sums, so that the side costs nothing. The running sums leave the range of int32 and wrap;
    the sums of a window do not (91² · 255² < 2³¹), and differences modulo 2³² give them exactly.
    """
    reach = side // 2
    for axis in (-1, -2):
        length = values.shape[axis]
        running = torch.cumsum(values, axis, dtype=torch.int32)
        last = (torch.arange(length, device=values.device) + reach).clamp(max=length - 1)
        before = torch.arange(length, device=values.device) - reach - 1
        passed = torch.where(
            _along(before >= 0, axis), running.index_select(axis, before.clamp(min=0)), torch.zeros_like(running)
        )
        values = running.index_select(axis, last) - passed
    return values


def _along(mask: Tensor, axis: int) -> Tensor:
    return mask if axis == -1 else mask[:, None]


def _rounded(colours: Tensor) -> Tensor:
    return colours.round().clamp(0, 255).int()

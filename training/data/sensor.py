"""The camera's and the file's faults for a batch of images on any device; `training.data.degrade` is the same for one.

Images are float32 (B, 3, H, W) in [0, 1]. All numbers come from `Draws`.
"""

from functools import lru_cache, partial
from math import ceil

import torch
import torch.nn.functional as F
from torch import Tensor

from training.data.draws import Draws, only

DRAWS = 24
"""How many numbers `camera` takes for each image."""

_NOISE_SIDE = 1024
_NOISE_SEED = 20261121
_GREY = (0.299, 0.587, 0.114)
_RESAMPLED = (0.5, 0.65, 0.8)

# ITU-T T.81, Annex K.1, luminance and chrominance, by rows.
_LUMINANCE = (
    16, 11, 10, 16, 24, 40, 51, 61,
    12, 12, 14, 19, 26, 58, 60, 55,
    14, 13, 16, 24, 40, 57, 69, 56,
    14, 17, 22, 29, 51, 87, 80, 62,
    18, 22, 37, 56, 68, 109, 103, 77,
    24, 35, 55, 64, 81, 104, 113, 92,
    49, 64, 78, 87, 103, 121, 120, 101,
    72, 92, 95, 98, 112, 100, 103, 99,
)  # fmt: skip
_CHROMINANCE = (
    17, 18, 24, 47, 99, 99, 99, 99,
    18, 21, 26, 66, 99, 99, 99, 99,
    24, 26, 56, 99, 99, 99, 99, 99,
    47, 66, 99, 99, 99, 99, 99, 99,
    *(99,) * 32,
)  # fmt: skip


def camera(images: Tensor, draws: Draws) -> Tensor:
    """Tone, blur or resampling, noise and JPEG; float32 (B, 3, H, W) in [0, 1]."""
    images = _toned(images, draws)
    side = images.shape[-1]
    soft, resampled = draws.chance(0.35), draws.chance(0.2)
    sigma = (side * draws.uniform(0.0008, 0.0035)).clamp(min=0.2)
    images = only(soft, images, lambda some, at: blurred(some, sigma[at], 0.0035))
    which = draws.integer(len(_RESAMPLED))
    for k, share in enumerate(_RESAMPLED):
        images = only(resampled & ~soft & (which == k), images, partial(_detour, share))
    images = _noisy(images, draws).clamp(0, 1)
    quality = draws.uniform(30, 96)
    return only(draws.chance(0.5), images, lambda some, at: jpeg(some, quality[at, 0, 0, 0])).clamp(0, 1)


def _toned(images: Tensor, draws: Draws) -> Tensor:
    """Exposure, cast, contrast, saturation, gamma."""
    gain = torch.exp(draws.normal(0.12) + draws.normal(0.06, 3))
    images = (images * gain - 0.5) * draws.uniform(0.75, 1.2) + (0.5 + draws.normal(0.03))
    grey = (images * _weights(images)).sum(dim=1, keepdim=True)
    saturation = draws.uniform(0.6, 1.25)
    drained = draws.chance(0.06).to(images.device)[:, None, None, None]
    images = grey + saturation.masked_fill(drained, 0.0) * (images - grey)
    gamma = torch.exp(draws.normal(0.15))
    return only(draws.chance(0.5), images.clamp(0, 1), lambda some, at: some.clamp(min=1e-4) ** gamma[at])


def _weights(images: Tensor) -> Tensor:
    return torch.tensor(_GREY, device=images.device).view(1, 3, 1, 1)


def blurred(images: Tensor, sigma: Tensor, largest: float) -> Tensor:
    """A Gaussian blur of each image's own width, edges repeated.

    Args:
        images: (B, C, H, W) float32.
        sigma: (B, 1, 1, 1), in pixels.
        largest: The greatest sigma there can be as a share of the side, which decides the kernel's length.
    """
    count, channels, height, width = images.shape
    radius = max(1, ceil(3 * max(largest * width, 0.2)))
    axis = torch.arange(-radius, radius + 1, device=images.device, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (axis / sigma.view(-1, 1)) ** 2)
    kernel = (kernel / kernel.sum(dim=1, keepdim=True)).repeat_interleave(channels, dim=0)
    flat = F.pad(images, [radius] * 4, mode="replicate").reshape(1, count * channels, height + 2 * radius, -1)
    flat = F.conv2d(flat, kernel[:, None, None, :], groups=count * channels)
    return F.conv2d(flat, kernel[:, None, :, None], groups=count * channels).reshape(images.shape)


def _detour(share: float, images: Tensor, _: Tensor) -> Tensor:
    """Down to a share of the size and up again."""
    side = images.shape[-1]
    small = F.interpolate(images, size=max(32, round(side * share)), mode="bilinear", antialias=True)
    return F.interpolate(small, size=side, mode="bilinear", align_corners=False)


@lru_cache(maxsize=4)
def _noise(device: torch.device) -> Tensor:
    """(3, N, N) of deviation 1: drawn once on the processor, so that it is the same on every device."""
    generator = torch.Generator().manual_seed(_NOISE_SEED)
    return torch.randn(3, _NOISE_SIDE, _NOISE_SIDE, generator=generator).to(device)


def _noisy(images: Tensor, draws: Draws) -> Tensor:
    """Grain that grows with brightness: a window of one large field for each image, its colours in some order."""
    side = images.shape[-1]
    field = _noise(images.device)
    if side > _NOISE_SIDE:
        raise ValueError(f"expected images of at most {_NOISE_SIDE} pixels, found {side}")
    rows, columns = (draws.integer(_NOISE_SIDE - side + 1).tolist() for _ in range(2))
    orders = draws.integer(3).tolist()
    grain = torch.stack(
        [
            field[:, row : row + side, column : column + side].roll(order, dims=0)
            for row, column, order in zip(rows, columns, orders, strict=True)
        ]
    )
    grey = draws.chance(0.5).to(images.device)[:, None, None, None]
    grain = torch.where(grey, grain[:, :1], grain)
    silent = draws.chance(0.3).to(images.device)[:, None, None, None]
    sigma = (draws.uniform(-0.2, 0.2) ** 2).masked_fill(silent, 0.0)
    return images + sigma * grain * (0.5 + 0.7 * images.clamp(min=0).sqrt())


@lru_cache(maxsize=4)
def _cosines(device: torch.device) -> Tensor:
    """The orthonormal 8-point discrete cosine transform, (8, 8)."""
    n = torch.arange(8, dtype=torch.float64)
    matrix = torch.cos((2 * n[None, :] + 1) * n[:, None] * torch.pi / 16) / 2
    matrix[0] /= 2**0.5
    return matrix.float().to(device)


def _tables(quality: Tensor, base: tuple[int, ...]) -> Tensor:
    """The quantisation tables (B, 8, 8) of a quality from 1 to 100, scaled as libjpeg does."""
    quality = quality.floor()
    scale = torch.where(quality < 50, torch.floor(5000 / quality), 200 - 2 * quality)
    table = torch.tensor(base, dtype=torch.float32, device=quality.device).view(1, 8, 8)
    return torch.floor((table * scale[:, None, None] + 50) / 100).clamp(1, 255)


def _quantised(plane: Tensor, table: Tensor) -> Tensor:
    """A plane (B, H, W) of levels around 0 through the transform of its blocks and back."""
    count, height, width = plane.shape
    cosines = _cosines(plane.device)
    blocks = plane.reshape(count, height // 8, 8, width // 8, 8).transpose(2, 3)
    table = table[:, None, None]
    spectrum = cosines @ blocks @ cosines.T
    spectrum = torch.round(spectrum / table) * table
    return (cosines.T @ spectrum @ cosines).transpose(2, 3).reshape(count, height, width)


def jpeg(images: Tensor, quality: Tensor) -> Tensor:
    """What a JPEG file with halved colour planes keeps of an image; ITU-T T.81 without the lossless coding.

    Args:
        images: (B, 3, H, W) float32 in [0, 1].
        quality: (B,) from 1 to 100.
    """
    height, width = images.shape[-2:]
    levels = torch.round(F.pad(images, (0, -width % 16, 0, -height % 16), mode="replicate") * 255)
    red, green, blue = levels.unbind(dim=1)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    colours = torch.stack([(blue - luma) / 1.772, (red - luma) / 1.402], dim=1)
    small = F.avg_pool2d(colours, 2)
    luma = _quantised(luma - 128, _tables(quality, _LUMINANCE)) + 128
    table = _tables(quality, _CHROMINANCE)
    small = torch.stack([_quantised(plane, table) for plane in small.unbind(dim=1)], dim=1)
    cb, cr = F.interpolate(small, scale_factor=2, mode="bilinear", align_corners=False).unbind(dim=1)
    back = torch.stack([luma + 1.402 * cr, luma - 0.344136 * cb - 0.714136 * cr, luma + 1.772 * cb], dim=1)
    return (back[..., :height, :width] / 255).clamp(0, 1)

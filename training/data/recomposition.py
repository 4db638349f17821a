"""Batches made on a device: few cut-outs and backgrounds from the processor, endlessly put together anew.

The processor draws subjects and backgrounds once, as `training.data.phenomena` does, and sends them as bytes. The
device then mirrors, turns, scales, moves and blurs a subject, puts it before another background with another light and
shadow, and photographs it. Every index of a seed is the same image on every device and in every batch, up to rounding.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from training.data.degrade import Photo
from training.data.draws import Draws, only
from training.data.phenomena import backdrop, compose
from training.data.raster import Image, Plane
from training.data.scene import begin
from training.data.sensor import DRAWS, blurred, camera
from training.data.sets import ProceduralSet
from training.data.stream import Batch, single_threaded

_COUNT = 40 + DRAWS
_STREAK = 0.04
_DEFOCUS = 0.015
_SHADOW_SIDE = 64


@dataclass(frozen=True)
class Bank:
    """What images are put together from, on one device.

    Attributes:
        colours: (N, 3, S, S) uint8, straight: what the subjects look like where they are.
        alphas: (N, 1, S, S) uint8, their mattes.
        backgrounds: (N, 3, S, S) uint8, without subject and shadow.
    """

    colours: Tensor
    alphas: Tensor
    backgrounds: Tensor

    def to(self, device: torch.device) -> "Bank":
        """The same on a device."""
        return Bank(self.colours.to(device), self.alphas.to(device), self.backgrounds.to(device))


class _Ingredients(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """Subject, matte and background of each index, as bytes."""

    def __init__(self, source: ProceduralSet, count: int, size: int) -> None:
        self.source, self.count, self.size = source, count, size

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        source = self.source
        scene, _ = compose(index, self.size, source.seed, source.level, source.mixture)
        behind = backdrop(begin(self.count + index, self.size, source.seed, source.level))
        return _bytes(scene.foreground), _bytes(scene.alpha[..., None]), _bytes(behind)


def _bytes(picture: Image) -> Tensor:
    """(H, W, C) float32 in [0, 1] as (C, H, W) uint8."""
    levels = np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8)
    return torch.from_numpy(np.ascontiguousarray(levels.transpose(2, 0, 1)))


def make_bank(source: ProceduralSet, count: int, size: int, workers: int = 0) -> Bank:
    """The first `count` subjects of a set, and as many backgrounds, on the processor."""
    loader = DataLoader(
        _Ingredients(source, count, size), batch_size=32, num_workers=workers, worker_init_fn=single_threaded
    )
    colours, alphas, backgrounds = zip(*loader, strict=True)
    return Bank(torch.cat(colours), torch.cat(alphas), torch.cat(backgrounds))


def recomposed(bank: Bank, seed: int, indices: Sequence[int]) -> Batch:
    """The images of some indices.

    Args:
        bank: Decides the size, the device, and with the seed what every index is.
        seed: Of the set.
        indices: 0 or more.

    Returns:
        uint8 (B, S, S, 3) RGB and float32 (B, 1, S, S) in [0, 1], on the bank's device.
    """
    draws = Draws(seed, indices, _COUNT, bank.alphas.device)
    premultiplied, alpha = _subject(bank, draws)
    behind = _background(bank, draws)
    behind = behind * (1 - _shadow(alpha, draws))
    images = premultiplied + (1 - alpha) * behind
    photo = camera(images.clamp(0, 1), draws)
    return (photo * 255 + 0.5).to(torch.uint8).permute(0, 2, 3, 1).contiguous(), alpha


class Recomposition:
    """A procedural set put together anew, as a source of batches; on the processor, unless it is put elsewhere.

    A bank is made when its size is first asked for; the last one is kept.
    """

    def __init__(self, source: ProceduralSet, count: int, seed: int, workers: int = 0) -> None:
        """Take the set, how many of its subjects to draw, the seed, and how many processes draw."""
        self.source, self.count, self.seed, self.workers = source, count, seed, workers
        self._device = torch.device("cpu")
        self._size = 0
        self._bank: Bank | None = None

    def put_on(self, device: torch.device) -> None:
        """Make batches on a device."""
        self._device, self._bank = device, None

    def bank(self, size: int) -> Bank:
        """The bank of one size, on the device."""
        if self._bank is None or self._size != size:
            self._bank = make_bank(self.source, self.count, size, self.workers).to(self._device)
            self._size = size
        return self._bank

    def batch(self, indices: Sequence[int], size: int) -> Batch:
        """The images of some indices, on the device."""
        return recomposed(self.bank(size), self.seed, indices)

    def item(self, index: int, size: int) -> tuple[Photo, Plane]:
        """Image uint8 (size, size, 3) and alpha float32 (size, size) of one index."""
        images, alphas = self.batch([index], size)
        return images[0].cpu().numpy(), alphas[0, 0].cpu().numpy()


def _subject(bank: Bank, draws: Draws) -> tuple[Tensor, Tensor]:
    """Premultiplied colours and coverage of the subjects, moved and lit anew."""
    which = draws.integer(len(bank.alphas))
    alpha = bank.alphas[which].float() / 255
    light = torch.exp(draws.normal(0.1) + draws.normal(0.05, 3))
    colour = (bank.colours[which].float() / 255 * light).clamp(0, 1)
    layer = F.grid_sample(
        torch.cat([colour * alpha, alpha], dim=1), _grid(alpha, draws), mode="bilinear", align_corners=False
    )
    kernel = _streaks(draws, alpha.shape[-1])
    layer = only(draws.chance(0.08), layer, lambda some, at: _convolved(some, kernel[at]))
    side = alpha.shape[-1]
    sigma = (side * draws.log_uniform(0.002, _DEFOCUS)).clamp(min=0.2)
    layer = only(draws.chance(0.06), layer, lambda some, at: blurred(some, sigma[at], _DEFOCUS))
    layer = layer.clamp(0, 1)
    return layer[:, :3], layer[:, 3:]


def _grid(alpha: Tensor, draws: Draws) -> Tensor:
    """Where each pixel comes from. What a border cuts off is neither turned nor made smaller, and stays there."""
    edges = torch.cat([alpha[..., 0, :], alpha[..., -1, :], alpha[..., :, 0], alpha[..., :, -1]], dim=-1)
    cut = (edges.amax(dim=-1) > 0.1).view(-1, 1, 1, 1)
    scale = draws.log_uniform(0.75, 1.35)
    scale = torch.where(cut, scale.clamp(min=1.0), scale)
    angle = torch.where(cut, 0.0, draws.uniform(-0.26, 0.26))
    room = torch.where(cut, (1 - 1 / scale), 0.25)
    across, down = (room * draws.uniform(-1, 1) for _ in range(2))
    sign = torch.where(draws.chance(0.5).to(alpha.device).view(-1, 1, 1, 1), -1.0, 1.0)
    cosine, sine = torch.cos(angle) / scale, torch.sin(angle) / scale
    rows = torch.cat([sign * cosine, -sign * sine, across], dim=3), torch.cat([sine, cosine, down], dim=3)
    theta = torch.cat(rows, dim=2)[:, 0]
    return F.affine_grid(theta, list(alpha.shape), align_corners=False)


def _streaks(draws: Draws, side: int) -> Tensor:
    """Kernels (B, K, K) of a straight motion, 1 to 4 % of the side long."""
    length, angle = side * draws.log_uniform(0.01, _STREAK), draws.uniform(0, torch.pi)
    radius = int(np.ceil(_STREAK * side / 2)) + 1
    axis = torch.arange(-radius, radius + 1, device=length.device, dtype=torch.float32)
    x, y = axis.view(1, 1, 1, -1), axis.view(1, 1, -1, 1)
    along = x * torch.cos(angle) + y * torch.sin(angle)
    away = y * torch.cos(angle) - x * torch.sin(angle)
    weight = (length / 2 + 0.5 - along.abs()).clamp(0, 1) * (1 - away.abs()).clamp(min=0)
    return (weight / weight.sum(dim=(2, 3), keepdim=True))[:, 0]


def _convolved(images: Tensor, kernels: Tensor) -> Tensor:
    """Every image (C, H, W) with its own kernel (K, K), edges repeated."""
    count, channels, height, width = images.shape
    radius = kernels.shape[-1] // 2
    flat = F.pad(images, [radius] * 4, mode="replicate").reshape(1, count * channels, height + 2 * radius, -1)
    weight = kernels.repeat_interleave(channels, dim=0)[:, None]
    return F.conv2d(flat, weight, groups=count * channels).reshape(count, channels, height, width)


def _background(bank: Bank, draws: Draws) -> Tensor:
    """A window of another background, mirrored, in another light, in or out of focus."""
    which = draws.integer(len(bank.backgrounds))
    behind = bank.backgrounds[which].float() / 255
    scale = draws.uniform(0.55, 1.0)
    sign = torch.where(draws.chance(0.5).to(behind.device).view(-1, 1, 1, 1), -1.0, 1.0)
    across, down = ((1 - scale) * draws.uniform(-1, 1) for _ in range(2))
    zero = torch.zeros_like(scale)
    theta = torch.cat([torch.cat([sign * scale, zero, across], dim=3), torch.cat([zero, scale, down], dim=3)], dim=2)
    grid = F.affine_grid(theta[:, 0], list(behind.shape), align_corners=False)
    behind = F.grid_sample(behind, grid, mode="bilinear", padding_mode="border", align_corners=False)
    behind = (behind * torch.exp(draws.normal(0.15) + draws.normal(0.08, 3))).clamp(0, 1)
    sigma = (behind.shape[-1] * draws.log_uniform(0.002, _DEFOCUS)).clamp(min=0.2)
    return only(draws.chance(0.4), behind, lambda some, at: blurred(some, sigma[at], _DEFOCUS))


def _shadow(alpha: Tensor, draws: Draws) -> Tensor:
    """How much darker the background is, (B, 1, S, S): the subject's shadow on the wall behind it, blurred."""
    small = F.interpolate(alpha, size=_SHADOW_SIDE, mode="area")
    across, down = draws.uniform(-0.2, 0.2), draws.uniform(-0.05, 0.2)
    strength = draws.uniform(0.2, 0.75)
    none = draws.chance(0.35).to(alpha.device).view(-1, 1, 1, 1)
    one, zero = torch.ones_like(across), torch.zeros_like(across)
    theta = torch.cat([torch.cat([one, zero, -across], dim=3), torch.cat([zero, one, -down], dim=3)], dim=2)
    grid = F.affine_grid(theta[:, 0], list(small.shape), align_corners=False)
    thrown = F.grid_sample(small, grid, mode="bilinear", align_corners=False)
    thrown = blurred(thrown, draws.uniform(0.6, 3.5), 3.5 / _SHADOW_SIDE)
    dark = strength.masked_fill(none, 0.0) * thrown
    return F.interpolate(dark, size=alpha.shape[-1], mode="bilinear", align_corners=False).clamp(0, 1)

"""Random numbers for work on any device: drawn on the processor from a seed and an index, used where the images are."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

_EDGE = 1e-6


class Draws:
    """Numbers for the images of a batch, the same for an index whatever the batch, the device and the image size.

    Every call uses the next column; what is handed out has one value for each image.
    """

    def __init__(self, seed: int, indices: Sequence[int], count: int, device: torch.device) -> None:
        """Draw `count` numbers for each index."""
        self._device = device
        self._values = torch.stack([_row(seed, index, count) for index in indices])
        self._next = 0

    def _column(self) -> Tensor:
        self._next += 1
        return self._values[:, self._next - 1]

    def uniform(self, low: float, high: float) -> Tensor:
        """(B, 1, 1, 1) on the device, between `low` and `high`."""
        return self._placed(low + (high - low) * self._column())

    def log_uniform(self, low: float, high: float) -> Tensor:
        """(B, 1, 1, 1) on the device, with a uniform logarithm."""
        return self._placed(torch.exp(np.log(low) + (np.log(high) - np.log(low)) * self._column()))

    def normal(self, deviation: float, channels: int = 1) -> Tensor:
        """(B, channels, 1, 1) on the device, around 0."""
        columns = torch.stack([self._column() for _ in range(channels)], dim=1)
        value = torch.erfinv((2 * columns - 1).clamp(-1 + _EDGE, 1 - _EDGE)) * (deviation * 2**0.5)
        return value[:, :, None, None].to(self._device)

    def integer(self, count: int) -> Tensor:
        """(B,) int64, on the processor, from 0 to `count` - 1."""
        return (self._column() * count).long().clamp(max=count - 1)

    def chance(self, probability: float) -> Tensor:
        """(B,) bool, on the processor: which images something is done to."""
        return self._column() < probability

    def _placed(self, column: Tensor) -> Tensor:
        return column[:, None, None, None].to(self._device)


def _row(seed: int, index: int, count: int) -> Tensor:
    state = np.random.SeedSequence([seed, index]).generate_state(1, np.uint64)[0]
    generator = torch.Generator().manual_seed(int(state) >> 1)
    return torch.rand(count, generator=generator, dtype=torch.float64).float()


def only(chosen: Tensor, images: Tensor, change: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """`images` with `change(images[at], at)` for those that are chosen: (B,) bool, on the processor."""
    if not bool(chosen.any()):
        return images
    at = chosen.nonzero()[:, 0].to(images.device)
    return images.index_copy(0, at, change(images[at], at))

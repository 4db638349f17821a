"""Mattes in 8 bits with their truths, for metrics: from nearly right to wrong. Level 0 and 255 occur in each."""

import numpy as np
from numpy.typing import NDArray

from tests.support import images

Levels = NDArray[np.uint8]


def cases() -> dict[str, tuple[Levels, Levels]]:
    """Matte and truth by name, (H, W) uint8; the truths are 0 or 255."""
    strands, ring, disc = images.strands(160, 200, thickness=3.0), images.ring(150, 130), images.disc(120, 140)
    generator = np.random.default_rng(5)
    noise = generator.integers(0, 256, disc.alpha.shape)
    holes = disc.alpha.copy()
    holes[50:54, 60:90] = 0
    holes[5:25, 5:25] = 1
    left, top = np.zeros((40, 40)), np.zeros((40, 40))
    left[:, :20], top[:20] = 1, 1
    return {
        "strands, blurred": (_levels(_blurred(strands.alpha, 4)), _region(strands.alpha)),
        "ring, moved": (_levels(np.roll(ring.alpha, (3, -5), (0, 1))), _region(ring.alpha)),
        "disc, noisy": (_levels(0.7 * disc.alpha + 0.3 * noise / 255), _region(disc.alpha)),
        "disc, with a hole and an island": (_levels(holes), _region(disc.alpha)),
        "disc, without its lower half": (_levels(disc.alpha * (np.arange(120)[:, None] < 66)), _region(disc.alpha)),
        "halves, crosswise": (_levels(top), _region(left)),
    }


def _blurred(alpha: NDArray[np.float32], reach: int) -> NDArray[np.float64]:
    shifts = [np.roll(alpha, (y, x), (0, 1)) for y in range(-reach, reach + 1) for x in range(-reach, reach + 1)]
    return np.mean(shifts, axis=0, dtype=np.float64)


def _levels(alpha: NDArray[np.floating]) -> Levels:
    levels = np.rint(np.asarray(alpha, np.float64) * 255).clip(0, 255).astype(np.uint8)
    levels[0, 0] = 0
    levels.flat[int(levels.argmax())] = 255  # so that implementations that stretch have nothing to stretch
    return levels


def _region(alpha: NDArray[np.floating]) -> Levels:
    return np.where(alpha >= 0.5, 255, 0).astype(np.uint8)

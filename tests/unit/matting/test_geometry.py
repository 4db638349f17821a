"""To the working size and back: exact where nothing changes, no shift, no overshoot, no lost strand."""

import numpy as np
import pytest

from matting.geometry import fit, restore
from tests.support import images


def test_the_working_size_is_returned_as_it_is() -> None:
    image = images.noise(32, 64)
    assert fit(image, (32, 64)) is image
    alpha = np.random.default_rng(0).random((32, 64), dtype=np.float32)
    assert restore(alpha, (32, 64)) is alpha


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (17, 33), (700, 500)])
def test_any_size_goes_there_and_back(size: tuple[int, int]) -> None:
    fitted = fit(np.full((*size, 3), 77, np.uint8), (32, 64))
    assert fitted.shape == (32, 64, 3)
    assert fitted.flags.c_contiguous
    assert np.all(fitted == 77)
    restored = restore(np.ones((32, 64), np.float32), size)
    assert restored.shape == size
    assert restored.dtype == np.float32
    assert np.all(restored == 1.0)


def test_fitting_is_antialiased() -> None:
    """A fine checkerboard shrinks to grey; two-tap bilinear would pick its samples."""
    board = np.indices((256, 256)).sum(axis=0) % 2 * 255
    image = np.repeat(board[..., None], 3, axis=2).astype(np.uint8)
    fitted = fit(image, (32, 32))
    assert np.abs(fitted.astype(int) - 127).max() <= 2


@pytest.mark.parametrize("size", [(32, 32), (100, 37), (512, 320)])
def test_restoring_stays_within_bounds(size: tuple[int, int]) -> None:
    alpha = (np.random.default_rng(1).random((64, 64)) > 0.5).astype(np.float32)
    before = alpha.copy()
    restored = restore(alpha, size)
    assert restored.min() >= 0.0
    assert restored.max() <= 1.0
    assert np.array_equal(alpha, before)


@pytest.mark.parametrize("height", [512, 96])
def test_an_edge_comes_back_where_it_was(height: int) -> None:
    """A ramp is linear in image coordinates: growing or shrinking it must not move it, borders excepted."""
    columns = (np.arange(64, dtype=np.float32) + 0.5) / 64
    restored = restore(np.tile(columns, (64, 1)), (height, 256))
    wanted = (np.arange(256, dtype=np.float32) + 0.5) / 256
    assert np.abs(restored[height // 2, 4:-4] - wanted[4:-4]).max() < 1e-6
    shrunk = restore(np.tile(wanted, (64, 1)), (height, 64))
    assert np.abs(shrunk[height // 2] - columns).max() < 1e-6


def test_a_strand_fades_but_does_not_vanish() -> None:
    alpha = np.zeros((64, 64), np.float32)
    alpha[:, 13] = 1.0
    assert restore(alpha, (16, 16)).sum() * 16 == pytest.approx(alpha.sum())
    assert restore(alpha, (128, 16)).max() == pytest.approx(0.25)


def test_a_matte_survives_the_round_trip() -> None:
    """A disc's image fitted and its matte restored stay aligned to a fraction of a pixel."""
    matted = images.disc(240, 320)
    as_image = np.repeat(np.rint(matted.alpha * 255).astype(np.uint8)[..., None], 3, axis=2)
    working = fit(as_image, (128, 128))[..., 0].astype(np.float32) / np.float32(255)
    restored = restore(working, (240, 320))
    y, x = np.mgrid[:240, :320] + 0.5
    for axis in (y, x):
        moved = (axis * restored).sum() / restored.sum() - (axis * matted.alpha).sum() / matted.alpha.sum()
        assert abs(moved) < 0.02

"""The size at which an export is proven: its own where that is cheap, else a small one of its shape."""

import pytest

from model_export.proof import PROVEN_PIXELS, proof_size


@pytest.mark.parametrize("size", [(32, 32), (384, 384), (512, 512), (256, 1024)])
def test_small_sizes_are_their_own(size: tuple[int, int]) -> None:
    assert proof_size(size) == size


@pytest.mark.parametrize(
    ("size", "expected"),
    [((1024, 1024), (512, 512)), ((2048, 2048), (512, 512)), ((1440, 2560), (384, 672)), ((32, 32768), (32, 8192))],
)
def test_large_sizes_keep_their_shape(size: tuple[int, int], expected: tuple[int, int]) -> None:
    height, width = proof_size(size)
    assert (height, width) == expected
    assert height * width <= PROVEN_PIXELS
    assert height % 32 == width % 32 == 0

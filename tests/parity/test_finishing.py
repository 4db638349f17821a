"""What comes after the network, in torch against `matting`: on the CPU here, on a GPU where there is one."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from benchmarks.gpu.finishing import example, on_host
from matting.composition import to_uint8, with_input_alpha
from matting.foreground import WIDE
from matting.foreground import estimate_foreground as on_the_host
from matting.geometry import restore as restored_on_the_host
from server.backends.base import Finish, FinishingBackend
from server.backends.torch_cuda import TorchBackend, TorchOptions, finishing
from tests.support.tolerance import FINISHED_ALPHA

DEVICES = [
    "cpu",
    pytest.param(
        "cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")]
    ),
]


def matte(size: tuple[int, int], seed: int = 0) -> NDArray[np.float32]:
    """Smooth, with opaque, clear and undecided parts."""
    rough = np.random.default_rng(seed).random((size[0] // 15 + 2, size[1] // 15 + 2), dtype=np.float32)
    return np.clip(restored_on_the_host(rough, size) * 3 - 1, 0, 1)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "size",
    [(200, 333), (40, 50), (63, 65), (30, 200), (64, 96), (64, 97), (1, 1), (641, 5)],
    ids=["grows", "shrinks", "both a little", "both much", "same", "one axis", "a pixel", "a strip"],
)
def test_a_matte_comes_to_image_size_as_on_the_host(device: str, size: tuple[int, int]) -> None:
    alpha = np.random.default_rng(1).random((64, 96), dtype=np.float32)
    found = finishing.restore(torch.from_numpy(alpha).to(device), size).cpu().numpy()
    assert found.shape == size
    assert np.abs(found - restored_on_the_host(alpha, size)).max() <= FINISHED_ALPHA
    ones = finishing.restore(torch.ones(64, 96, device=device), size)
    assert float(ones.min()) == pytest.approx(1)
    assert float(ones.max()) == 1.0


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("size", [(200, 300), (7, 300), (300, 7), (WIDE, WIDE), (1, 1)])
def test_colours_are_those_of_the_host_to_the_bit(device: str, size: tuple[int, int]) -> None:
    rgb = np.random.default_rng(2).integers(0, 256, (*size, 3), dtype=np.uint8)
    alpha = to_uint8(matte(size))
    found = finishing.estimate_foreground(torch.from_numpy(rgb).to(device), torch.from_numpy(alpha).to(device))
    expected = on_the_host(rgb, alpha)
    assert np.array_equal(found.cpu().numpy(), expected)
    assert size[0] < 100 or not np.array_equal(expected, rgb), "or else nothing was compared"


@pytest.mark.parametrize("strip", [300, 300 * 17, 300 * 60])
def test_strips_leave_no_seams(strip: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finishing, "_STRIP", strip)
    rgb = np.random.default_rng(3).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    alpha = to_uint8(matte((200, 300)))
    found = finishing.estimate_foreground(torch.from_numpy(rgb), torch.from_numpy(alpha)).numpy()
    assert np.array_equal(found, on_the_host(rgb, alpha))


def test_running_sums_may_leave_the_range_of_their_type() -> None:
    """White and opaque: 255² times more pixels than fit into 31 bits."""
    rgb, alpha = np.full((900, 60, 3), 255, np.uint8), np.full((900, 60), 254, np.uint8)
    assert 900 * WIDE * 254**2 > 2**31
    found = finishing.estimate_foreground(torch.from_numpy(rgb), torch.from_numpy(alpha)).numpy()
    assert np.array_equal(found, on_the_host(rgb, alpha))


@pytest.mark.parametrize(
    "change",
    [
        lambda work: work,
        lambda work: Finish(work.alpha, work.size, work.rgb, deep=True),
        lambda work: Finish(work.alpha, work.size, work.rgb, to_uint8(matte(work.size, 5))),
        lambda work: Finish(work.alpha, work.size, None, to_uint8(matte(work.size, 5)), deep=True),
    ],
    ids=["8 bits", "deep", "with alpha of its own", "deep, without colours"],
)
def test_the_backend_does_the_whole_of_it(change: Callable[[Finish], Finish]) -> None:
    backend = TorchBackend(TorchOptions(threads=1))
    assert isinstance(backend, FinishingBackend)
    work = change(example((120, 140), (64, 64), colours=True))
    found = backend.finish(work)
    alpha = with_input_alpha(restored_on_the_host(work.alpha, work.size), work.input_alpha)
    if work.deep:
        assert found.alpha.dtype == np.float32
        assert np.abs(found.alpha - alpha).max() <= FINISHED_ALPHA
    else:
        assert found.alpha.dtype == np.uint8
        assert np.abs(found.alpha.astype(int) - to_uint8(alpha)).max() <= 1
    assert (found.rgb is None) == (work.rgb is None)
    if work.rgb is not None and found.rgb is not None:
        # A level of difference in a matte, which rounding may make, moves colours by a few.
        differs = np.abs(found.rgb.astype(int) - on_the_host(work.rgb, to_uint8(alpha)))
        assert (differs > 0).mean() < 1e-3


def test_the_measured_example_is_what_the_server_would_do() -> None:
    work = example((120, 140), (64, 64), colours=True)
    undecided = (on_host(work).alpha > 0) & (on_host(work).alpha < 255)
    assert 0.02 < undecided.mean() < 0.12

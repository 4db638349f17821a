"""Batches on graphs of fixed sizes, with a device that does everything late."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from artifact import TensorSpec
from server.backends.torch_cuda.runners import EagerRunner, GraphRunner, Signature, bucket_of
from tests.support.graph_device import QueuedDevice

SIGNATURE = Signature(
    (TensorSpec("image", "uint8", ("batch", 2, 3)), TensorSpec("mask", "float32", ("batch", 2))),
    TensorSpec("alpha", "float32", ("batch", 2)),
)


class RowSums(nn.Module):
    """Each row's answer depends on that row alone; it counts how large its batches were."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        self.sizes.append(len(image))
        return image.float().sum(dim=2) + mask


def batch(size: int, seed: int = 0) -> dict[str, NDArray[np.generic]]:
    rng = np.random.default_rng([size, seed])
    return {
        "image": rng.integers(0, 256, (size, 2, 3), dtype=np.uint8),
        "mask": rng.random((size, 2), dtype=np.float32),
    }


def answer(arrays: dict[str, NDArray[np.generic]]) -> NDArray[np.float32]:
    total: NDArray[np.float32] = arrays["image"].astype(np.float32).sum(axis=2) + arrays["mask"]
    return total


@pytest.mark.parametrize(
    ("size", "bucket"), [(1, 1), (2, 2), (3, 4), (4, 4), (5, 8), (8, 8), (9, 16), (16, 16), (17, 24), (33, 40)]
)
def test_buckets(size: int, bucket: int) -> None:
    assert bucket_of(size) == bucket


def test_every_row_gets_its_own_answer_whatever_ran_before() -> None:
    network, device = RowSums(), QueuedDevice()
    runner = GraphRunner(network, SIGNATURE, device)
    for turn, size in enumerate((8, 3, 1, 16, 7, 8, 2, 3, 16)):
        arrays = batch(size, turn)
        found = runner(arrays)["alpha"]
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, answer(arrays))
    assert set(network.sizes) == {1, 2, 4, 8, 16}
    assert device.captured == 5


def test_a_replay_is_a_whole_run_of_the_network() -> None:
    network = RowSums()
    runner = GraphRunner(network, SIGNATURE, QueuedDevice())
    runner(batch(3))
    before = len(network.sizes)
    runner.replay(3)
    assert network.sizes[before:] == [4]


def test_smaller_batches_use_the_memory_of_the_largest() -> None:
    device = QueuedDevice()
    runner = GraphRunner(RowSums(), SIGNATURE, device)
    runner(batch(8))
    taken = device.allocated
    for size in (7, 4, 3, 2, 1):
        runner(batch(size))
    assert device.allocated == taken
    runner(batch(9))
    assert device.allocated == 3 * taken  # its own for 16 rows; the graphs that were captured keep theirs


def test_a_batch_without_room_leaves_those_with_room_alone() -> None:
    runner = GraphRunner(RowSums(), SIGNATURE, QueuedDevice(room=8))
    runner(batch(4))
    with pytest.raises(torch.OutOfMemoryError):
        runner(batch(9))
    for size in (8, 4, 1):
        arrays = batch(size, 1)
        np.testing.assert_array_equal(runner(arrays)["alpha"], answer(arrays))


def test_on_the_cpu_a_network_runs_as_it_is() -> None:
    network = RowSums()
    arrays = batch(3)
    strided = {**arrays, "image": np.flip(np.flip(arrays["image"], 0).copy(), 0)}
    np.testing.assert_array_equal(EagerRunner(network, SIGNATURE)(strided)["alpha"], answer(arrays))
    assert network.sizes == [3]

"""A batch of N equals N singles, on the real runtime, and equals what numpy says."""

import asyncio
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from server.backends.ort import OrtBackend, OrtOptions
from server.engine import Engine, EngineLimits, Item
from server.observability.metrics import Metrics
from tests.support.backends import counted, tiny_alpha, tiny_onnx_artifact
from tests.support.tolerance import BATCH_ALPHA, ORT_TINY

SIZE = (16, 24)


def images(count: int) -> NDArray[np.uint8]:
    return np.random.default_rng(11).integers(0, 256, (count, *SIZE, 3), dtype=np.uint8)


@pytest.mark.parametrize(("batch", "size"), [("batch", 1), ("batch", 2), ("batch", 3), (1, 1), (3, 1), (3, 2), (3, 3)])
def test_a_batch_equals_singles_and_numpy(tmp_path: Path, batch: int | str, size: int):
    """Also for graphs of a fixed batch: they are filled up, and the filling is cut off."""
    backend = OrtBackend(OrtOptions(threads=1))
    backend.load("tiny", tiny_onnx_artifact(tmp_path / "artifact", SIZE, batch=batch))
    inputs = images(size)

    def run(image: NDArray[np.uint8]) -> NDArray[np.float32]:
        return backend.run("tiny", {"image": image})["alpha"].astype(np.float32, casting="no")

    together = run(inputs)
    alone = np.concatenate([run(inputs[row : row + 1]) for row in range(size)])
    assert together.shape == (size, *SIZE)
    np.testing.assert_allclose(together, alone, atol=BATCH_ALPHA, rtol=0)
    np.testing.assert_allclose(together, tiny_alpha(inputs), atol=ORT_TINY, rtol=0)


@pytest.mark.parametrize("batch", ["batch", 3])
async def test_through_the_engine_each_image_gets_its_own_matte(tmp_path: Path, batch: int | str):
    metrics = Metrics()
    engine = Engine([lambda: OrtBackend(OrtOptions(threads=1))], EngineLimits(max_batch=3), metrics)
    await engine.start({"tiny": tiny_onnx_artifact(tmp_path / "artifact", SIZE, batch=batch)})
    inputs = images(32)
    outcomes = await asyncio.gather(*(engine.submit(Item("tiny", {"image": image}, SIZE)) for image in inputs))
    found = np.stack([outcome.arrays["alpha"] for outcome in outcomes])
    np.testing.assert_allclose(found, tiny_alpha(inputs), atol=ORT_TINY, rtol=0)
    assert max(outcome.batch_size for outcome in outcomes) == 3
    assert counted(metrics, "birefnet_batch_size_sum") == 32
    await engine.close()

"""What a device does with an artifact before it is ready: run every batch size, and give the promised answer at each.

The first run of a shape is slow (memory is reserved, kernels are chosen, graphs are captured): it must not happen to a
client. The self-test catches what only this device gets wrong, a bad plan, driver or card, and a graph that mixes the
images of a batch.

It is done in slices, one for loading and one for each batch size, so that a device that serves already can run a batch
between any two of them.

Rules of this module: everything runs in the device thread.
"""

import logging
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace

import numpy as np

from artifact import Artifact, Deviation, Manifest, SelfTest, load_self_test
from server.backends.base import Arrays, Backend, OutOfMemoryFault

_log = logging.getLogger(__name__)


class SelfTestFailedError(Exception):
    """A device gives other answers than the artifact promises; the message has the figures."""


@dataclass(frozen=True, slots=True)
class Warm:
    """An artifact that a device has proved it can run.

    Attributes:
        precision: It runs at, as the backend says.
        self_test: To be run again after a fault; None for an artifact without files.
        deviation: The worst of the self-test over all batch sizes.
        max_batch: Largest batch that fits into the device's memory.
        item_s: Seconds of a warm batch of one.
    """

    precision: str
    self_test: SelfTest | None
    deviation: Deviation | None
    max_batch: int
    item_s: float


def warm_up(
    backend: Backend, artifact_id: str, artifact: Artifact, max_batch: int, clock: Callable[[], float] = time.monotonic
) -> Generator[None, None, Warm]:
    """Load an artifact, run every batch size up to the limit, and test every answer; a slice of it at each `next`.

    Returns:
        What was found, when the last slice is done.

    Raises:
        BackendFault: It cannot be loaded or run here.
        ArtifactError: Its self-test is missing or does not fit.
        SelfTestFailedError: Its answers are off.
    """
    test = _single(artifact)
    precision = backend.load(artifact_id, artifact)
    yield
    deviations, fitting = [], 1
    # The largest first: an arena that has grown to it serves the smaller ones from what it has.
    for size in range(max_batch, 0, -1):
        try:
            if test is None:
                backend.run(artifact_id, repeat(blank_inputs(artifact.manifest), size))
            else:
                deviations.append(prove(backend, artifact_id, test, precision, size))
        except OutOfMemoryFault:
            if size == 1:
                raise
        else:
            fitting = max(fitting, size)
        yield
    before = clock()
    backend.run(artifact_id, test.inputs if test is not None else blank_inputs(artifact.manifest))
    item_s = clock() - before
    worst = max(deviations, key=lambda deviation: deviation.max_abs, default=None)
    _log.info(
        "model is warm",
        extra={
            "model": artifact_id,
            "device": backend.device.name,
            "precision": precision,
            "max_batch": fitting,
            "self_test": str(worst) if worst is not None else "none",
            "item_s": round(item_s, 4),
        },
    )
    return Warm(precision, test, worst, fitting, item_s)


def prove(backend: Backend, artifact_id: str, test: SelfTest, precision: str, size: int = 1) -> Deviation:
    """Run the self-test as a batch of `size` equal items and insist on the tolerance for every one.

    Raises:
        BackendFault: The device failed on it.
        SelfTestFailedError: An answer is off.
    """
    outputs = backend.run(artifact_id, repeat(test.inputs, size))
    found = [
        test.compare({name: array[row : row + 1] for name, array in outputs.items()}, precision) for row in range(size)
    ]
    for row, deviation in enumerate(found):
        if not deviation.passed:
            raise SelfTestFailedError(
                f"self-test of {artifact_id} at {precision} on {backend.device.name}: expected the artifact's own "
                f"answer, found a deviation of {deviation} in row {row} of a batch of {size}"
            )
    return max(found, key=lambda deviation: deviation.max_abs)


def repeat(inputs: Arrays, size: int) -> Arrays:
    """A batch of `size` copies of one item; `inputs` have a batch axis of one."""
    return {name: np.repeat(array, size, axis=0) for name, array in inputs.items()}


def blank_inputs(manifest: Manifest) -> Arrays:
    """Zeros of the shape of every input, batch axis of one; free axes other than the batch are one too."""
    return {
        spec.name: np.zeros((1, *(axis if isinstance(axis, int) else 1 for axis in spec.shape[1:])), spec.dtype)
        for spec in manifest.inputs
    }


def _single(artifact: Artifact) -> SelfTest | None:
    # An artifact without files has no network to test: the fake backend's own.
    if not artifact.manifest.files:
        return None
    test = load_self_test(artifact)
    # A graph of fixed batch carries a full one; its rows are tested one by one like those of any other.
    return replace(
        test,
        inputs={name: array[:1] for name, array in test.inputs.items()},
        expected={name: array[:1] for name, array in test.expected.items()},
    )

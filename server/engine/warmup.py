"""What a device does with an artifact before it is ready: run every batch size, and give the promised answer at each.

The first run of a shape is slow (memory is reserved, kernels are chosen, graphs are captured): it must not happen to a
client. The self-test catches what only this device gets wrong, a bad plan, driver or card, and a graph that mixes the
images of a batch.

It is done in slices, one for loading and one for each batch size, so that a device that serves already can run a batch
between any two of them.

Rules of this module: everything runs in the device thread.
"""

import logging
import math
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from artifact import Artifact, Deviation, Manifest, SelfTest, load_self_test
from server.backends.base import Arrays, Backend, OutOfMemoryFault

_log = logging.getLogger(__name__)
_TRIES = 2  # of a size that is timed, after its first run


class SelfTestFailedError(Exception):
    """A device gives other answers than the artifact promises; the message has the figures."""


@dataclass(frozen=True, slots=True)
class Warm:
    """An artifact that a device has proved it can run.

    Attributes:
        precision: It runs at, as the backend says.
        self_test: To be run again after a fault; None for an artifact without files.
        deviation: The worst of the self-test over all batch sizes.
        max_batch: Largest batch that fits into the device's memory, and keeps within the time that one may take.
        item_s: Seconds of a warm batch of one.
        batch_s: Seconds of a warm batch, by its size, of those that fit; empty where there is no such time.
    """

    precision: str
    self_test: SelfTest | None
    deviation: Deviation | None
    max_batch: int
    item_s: float
    batch_s: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Search:
    """Which batches are tried, and which of them are good enough to be served.

    Attributes:
        max_batch: Largest that is tried.
        latency_s: Longest that a batch may take; None is no limit, and nothing but a batch of one is timed.
        clock: Monotonic seconds.
    """

    max_batch: int
    latency_s: float | None = None
    clock: Callable[[], float] = time.monotonic

    def largest(self, fitting: int, batch_s: Mapping[int, float]) -> int:
        """Of the sizes that fit, the largest that keeps within the time; a single image always runs.

        What disturbs a measurement makes it longer, never shorter: a size that was in time is, whatever smaller ones
        have shown.
        """
        limit_s = math.inf if self.latency_s is None else self.latency_s
        return max((size for size, seconds in batch_s.items() if seconds <= limit_s), default=1) if batch_s else fitting


def warm_up(backend: Backend, artifact_id: str, artifact: Artifact, search: Search) -> Generator[None, None, Warm]:
    """Load an artifact, run every batch size up to the limit, and test every answer; a slice of it at each `next`.

    Which sizes fit is found by running them in what memory the device has free.

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
    batch_s: dict[int, float] = {}
    inputs = test.inputs if test is not None else blank_inputs(artifact.manifest)
    # The largest first: an arena that has grown to it serves the smaller ones from what it has.
    for size in range(search.max_batch, 0, -1):
        try:
            if test is None:
                backend.run(artifact_id, repeat(inputs, size))
            else:
                deviations.append(prove(backend, artifact_id, test, precision, size))
            if search.latency_s is not None:
                batch_s[size] = _seconds(backend, artifact_id, repeat(inputs, size), search.clock, _TRIES)
        except OutOfMemoryFault:
            if size == 1:
                raise
        else:
            fitting = max(fitting, size)
        yield
    item_s = batch_s[1] if batch_s else _seconds(backend, artifact_id, inputs, search.clock)
    worst = max(deviations, key=lambda deviation: deviation.max_abs, default=None)
    warm = Warm(precision, test, worst, search.largest(fitting, batch_s), item_s, batch_s)
    _tell(artifact_id, backend.device.name, warm)
    return warm


def _seconds(backend: Backend, artifact_id: str, arrays: Arrays, clock: Callable[[], float], tries: int = 1) -> float:
    """The shortest run of a batch that has run before."""
    found = math.inf
    for _ in range(tries):
        before = clock()
        backend.run(artifact_id, arrays)
        found = min(found, clock() - before)
    return found


def _tell(artifact_id: str, device: str, warm: Warm) -> None:
    fields = {
        "model": artifact_id,
        "device": device,
        "precision": warm.precision,
        "max_batch": warm.max_batch,
        "self_test": str(warm.deviation) if warm.deviation is not None else "none",
        "item_s": round(warm.item_s, 4),
    }
    if warm.batch_s:
        fields["batch_s"] = " ".join(f"{size}:{seconds:.4f}" for size, seconds in sorted(warm.batch_s.items()))
    _log.info("model is warm", extra=fields)


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

"""What goes into the engine, what comes back, and how it is limited."""

import asyncio
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from server.engine.batching import Priority

EVICTED = "evicted"
"""Message of the cancellation of whoever is put out, not by its client but because the process must end."""


def cancelled_for(cancellation: asyncio.CancelledError) -> str:
    """Under which reason what was cancelled is counted."""
    return EVICTED if EVICTED in cancellation.args else "cancelled"


@dataclass(frozen=True, slots=True)
class Item:
    """One network input.

    Attributes:
        artifact_id: What it is to be run on; as given to `Engine.start` or `Engine.load`.
        arrays: By input name, without the batch axis; dtype and shape as the manifest says. Not to be changed until
            the answer is there.
        bucket: Items of one artifact whose arrays have equal shapes have equal buckets; only they share a batch.
        priority: Which of the waiting go first.
        deadline: Monotonic seconds, absolute; None where there is none.
        request_id: Names it in the log when its batch fails.
        part: One of several items of a request, which whoever submits them counts as a whole when it is dropped.
    """

    artifact_id: str
    arrays: Mapping[str, NDArray[np.generic]] = field(repr=False)
    bucket: Hashable = None
    priority: Priority = Priority.NORMAL
    deadline: float | None = None
    request_id: str = ""
    part: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """The answer to one item.

    Attributes:
        arrays: By output name, without the batch axis.
        queue_s: Seconds from `submit` until the device took it.
        inference_s: Seconds its batch took on the device.
        batch_size: Items in that batch.
    """

    arrays: Mapping[str, NDArray[np.generic]] = field(repr=False)
    queue_s: float
    inference_s: float
    batch_size: int


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """How the engine may use its devices.

    Attributes:
        max_batch: Largest batch; None leaves it to the device (2 on a CPU). Never above an artifact's own limit.
        ageing_s: Waiting this long lifts an item by one priority.
        oom_recovery_s: This long after running out of memory the halved batch limit is doubled again.
        hang_s: A batch that takes longer means that the device hangs, and the process is given up.
        batch_latency_s: Longest that a batch may take on the device; every size is timed while warming up, and larger
            ones are not formed. None times nothing.
        load_s: A graph that takes longer to load, with what the device has before it, means the same. Runtimes that
            compile a graph for a device take minutes.
    """

    max_batch: int | None = None
    ageing_s: float = 30.0
    oom_recovery_s: float = 60.0
    hang_s: float = 300.0
    load_s: float = 1800.0
    batch_latency_s: float | None = None

    def __post_init__(self) -> None:
        if self.max_batch is not None and self.max_batch < 1:
            raise ValueError(f"max_batch: expected 1 or more, found {self.max_batch}")
        for name in ("ageing_s", "oom_recovery_s", "hang_s", "load_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: expected a positive number of seconds, found {getattr(self, name)}")
        if self.batch_latency_s is not None and not self.batch_latency_s > 0:
            raise ValueError(f"batch_latency_s: expected a positive number of seconds, found {self.batch_latency_s}")

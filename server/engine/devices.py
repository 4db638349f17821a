"""The devices as the dispatcher sees them: what each holds, what it can, and whether it still lives.

Rules of this module: as of `server.engine.dispatch`, everything runs in the event loop.
"""

import asyncio
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from server.backends.base import Backend, BackendFault, Device
from server.engine.batching import BatchLimit
from server.engine.flights import Flight
from server.engine.warmup import Warm
from server.engine.worker import DeviceThread

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class Worker:
    """A device, or one of the threads that share one.

    Attributes:
        name: Of the device; threads that share one are told apart by a number: `torch-cuda:0`, `torch-cuda:0#1`.
        flights: Posted to it and not back yet; the first is running or about to.
        warm: What it proved it can run, by artifact id.
        limits: Largest batch by group; memory runs short on one device, not on all.
        loading: Graphs being loaded: the device is busy, not hung.
        finishes: Whether its backend also does what comes after the network.
        errands: Finishings that it has been sent, and not done yet.
        lost: Why it serves no more, for good; None while it does.
    """

    thread: DeviceThread
    device: Device
    name: str
    flights: list[Flight] = field(default_factory=list)
    warm: dict[str, Warm] = field(default_factory=dict)
    limits: dict[Hashable, BatchLimit] = field(default_factory=dict)
    loading: int = 0
    finishes: bool = False
    errands: int = 0
    watchdog: asyncio.TimerHandle | None = None
    lost: str | None = None
    _leaves: asyncio.Event = field(default_factory=asyncio.Event)

    def lose(self, reason: str) -> None:
        """It serves no more; whoever waits for something that it does is told."""
        if self.lost is None:
            self.lost = reason
            self._leaves.set()

    async def do(self, work: Callable[[Backend], T]) -> T:
        """Let the device do something between its batches.

        Raises:
            BackendFault: It is lost meanwhile; else what `work` raises.
        """
        job = asyncio.wrap_future(self.thread.post(work))
        leaves = asyncio.ensure_future(self._leaves.wait())
        try:
            await asyncio.wait((job, leaves), return_when=asyncio.FIRST_COMPLETED)
            if not job.done():
                raise BackendFault(f"{self.name} is lost: {self.lost}", fatal=True)
            return job.result()
        finally:
            leaves.cancel()
            job.cancel()

    def limit(self, group: Hashable, most: int, recovery_s: float) -> BatchLimit:
        """Of the batches of a group: what the device has warmed up, or else `most`, less what memory has taught."""
        found = self.limits.get(group)
        if found is None:
            warm = self.warm.get(artifact_of(group))
            found = BatchLimit(warm.max_batch if warm is not None else most, recovery_s)
            self.limits[group] = found
        return found

    def size(self, artifact_id: str, most: int, now: float) -> int:
        """Of the largest batch of an artifact, as memory allows it now."""
        limits = [limit.current(now) for group, limit in self.limits.items() if artifact_of(group) == artifact_id]
        warm = self.warm.get(artifact_id)
        return min(limits, default=warm.max_batch if warm is not None else most)

    def forget_limits(self, artifact_id: str) -> None:
        """Of an artifact that is exchanged or gone."""
        self.limits = {group: limit for group, limit in self.limits.items() if artifact_of(group) != artifact_id}


def artifact_of(group: Hashable) -> str:
    """The artifact of a batch's group."""
    return str(group[0]) if isinstance(group, tuple) else ""


def names_of(devices: Sequence[Device]) -> list[str]:
    """A name for each thread, in their order: the device's, with a number from the second thread of a device on."""
    before = [sum(device.name == other.name for other in devices[:at]) for at, device in enumerate(devices)]
    return [f"{device.name}#{count}" if count else device.name for device, count in zip(devices, before, strict=True)]


def living(workers: Iterable[Worker]) -> list[Worker]:
    """Those that serve."""
    return [worker for worker in workers if worker.lost is None]


def sharing(workers: Iterable[Worker], one: Worker) -> list[Worker]:
    """The threads of the same device, itself included: what ends one's context ends the others'."""
    return [worker for worker in workers if worker.device.name == one.device.name]


def finisher(workers: Iterable[Worker]) -> Worker | None:
    """Who is to finish a matte: the thread with the least to do of those that can; None when there is none."""
    able = [worker for worker in living(workers) if worker.finishes and not worker.loading]
    return min(able, key=lambda worker: len(worker.flights) + worker.errands, default=None)


def idlest(workers: Sequence[Worker]) -> tuple[Worker, int] | None:
    """Who is to have the next batch, and how many devices are as idle as its own; None when all are full.

    It is the thread with the least to do, on the device with the least. One that loads a graph, which may take minutes,
    only where no other has room.
    """
    ready = [worker for worker in living(workers) if len(worker.flights) <= worker.device.look_ahead]

    def load(worker: Worker) -> tuple[bool, int, int]:
        return worker.loading > 0, len(worker.flights), sum(len(each.flights) for each in sharing(workers, worker))

    if not ready:
        return None
    first = min(ready, key=load)
    return first, len({worker.device.name for worker in ready if load(worker) == load(first)})

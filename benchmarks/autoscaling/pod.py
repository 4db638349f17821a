"""One pod: a door, threads of the host that decode and encode, and a device that takes batches.

The model of `server.pipeline` and `server.engine`, with their rules: late-bound batches without a timer, one of them at
a time; at most `max_requests` inside; `birefnet_pressure` and `birefnet_busy_share` as `server.observability.station`
has them.
"""

import heapq
import random
from collections import deque
from dataclasses import dataclass, field, replace

# From benchmarks/results/serving/epyc-2-cores.json, as commit 05c6538 has it: medians of one client, throughput of 16.
# They stand here because a newer measurement there would otherwise change every figure of the simulation unseen.
_MEASURED = {"decode_s": 0.0117, "infer_s": 0.07605, "encode_s": 0.01085, "images_per_s": 11.924, "cold_start_s": 1.452}
_WEIGHT = 0.1  # of the newest observation in the mean seconds per item, as in the server
_SPREAD = 0.25  # of service times: standard deviation ÷ mean


@dataclass(frozen=True, slots=True)
class Profile:
    """How fast a pod is.

    Attributes:
        name: As the tables say it.
        decode_s: Seconds of one thread.
        encode_s: Seconds of one thread.
        batch_s: Seconds of a batch of one, and of every further item in it.
        max_batch: Items that run together.
        workers: Threads of the host.
        shared: The device is the host's own processor.
        start_s: From the wish for a pod until it is ready.
        source: Where the figures are from.
        max_requests: Inside at once; more are refused.
    """

    name: str
    decode_s: float
    encode_s: float
    batch_s: tuple[float, float]
    max_batch: int
    workers: int
    shared: bool
    start_s: float
    source: str
    max_requests: int = 64

    @property
    def per_s(self) -> float:
        """Requests per second that a full pod answers."""
        first, further = self.batch_s
        device_s = (first + further * (self.max_batch - 1)) / self.max_batch
        return 1 / max(device_s, (self.decode_s + self.encode_s) / self.workers)


def profiles() -> tuple[Profile, ...]:
    """The pods that are compared. What was not measured here is called assumed in `source`."""
    return (_on_cpu(), *_on_gpu())


def _on_cpu() -> Profile:
    infer_s = _MEASURED["infer_s"]
    two_s = 2 / _MEASURED["images_per_s"]  # of a batch of two under full load, host work included
    return Profile(
        name="cpu",
        decode_s=_MEASURED["decode_s"],
        encode_s=_MEASURED["encode_s"],
        batch_s=(infer_s, two_s - infer_s),
        max_batch=2,
        workers=2,
        shared=True,
        start_s=20.0 + _MEASURED["cold_start_s"],
        source="measured: benchmarks/results/serving/epyc-2-cores.json at 05c6538; assumed: 20 s to schedule and pull",
    )


def _on_gpu() -> tuple[Profile, ...]:
    usual = Profile(
        name="gpu",
        decode_s=_MEASURED["decode_s"],
        encode_s=_MEASURED["encode_s"],
        batch_s=(0.320, 0.240),
        max_batch=8,
        workers=4,
        shared=False,
        start_s=120.0,
        source="measured: decode, encode (serving/epyc-2-cores.json); assumed: batches of 320 ms + 240 ms for each "
        "further image, 120 s to start, 4 threads",
    )
    fast = replace(usual, name="gpu-fast", batch_s=(0.080, 0.060), source="as gpu; assumed: a card four times as fast")
    return usual, fast


@dataclass(slots=True, eq=False)
class Pod:
    """One replica. Times are seconds of the simulation.

    Attributes:
        created: When it was wished for: from then on it is paid.
        ready: When it takes requests.
        leaving: When it was told to go; None while it stays.
        gone: When it ended.
    """

    profile: Profile
    created: float
    ready: float
    leaving: float | None = None
    gone: float | None = None
    inside: int = 0
    queue: deque[float] = field(default_factory=deque)
    running: list[float] = field(default_factory=list)
    device_busy_s: float = 0.0
    host_busy_s: float = 0.0
    host_tasks: int = 0
    samples: deque[tuple[float, float, float]] = field(default_factory=deque)
    _free: list[float] = field(default_factory=list)
    _began: float = 0.0
    _item_s: float = 0.0
    _task_s: float = 0.0

    def __post_init__(self) -> None:
        first, further = self.profile.batch_s
        self._item_s = (first + further * (self.profile.max_batch - 1)) / self.profile.max_batch  # warm-up measures it
        self._task_s = (self.profile.decode_s + self.profile.encode_s) / 2
        self._free = [0.0] * self.profile.workers

    def host_work(self, now: float, mean_s: float, draw: random.Random) -> float:
        """Put a task in the line of the host's threads; when it is done. Tasks come in the order of time."""
        seconds = mean_s * max(0.2, draw.gauss(1.0, _SPREAD))
        begins = max(now, heapq.heappop(self._free))
        heapq.heappush(self._free, begins + seconds)
        self.host_tasks += 1
        self._task_s += _WEIGHT * (seconds - self._task_s)
        return begins + seconds

    def host_done(self, mean_s: float) -> None:
        """A task of the host has ended."""
        self.host_tasks -= 1
        self.host_busy_s += mean_s

    def begin_batch(self, now: float, draw: random.Random) -> float:
        """Take a batch from the queue; when it is done."""
        self.running = [self.queue.popleft() for _ in range(min(len(self.queue), self.profile.max_batch))]
        first, further = self.profile.batch_s
        seconds = (first + further * (len(self.running) - 1)) * max(0.5, draw.gauss(1.0, _SPREAD / 5))
        self._began = now
        return now + seconds

    def end_batch(self, now: float) -> list[float]:
        """The batch is done: its items."""
        done, self.running = self.running, []
        self.device_busy_s += now - self._began
        self._item_s += _WEIGHT * ((now - self._began) / len(done) - self._item_s)
        return done

    @property
    def pressure_s(self) -> float:
        """`birefnet_pressure`: seconds of work inside ÷ capacity, the larger of host and device."""
        device = (len(self.queue) + len(self.running)) * self._item_s
        return max(device, self.host_tasks * self._task_s / self.profile.workers)

    def busy(self, now: float) -> tuple[float, float]:
        """Busy seconds of device and host (of all its threads) so far."""
        return self.device_busy_s + (now - self._began if self.running else 0.0), self.host_busy_s

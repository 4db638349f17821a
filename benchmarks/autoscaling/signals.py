"""What controllers see: metrics as they were scraped, late, and the replicas that these ask for."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.autoscaling.hpa import per_pod, total
from benchmarks.autoscaling.pod import Pod

SCRAPE_S = 15.0
_WINDOW_S = 30.0  # of busy shares: that of `birefnet_busy_share`; DCGM's and the metrics server's are of its order


@dataclass(frozen=True, slots=True)
class Sample:
    """One pod at one scrape."""

    cpu: float
    device: float
    queue: float
    pressure_s: float


@dataclass(frozen=True, slots=True)
class View:
    """The last scrape of all pods that were ready then, and how many replicas there are.

    Attributes:
        samples: None while Prometheus is down.
        starting: Pods that are not ready.
        current: Replicas, those included.
    """

    samples: tuple[Sample, ...] | None
    starting: int
    current: int


def scrape(pod: Pod, now: float) -> Sample:
    """Take one sample, and remember what the busy shares of the next ones need."""
    device, host = pod.busy(now)
    pod.samples.append((now, device, host))
    while len(pod.samples) > 1 and now - pod.samples[1][0] >= _WINDOW_S:
        pod.samples.popleft()
    then, device_then, host_then = pod.samples[0]
    elapsed = max(now - then, 1e-9)
    device_share, host_share = (device - device_then) / elapsed, (host - host_then) / elapsed / pod.profile.workers
    cpu = min(1.0, host_share + (device_share if pod.profile.shared else 0.0))
    return Sample(cpu, min(1.0, device_share), float(len(pod.queue)), pod.pressure_s)


@dataclass(frozen=True, slots=True)
class Signal:
    """One way to scale: the replicas that each of its metrics asks for.

    Attributes:
        name: As the tables say it.
        target: Of its main metric, in `unit`.
        unit: Of the target.
        wanted: The metrics' wishes; None for one that cannot be read.
    """

    name: str
    target: float
    unit: str
    wanted: Callable[[View], Sequence[int | None]]


def _of_pods(read: Callable[[Sample], float], target: float) -> Callable[[View], int | None]:
    def wanted(view: View) -> int | None:
        if view.samples is None:
            return None
        return per_pod([read(sample) for sample in view.samples], view.starting, target, view.current)

    return wanted


def cpu(target: float) -> Signal:
    """HorizontalPodAutoscaler on CPU utilisation (type Resource): the common default."""
    one = _of_pods(lambda sample: sample.cpu, target)

    # The metrics server is not Prometheus: it goes on when that is down. Its outage is not simulated.
    return Signal("CPU %", target, "share", lambda view: (one(view),))


def device(target: float) -> Signal:
    """HorizontalPodAutoscaler on GPU utilisation, as DCGM's duty cycle has it."""
    one = _of_pods(lambda sample: sample.device, target)
    return Signal("GPU %", target, "share", lambda view: (one(view),))


def _of_all(read: Callable[[Sample], float], target: float) -> Callable[[View], int | None]:
    def wanted(view: View) -> int | None:
        if view.samples is None:
            return None
        return total(sum(map(read, view.samples)), target, view.current)

    return wanted


def queue(target: float) -> Signal:
    """KEDA on `sum(birefnet_queue_depth)`."""
    one = _of_all(lambda sample: sample.queue, target)
    return Signal("queue", target, "items", lambda view: (one(view),))


def pressure(target: float) -> Signal:
    """KEDA on `sum(birefnet_pressure)`."""
    one = _of_all(lambda sample: sample.pressure_s, target)
    return Signal("pressure", target, "s", lambda view: (one(view),))


def pressure_and_busy(target: float, busy: float = 0.7) -> Signal:
    """KEDA with two triggers: pressure, and the busier of host and device; the one that wants more pods counts."""
    one = _of_all(lambda sample: sample.pressure_s, target)
    other = _of_all(lambda sample: max(sample.device, sample.cpu), busy)
    return Signal("pressure + busy", target, "s", lambda view: (one(view), other(view)))


SWEEP: tuple[Signal, ...] = (
    *map(cpu, (0.5, 0.7)),
    *map(device, (0.5, 0.7)),
    *map(queue, (1, 4, 16)),
    *map(pressure, (0.25, 1.0)),
    *map(pressure_and_busy, (0.25, 0.5, 1.0)),
)

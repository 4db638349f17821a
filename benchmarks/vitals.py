"""What a live server shows of itself: its metrics, and its memory as the kernel counts it."""

import math
import threading
import time
import urllib.request
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import fmean

from prometheus_client.parser import text_string_to_metric_families

from tests.support.processes import LiveServer

_SAMPLE_S = 0.25
_KIB = 1024
_NICE = 16  # of the fields of `/proc/PID/stat` behind the name


def metrics(live: LiveServer) -> dict[str, float]:
    """Every series without labels by its name, every other as `name{label=value,…}`."""
    with urllib.request.urlopen(f"{live.http}/metrics", timeout=30) as response:  # noqa: S310 - our own server
        text = response.read().decode()
    found = {}
    for family in text_string_to_metric_families(text):
        for entry in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(entry.labels.items()))
            found[f"{entry.name}{{{labels}}}" if labels else entry.name] = entry.value
    return found


def refusals(found: Mapping[str, float], before: Mapping[str, float]) -> dict[str, int]:
    """Refusals between two readings, by reason; reasons without any are left out."""
    prefix = "birefnet_refusals_total{reason="
    counts = {
        name.removeprefix(prefix).rstrip("}"): round(value - before.get(name, 0.0))
        for name, value in found.items()
        if name.startswith(prefix)
    }
    return {reason: count for reason, count in counts.items() if count}


def quantile_of(found: Mapping[str, float], before: Mapping[str, float], series: str, share: float) -> float:
    """A quantile of a histogram between two readings, in its unit, as Prometheus interpolates it; 0 without any.

    Args:
        found: The later reading.
        before: The earlier one.
        series: Name and labels, which stand after `le` in `metrics`: `name_bucket{le=%s,label=value}`.
        share: Which quantile, 0 to 1.
    """
    prefix, _, suffix = series.partition("%s")
    counts = {
        float(name.removeprefix(prefix).removesuffix(suffix)): value - before.get(name, 0.0)
        for name, value in found.items()
        if name.startswith(prefix) and name.endswith(suffix)
    }
    edges = sorted(counts)
    if not edges or not counts[edges[-1]]:
        return 0.0
    wanted, low, below = share * counts[edges[-1]], 0.0, 0.0
    for edge in edges:
        if counts[edge] >= wanted:
            return low if math.isinf(edge) else low + (edge - low) * (wanted - below) / (counts[edge] - below)
        low, below = edge, counts[edge]
    raise AssertionError("the last bucket of a histogram holds all. This is a bug.")


def resident_mib(pid: int) -> float:
    """`VmRSS` of a process."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) / _KIB for line in lines if line.startswith("VmRSS"))


def processor_s(pid: int) -> float:
    """Processor time of a process so far, of all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100  # ticks of Linux are hundredths


def thread_times(pid: int) -> dict[str, float]:
    """Processor seconds of a process so far, by what its threads are for; of those that live.

    Threads have no names that the kernel knows. The event loop runs in the first one, those that compute give way to
    the others (`compute_niceness`), and what is left are that for headers and gRPC's own.
    """
    found: defaultdict[str, float] = defaultdict(float)
    for task in Path(f"/proc/{pid}/task").iterdir():
        rest = (task / "stat").read_text(encoding="ascii").rpartition(")")[2]
        if int(task.name) == pid:
            group = "event loop"
        elif int(rest.split()[_NICE]) > 0:
            group = "pixels and device"
        else:
            group = "headers and gRPC"
        found[group] += int((task / "schedstat").read_text(encoding="ascii").split()[0]) / 1e9
    return dict(found)


def children(pid: int) -> list[int]:
    """Processes that a process has started and that live."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has just ended
            if int(path.read_text(encoding="ascii").rpartition(")")[2].split()[1]) == pid:
                found.append(int(path.parent.name))
    return sorted(found)


class Memory:
    """Resident memory, sampled while something goes on.

    Attributes:
        samples: (seconds since the start, MiB).
    """

    def __init__(self) -> None:
        self.samples: list[tuple[float, float]] = []

    @property
    def peak_mib(self) -> float:
        """The largest sample."""
        return max(mib for _, mib in self.samples)

    def slope_mib_per_min(self, after_s: float) -> float:
        """Least-squares slope of the samples from some time on."""
        late = [(at / 60, mib) for at, mib in self.samples if at >= after_s]
        middle, mean = fmean(at for at, _ in late), fmean(mib for _, mib in late)
        spread = sum((at - middle) ** 2 for at, _ in late)
        return sum((at - middle) * (mib - mean) for at, mib in late) / spread


@contextmanager
def watched_memory(pid: int) -> Iterator[Memory]:
    """Sample the memory of a process four times a second while the context is open."""
    memory, over, started = Memory(), threading.Event(), time.monotonic()

    def sample() -> None:
        while not over.wait(_SAMPLE_S):
            memory.samples.append((time.monotonic() - started, resident_mib(pid)))

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield memory
    finally:
        over.set()
        thread.join()

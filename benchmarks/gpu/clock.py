"""Timing on a device: events on a GPU, the processor's clock on a CPU."""

import time
from collections.abc import Callable, Sequence
from statistics import median

import torch

from benchmarks.load import quantile


def summarised(each_ms: Sequence[float]) -> dict[str, float]:
    """`median_ms`, `p95_ms` and the number of `runs`."""
    return {"median_ms": round(median(each_ms), 4), "p95_ms": round(quantile(each_ms, 0.95), 4), "runs": len(each_ms)}


class Clock:
    """Times work on one device, after warming up.

    Attributes:
        runs: Timed runs, at most.
        seconds: After which no more are begun.
    """

    def __init__(self, device: torch.device, *, runs: int = 30, seconds: float = 4.0, warm_up: int = 3) -> None:
        self.device = device
        self.runs = runs
        self.seconds = seconds
        self._warm_up = warm_up

    def each_ms(self, work: Callable[[], object]) -> list[float]:
        """Milliseconds of every timed run, each waited for on its own."""
        for _ in range(self._warm_up):
            work()
        self._wait()
        found: list[float] = []
        began = time.perf_counter()
        while len(found) < self.runs and (not found or time.perf_counter() - began < self.seconds):
            found.append(self._one(work))
        return found

    def median_ms(self, work: Callable[[], object]) -> float:
        """The median of `each_ms`."""
        return median(self.each_ms(work))

    def summary(self, work: Callable[[], object]) -> dict[str, float]:
        """`summarised` of `each_ms`."""
        return summarised(self.each_ms(work))

    def _one(self, work: Callable[[], object]) -> float:
        if self.device.type != "cuda":
            began = time.perf_counter()
            work()
            return (time.perf_counter() - began) * 1000
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        work()
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end))

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

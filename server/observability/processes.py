"""What other processes of this server take, by the kernel's account; `process_…` is of the one that is asked."""

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

_USER, _SYSTEM, _PAGES = 11, 12, 21  # of the fields of `/proc/PID/stat` behind the name (proc(5))


class FrontEndProcesses(Collector):
    """Reads them at the moment of the scrape."""

    def __init__(self, pids: Callable[[], Mapping[int, int]]) -> None:
        """Of the processes that a call gives, by their numbers."""
        self._pids = pids

    def collect(self) -> Iterator[Metric]:
        spent = CounterMetricFamily("birefnet_frontend_cpu_seconds", "Of a front end.", labels=["frontend"])
        resident = GaugeMetricFamily("birefnet_frontend_resident_bytes", "Of a front end.", labels=["frontend"])
        for number, pid in sorted(self._pids().items()):
            try:
                fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
            except OSError:
                continue  # it has just ended
            ticks = int(fields[_USER]) + int(fields[_SYSTEM])
            spent.add_metric([str(number)], ticks / os.sysconf("SC_CLK_TCK"))
            resident.add_metric([str(number)], int(fields[_PAGES]) * os.sysconf("SC_PAGE_SIZE"))
        yield spent
        yield resident

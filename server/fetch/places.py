"""How many fetches run at once: in all, towards one host, and for one client.

A fetch that finds no place waits in a line of bounded length, within its own time limit. Whoever comes first goes
first, but nobody waits behind fetches that wait for another host.

Rules of this module: one event loop, no locks.
"""

import asyncio
import math
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from server.errors import OverloadedError
from server.observability.metrics import Metrics
from server.observability.station import Station


@dataclass(frozen=True, slots=True)
class PlaceLimits:
    """How many fetches there may be.

    Attributes:
        total: That run at once.
        per_host: Of these, towards one host.
        per_client: Of these, for one client.
        waiting: In line behind them.
    """

    total: int = 16
    per_host: int = 8
    per_client: int = 8
    waiting: int = 64


@dataclass(frozen=True, slots=True)
class Errand:
    """One fetch as the line sees it: where it goes, and for whom; an empty client is nobody in particular."""

    host: str
    client: str = ""


class Places:
    """The places, and the line before them."""

    def __init__(self, limits: PlaceLimits, metrics: Metrics) -> None:
        """All places are free.

        Args:
            limits: How many there are.
            metrics: Where refusals are counted.
        """
        self._limits = limits
        self._metrics = metrics
        self._station = Station(limits.total)
        self._running = 0
        self._hosts: Counter[str] = Counter()
        self._clients: Counter[str] = Counter()
        self._line: dict[asyncio.Future[None], Errand] = {}

    @property
    def running(self) -> int:
        """Fetches that have a place."""
        return self._running

    @property
    def waiting(self) -> int:
        """Fetches in line."""
        return len(self._line)

    @asynccontextmanager
    async def take(self, errand: Errand) -> AsyncIterator[None]:
        """Have a place while the context is open, waiting for one if need be.

        Raises:
            OverloadedError: The line is full; `retry_after_s` comes from the measured speed of fetches.
        """
        if self._fits(errand):  # whoever waits does not fit, or would not wait
            self._occupy(errand)
        else:
            await self._wait(errand)
        self._station.arrive()
        try:
            with self._station.work():
                yield
        finally:
            self._leave(errand)

    async def _wait(self, errand: Errand) -> None:
        if len(self._line) >= self._limits.waiting:
            self._metrics.refusals.labels("fetches").inc()
            detail = f"{self._running} images are being fetched and {len(self._line)} wait, and no more may"
            error = OverloadedError(detail, retry_after_s=max(1, math.ceil(self._seconds_ahead())))
            error.reason = "fetches"
            raise error
        place = asyncio.get_running_loop().create_future()
        self._line[place] = errand
        try:
            await place
        except asyncio.CancelledError:
            if self._line.pop(place, None) is None:  # it was given in the same turn
                self._leave(errand)
            raise

    def _occupy(self, errand: Errand) -> None:
        self._running += 1
        self._hosts[errand.host] += 1
        self._clients[errand.client] += 1

    def _leave(self, errand: Errand) -> None:
        self._running -= 1
        for counter, key in ((self._hosts, errand.host), (self._clients, errand.client)):
            counter[key] -= 1
            if not counter[key]:
                del counter[key]
        for place, waiting in tuple(self._line.items()):
            if not place.done() and self._fits(waiting):
                del self._line[place]
                self._occupy(waiting)
                place.set_result(None)

    def _seconds_ahead(self) -> float:
        return (self._station.item_s or 1.0) * (len(self._line) + 1) / self._limits.total

    def _fits(self, errand: Errand) -> bool:
        limits = self._limits
        return (
            self._running < limits.total
            and self._hosts[errand.host] < limits.per_host
            and (not errand.client or self._clients[errand.client] < limits.per_client)
        )

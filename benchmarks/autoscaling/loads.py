"""Loads: how many requests per second come, over time, and the instants of each, from a seed."""

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Load:
    """A rate over time, in units of what one pod answers per second, so that one load fits pods of every speed.

    Attributes:
        name: As the tables say it.
        duration_s: Length of the run, seconds.
        peak: Highest rate, in pods' worth.
        rate: Seconds since the start to the rate then.
    """

    name: str
    duration_s: float
    peak: float
    rate: Callable[[float], float]

    def arrivals(self, pod_per_s: float, seed: int) -> Iterator[float]:
        """Instants of a Poisson process of this rate, by thinning one of the highest rate (Lewis & Shedler 1979)."""
        draw = random.Random(seed)  # noqa: S311  reproducible, not secret
        now, highest = 0.0, self.peak * pod_per_s
        while True:
            now += draw.expovariate(highest)
            if now >= self.duration_s:
                return
            if draw.random() * self.peak <= self.rate(now):
                yield now


def _day(now: float) -> float:
    """One day in four hours: harder than a real one, and the same shape."""
    return 0.5 + 7.5 * (0.5 - 0.5 * math.cos(2 * math.pi * now / 14_400)) ** 1.5


def _burst(now: float) -> float:
    """A minute of eight pods' worth every ten minutes, above one pod's worth."""
    return 8.0 if now % 600 >= 300 and now % 600 < 360 else 1.0


def _step(now: float) -> float:
    return 8.0 if 600 <= now < 2400 else 1.0


def _sparse(now: float) -> float:
    """Half a minute of half a pod's worth every half hour: what scaling to zero is for."""
    return 0.5 if now % 1800 >= 900 and now % 1800 < 930 else 0.0


DAY = Load("day", 14_400.0, 8.0, _day)
BURST = Load("burst", 3600.0, 8.0, _burst)
STEP = Load("step", 3600.0, 8.0, _step)
SPARSE = Load("sparse", 7200.0, 0.5, _sparse)

"""What every scenario of `benchmarks.faults` is made of: how long it takes, what it promises, what it found."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from PIL import Image

from benchmarks.load import quantile
from benchmarks.traffic import Exchange, Plan, run_plan
from benchmarks.vitals import metrics
from tests.support.images import photographs
from tests.support.processes import LiveServer

CLIENTS = 16  # of the closed loop
MIXED = {"grpc_share": 0.3, "abandon_share": 0.05, "malformed_share": 0.02}
_INFERENCE = ("birefnet_inference_seconds_sum", "birefnet_inference_seconds_count")


@dataclass(frozen=True, slots=True)
class Scale:
    """How long and how often.

    Attributes:
        unloaded: Seconds of one client at a time.
        peak: Seconds of one round of the closed loop.
        overload: Seconds of one round at three times the peak.
        patience: Longest Retry-After, in seconds, after which a client comes back.
        rounds: Most rounds of each; fewer where the last three agree.
        soak: Seconds of the soak.
        drains: Repetitions of the drain.
        accepted: Requests that each of them takes in.
        abandoned: Repetitions of the clients that leave.
        side: Of the images that are sent, pixels.
        heavy_side: Of those that take long to encode.
    """

    unloaded: float = 15.0
    peak: float = 8.0
    overload: float = 20.0
    patience: float = 300.0
    rounds: int = 4
    soak: float = 300.0
    drains: int = 50
    accepted: int = 400
    abandoned: int = 5
    side: int = 1024
    heavy_side: int = 1024


QUICK = Scale(
    unloaded=1.0,
    peak=1.5,
    overload=2.0,
    patience=4.0,
    rounds=1,
    soak=6.0,
    drains=1,
    accepted=40,
    abandoned=1,
    side=128,
    heavy_side=384,
)


@dataclass(frozen=True, slots=True)
class Criterion:
    """One promise and what was found of it.

    Attributes:
        promise: In words.
        limit: What was promised.
        found: What was measured, in the same unit.
        unit: Of both.
        passed: Whether it was kept.
    """

    promise: str
    limit: float
    found: float
    unit: str
    passed: bool


@dataclass(frozen=True, slots=True)
class Report:
    """What a scenario found.

    Attributes:
        name: Of the scenario.
        server: Flags of the server.
        criteria: Promises and figures.
        figures: Everything else that was measured.
    """

    name: str
    server: Sequence[str]
    criteria: Sequence[Criterion]
    figures: dict[str, Any]

    @property
    def passed(self) -> bool:
        """Whether every promise was kept."""
        return all(criterion.passed for criterion in self.criteria)

    def as_json(self) -> dict[str, Any]:
        """For the result."""
        return {**asdict(self), "passed": self.passed}


def at_most(promise: str, limit: float, found: float, unit: str) -> Criterion:
    """A promise that is kept when the figure is not above its limit."""
    return Criterion(promise, round(limit, 4), round(found, 4), unit, found <= limit)


def at_least(promise: str, limit: float, found: float, unit: str) -> Criterion:
    """A promise that is kept when the figure is not below its limit."""
    return Criterion(promise, round(limit, 4), round(found, 4), unit, found >= limit)


def write_image(folder: Path, side: int) -> str:
    """A photograph as a JPEG file of a size; its path."""
    photograph = Image.fromarray(photographs()["astronaut"]).resize((side, side), Image.Resampling.LANCZOS)
    path = folder / f"{side}.jpg"
    photograph.save(path, "JPEG", quality=90)
    return str(path)


def plan_for(live: LiveServer, image: str, **fields: Any) -> Plan:  # noqa: ANN401 - the fields of a plan
    """A plan against a live server."""
    return Plan(int(live.http.rsplit(":", 1)[1]), int(live.grpc.rsplit(":", 1)[1]), image, **fields)


@dataclass(frozen=True, slots=True)
class Speed:
    """How fast a server is.

    Attributes:
        alone_s: Latencies of one client at a time.
        peaks: Answers per second of the closed loop, round by round.
        batch_s: Mean time of a batch at that peak.
    """

    alone_s: Sequence[float]
    peaks: Sequence[float]
    batch_s: float

    @property
    def alone_p99_s(self) -> float:
        """Of the latencies."""
        return quantile(self.alone_s, 0.99)

    @property
    def peak(self) -> float:
        """The median round."""
        return median(self.peaks)


def measure_speed(live: LiveServer, image: str, scale: Scale) -> Speed:
    """One client at a time, then the closed-loop peak until it is stable."""
    run_plan(plan_for(live, image, seconds=min(2.0, scale.unloaded), seed=98))  # not counted
    calm = run_plan(plan_for(live, image, seconds=scale.unloaded, seed=99))
    peaks: list[float] = []
    before = metrics(live)
    while len(peaks) < scale.rounds and not stable(peaks):
        found = run_plan(plan_for(live, image, clients=CLIENTS, seconds=scale.peak, seed=80 + len(peaks)))
        peaks.append(len(answered(found.exchanges)) / found.wall_s)
    after = metrics(live)
    took, batches = (after[name] - before[name] for name in _INFERENCE)
    return Speed([each.latency_s for each in answered(calm.exchanges)], peaks, took / batches)


def answered(exchanges: Iterable[Exchange]) -> list[Exchange]:
    """Those that were answered with an image."""
    return [each for each in exchanges if each.outcome == "ok"]


def stable(values: Sequence[float], within: float = 0.05) -> bool:
    """Whether the last three rounds agree."""
    last = values[-3:]
    return len(last) == 3 and max(last) - min(last) <= within * median(last)


def spread(values: Sequence[float]) -> dict[str, float]:
    """Of the rounds of a figure."""
    return {
        "rounds": len(values),
        "median": round(median(values), 3),
        "min": round(min(values), 3),
        "max": round(max(values), 3),
    }

"""The simulation: requests, pods and a controller on one clock."""

import heapq
import itertools
import random
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from benchmarks.autoscaling.hpa import SYNC_S, Behaviour, Hpa, KedaOptions
from benchmarks.autoscaling.loads import Load
from benchmarks.autoscaling.pod import Pod, Profile
from benchmarks.autoscaling.signals import SCRAPE_S, Sample, Signal, View, scrape
from benchmarks.load import quantile

DRAIN_DELAY_S = 10.0  # `drain_delay_s` of the manifests
DRAIN_TIMEOUT_S = 60.0  # `drain_timeout_s`
_NOTICED_S = 2.0  # until nobody sends to a pod that leaves; it still takes what comes


@dataclass(frozen=True, slots=True)
class Setup:
    """Everything that one run depends on.

    Attributes:
        outage: (from, until) seconds in which Prometheus is down; None for never.
    """

    profile: Profile
    load: Load
    signal: Signal
    behaviour: Behaviour = Behaviour()  # noqa: RUF009  frozen
    keda: KedaOptions | None = None
    outage: tuple[float, float] | None = None
    seed: int = 1


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of it.

    Attributes:
        offered: Requests that came.
        refused: Answered with 429 by a pod that was full.
        unserved: There was no pod.
        lost: Inside a pod when its time to drain was over.
        latencies_s: Of the others.
        pod_hours: From each pod's wish to its end.
        timeline: (seconds, offered rate in pods' worth, replicas, ready) at every sync.
    """

    offered: int
    refused: int
    unserved: int
    lost: int
    latencies_s: "array[float]"
    pod_hours: float
    timeline: tuple[tuple[float, float, int, int], ...]

    def figures(self) -> dict[str, Any]:
        """The row of a table."""
        answered = self.latencies_s
        return {
            "offered": self.offered,
            "refused_share": round(self.refused / self.offered, 5),
            "unserved": self.unserved,
            "lost": self.lost,
            "p50_s": round(quantile(answered, 0.5), 3) if answered else None,
            "p99_s": round(quantile(answered, 0.99), 3) if answered else None,
            "pod_hours": round(self.pod_hours, 2),
            "most_pods": max(entry[2] for entry in self.timeline),
        }


def simulate(setup: Setup) -> Outcome:
    """Run to the end of the load, and until everything inside is answered."""
    return _Run(setup).run()


@dataclass(slots=True)
class _Run:
    setup: Setup
    now: float = 0.0
    pods: list[Pod] = field(default_factory=list)
    past: list[Pod] = field(default_factory=list)
    _events: list[tuple[float, int, str, Any]] = field(default_factory=list)
    _order: Iterator[int] = field(default_factory=itertools.count)
    _draw: random.Random = field(default_factory=random.Random)
    _hpa: Hpa = field(init=False)
    _samples: tuple[Sample, ...] | None = ()
    _blind: int = 0  # syncs in a row without metrics
    _active: float = 0.0  # when there was something to do last
    _came: int = 0  # requests since the last sync, as the proxy in front counts them
    _refused: int = 0
    _unserved: int = 0
    _lost: int = 0
    _offered: int = 0
    _latencies: "array[float]" = field(default_factory=lambda: array("d"))
    _timeline: list[tuple[float, float, int, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._draw.seed(self.setup.seed)
        self._hpa = Hpa(self.setup.behaviour)

    def run(self) -> Outcome:
        setup = self.setup
        for _ in range(max(1, setup.behaviour.least)):
            self.pods.append(Pod(setup.profile, 0.0, 0.0))
        self._at(SCRAPE_S / 2, "scrape", None)
        self._at(SYNC_S, "sync", None)
        arrivals = setup.load.arrivals(setup.profile.per_s, setup.seed)
        following = next(arrivals, None)
        handlers: dict[str, Callable[[Any], None]] = {
            "decoded": self._decoded,
            "batch": self._batch,
            "encoded": self._encoded,
        }
        handlers |= {"scrape": self._scrape, "sync": self._sync, "ended": self._ended}
        while following is not None or self._events:
            if following is not None and (not self._events or following <= self._events[0][0]):
                self.now = following
                self._arrive()
                following = next(arrivals, None)
            else:
                self.now, _, kind, what = heapq.heappop(self._events)
                if following is not None or kind not in ("scrape", "sync"):
                    handlers[kind](what)
        return self._outcome()

    def _outcome(self) -> Outcome:
        end = self.setup.load.duration_s
        paid = sum(min(pod.gone or end, end) - pod.created for pod in (*self.pods, *self.past))
        counts = (self._offered, self._refused, self._unserved, self._lost)
        return Outcome(*counts, self._latencies, paid / 3600, tuple(self._timeline))

    def _at(self, when: float, kind: str, what: object) -> None:
        heapq.heappush(self._events, (when, next(self._order), kind, what))

    def _arrive(self) -> None:
        """A request comes to any ready pod, as a Service sends it: at random."""
        self._offered += 1
        self._came += 1
        now = self.now
        takers = [
            pod for pod in self.pods if pod.ready <= now and (pod.leaving is None or now - pod.leaving < _NOTICED_S)
        ]
        if not takers:
            self._unserved += 1
            return
        pod = takers[int(self._draw.random() * len(takers))]
        if pod.inside >= pod.profile.max_requests:
            self._refused += 1
            return
        pod.inside += 1
        self._at(pod.host_work(now, pod.profile.decode_s, self._draw), "decoded", (pod, now))

    def _decoded(self, what: tuple[Pod, float]) -> None:
        pod, came = what
        pod.host_done(pod.profile.decode_s)
        pod.queue.append(came)
        if not pod.running:
            self._at(pod.begin_batch(self.now, self._draw), "batch", pod)

    def _batch(self, pod: Pod) -> None:
        for came in pod.end_batch(self.now):
            self._at(pod.host_work(self.now, pod.profile.encode_s, self._draw), "encoded", (pod, came))
        if pod.queue:
            self._at(pod.begin_batch(self.now, self._draw), "batch", pod)

    def _encoded(self, what: tuple[Pod, float]) -> None:
        pod, came = what
        pod.host_done(pod.profile.encode_s)
        pod.inside -= 1
        if pod.gone is None:
            self._latencies.append(self.now - came)
        if pod.leaving is not None and not pod.inside and self.now >= pod.leaving + DRAIN_DELAY_S:
            self._end(pod)

    def _ended(self, pod: Pod) -> None:
        """A point of a leaving pod's life: its delay, or its time to drain, is over."""
        if pod.gone is None and pod.leaving is not None:
            if self.now >= pod.leaving + DRAIN_DELAY_S + DRAIN_TIMEOUT_S:
                self._lost += pod.inside
                self._end(pod)
            elif not pod.inside:
                self._end(pod)

    def _end(self, pod: Pod) -> None:
        if pod.gone is None:
            pod.gone = self.now
            self.pods.remove(pod)
            self.past.append(pod)

    def _scrape(self, _: None) -> None:
        outage = self.setup.outage
        down = outage is not None and outage[0] <= self.now < outage[1]
        ready = [pod for pod in self.pods if pod.ready <= self.now and pod.leaving is None]
        self._samples = None if down else tuple(scrape(pod, self.now) for pod in ready)
        self._at(self.now + SCRAPE_S, "scrape", None)

    def _sync(self, _: None) -> None:
        staying = [pod for pod in self.pods if pod.leaving is None]
        starting = sum(pod.ready > self.now for pod in staying)
        view = View(self._samples, starting, len(staying))
        self._blind = self._blind + 1 if view.samples is None else 0
        self._scale(staying, self._decide(view))
        load = self.setup.load.rate(min(self.now, self.setup.load.duration_s))
        self._timeline.append((self.now, load, view.current, view.current - starting))
        self._at(self.now + SYNC_S, "sync", None)

    def _decide(self, view: View) -> int:
        keda = self.setup.keda
        wanted = self.setup.signal.wanted(view)
        if keda is not None and keda.fallback is not None and self._blind >= keda.failures:
            wanted = (keda.fallback,)
        if keda is not None and keda.cooldown_s is not None:
            self._active = self.now if self._came > keda.activation else self._active
            self._came = 0
            if not view.current:  # KEDA's own step; the autoscaler knows no zero
                return int(self._active == self.now)
            if self.now - self._active >= keda.cooldown_s:
                return 0
        return self._hpa.decide(self.now, view.current, wanted)

    def _scale(self, staying: list[Pod], wanted: int) -> None:
        for _ in range(wanted - len(staying)):
            start_s = self.setup.profile.start_s * self._draw.uniform(0.8, 1.2)
            self.pods.append(Pod(self.setup.profile, self.now, self.now + start_s))
        # As a ReplicaSet chooses: those that are not ready first, then the youngest.
        youngest = sorted(staying, key=lambda pod: (pod.ready > self.now, pod.created), reverse=True)
        for pod in youngest[: max(0, len(staying) - wanted)]:
            pod.leaving = self.now
            if pod.ready > self.now:
                self._end(pod)
            else:
                self._at(self.now + DRAIN_DELAY_S, "ended", pod)
                self._at(self.now + DRAIN_DELAY_S + DRAIN_TIMEOUT_S, "ended", pod)

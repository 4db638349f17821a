"""The rules of Kubernetes' HorizontalPodAutoscaler v2 and of KEDA, as pure functions of time and metrics.

Sources: kubernetes.io, "Horizontal Pod Autoscaling" (algorithm details, configurable scaling behavior); the
documentation of KEDA, "Scaling Deployments" (polling, activation, cooldown, fallback).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

TOLERANCE = 0.1
SYNC_S = 15.0


@dataclass(frozen=True, slots=True)
class Policy:
    """So much per period. `kind` is pods or percent."""

    kind: str
    value: int
    period_s: float = 15.0


@dataclass(frozen=True, slots=True)
class Rules:
    """One direction of `behavior`: the policy that allows most counts (`selectPolicy: Max`)."""

    policies: tuple[Policy, ...]
    window_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Behaviour:
    """Bounds and both directions; the defaults are Kubernetes' own."""

    least: int = 1
    most: int = 20
    up: Rules = Rules((Policy("pods", 4), Policy("percent", 100)))
    down: Rules = Rules((Policy("percent", 100),), 300.0)


def per_pod(values: Sequence[float], starting: int, target: float, current: int) -> int:
    """Replicas by a metric of the pods (type Pods, or Resource): average of the values against the target.

    Pods that are starting count as idle when the others ask for more, and are left out when they ask for fewer.
    """
    if not values:
        return current
    ratio = sum(values) / len(values) / target
    if not (starting and ratio > 1):
        return current if abs(1 - ratio) <= TOLERANCE else math.ceil(ratio * len(values) - 1e-9)
    counted = len(values) + starting
    damped = sum(values) / counted / target
    if damped <= 1 + TOLERANCE:  # within the tolerance, or the direction has turned
        return current
    return max(current, math.ceil(damped * counted - 1e-9))


def total(value: float, target: float, current: int) -> int:
    """Replicas by one figure for all pods (type External with AverageValue, which KEDA makes)."""
    if abs(1 - value / (target * max(current, 1))) <= TOLERANCE:
        return current
    return math.ceil(value / target - 1e-9)


@dataclass(slots=True)
class Hpa:
    """The memory of one autoscaler: what it recommended, and what it did."""

    behaviour: Behaviour
    _recommended: list[tuple[float, int]] = field(default_factory=list)
    _changes: list[tuple[float, int]] = field(default_factory=list)

    def decide(self, now: float, current: int, wanted: Sequence[int | None]) -> int:
        """Replicas from now on. Every metric gives its number, None where it cannot be read; the largest counts.

        A metric that cannot be read forbids to scale down, and changes nothing else.
        """
        known = [number for number in wanted if number is not None]
        if not known or (len(known) < len(wanted) and max(known) < current):
            return current
        behaviour = self.behaviour
        stable = self._stabilise(now, current, min(max(max(known), behaviour.least), behaviour.most))
        decided = self._limit(now, current, stable)
        if decided != current:
            self._changes.append((now, decided - current))
        return decided

    def _stabilise(self, now: float, current: int, wanted: int) -> int:
        self._recommended.append((now, wanted))
        longest = max(self.behaviour.up.window_s, self.behaviour.down.window_s)
        self._recommended = [entry for entry in self._recommended if entry[0] > now - longest or entry[0] == now]

        def within(window_s: float) -> list[int]:
            return [number for then, number in self._recommended if then > now - window_s or then == now]

        lowest, highest = min(within(self.behaviour.up.window_s)), max(within(self.behaviour.down.window_s))
        return min(max(current, lowest), highest)

    def _limit(self, now: float, current: int, wanted: int) -> int:
        behaviour = self.behaviour
        if wanted > current:
            return min(wanted, max(current, max(self._reach(now, current, p, 1) for p in behaviour.up.policies)))
        if wanted < current:
            return max(wanted, min(current, min(self._reach(now, current, p, -1) for p in behaviour.down.policies)))
        return current

    def _reach(self, now: float, current: int, policy: Policy, sign: int) -> int:
        """How far one policy lets it go from where its period began."""
        begun = current - sum(change for then, change in self._changes if then > now - policy.period_s)
        if policy.kind == "pods":
            return begun + sign * policy.value
        exact = begun * (1 + sign * policy.value / 100)
        return math.ceil(exact - 1e-9) if sign > 0 else math.floor(exact + 1e-9)


@dataclass(frozen=True, slots=True)
class KedaOptions:
    """What a ScaledObject adds to its HorizontalPodAutoscaler.

    Attributes:
        cooldown_s: Of inactivity before the last pod goes; None where one pod always stays. Activity is looked for at
            every sync (`pollingInterval` is 15 s in our manifests, as the sync period).
        activation: More requests than this since the last look, as the proxy in front counts them, are activity.
        fallback: Replicas once the metric could not be read `failures` times in a row; None for none.
        failures: See there.
    """

    cooldown_s: float | None = None
    activation: float = 0.0
    fallback: int | None = None
    failures: int = 3

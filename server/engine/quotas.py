"""What the requests for one model may take of the server, so that a busy model leaves room for the others.

A quota is checked behind the door (`server.engine.admission`): who is refused here would have been let in, had it asked
for another model. It belongs to the name of a model: whichever artifact answers under it, its requests count together.

Rules of this module: those of `server.engine.admission`.
"""

import math
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import NoReturn

from server.engine.admission import HELD_SHARE, Admission, Entrant, and_held
from server.engine.bookings import Bookings, Wish
from server.engine.service_rate import ServiceRate
from server.errors import OverloadedError
from server.observability.metrics import Metrics

_MIB = 1 << 20
_WHOLE = ("max_requests", "max_batch")
_NUMBER = re.compile(r"\d+(\.\d+)?")


class ModelLimitsError(ValueError):
    """Limits of a model are not what they should be; the message says what was expected and what was found."""


@dataclass(frozen=True, slots=True)
class ModelLimits:
    """Limits of one model, beside those of the server; None where it has none of its own.

    Attributes:
        max_requests: Requests for it inside at once.
        max_megapixels: Megapixels of their images together. A single larger one still comes in when none is inside.
        max_batch: Largest batch on the device.
        timeout_s: Longest time that a request for it may take, whatever it asks for.
        share: Part of the server's own limits on requests, megapixels and memory that its requests may take together,
            above 0 and at most 1.
    """

    max_requests: int | None = None
    max_megapixels: float | None = None
    max_batch: int | None = None
    timeout_s: float | None = None
    share: float | None = None

    def __post_init__(self) -> None:
        for name, value in self.as_json().items():
            most = 1.0 if name == "share" else math.inf
            whole = name not in _WHOLE or isinstance(value, int)
            if value is not None and not (whole and 0 < value <= most and value < math.inf):
                kind = "whole number" if name in _WHOLE else "number"
                raise ModelLimitsError(
                    f"{name}: expected a {kind} above 0{' and at most 1' * (most == 1)}, found {value}"
                )

    def as_json(self) -> dict[str, float | None]:
        """By name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def parse_model_limits(text: str) -> tuple[str, ModelLimits]:
    """Read `NAME limit=number …`: the name of a model and its limits.

    Raises:
        ModelLimitsError: It is not of that form, or a limit is not one.
    """
    known = [field.name for field in fields(ModelLimits)]
    form = f"NAME followed by one or more of {', '.join(f'{name}=NUMBER' for name in known)}"
    name, *settings = text.split() or [""]
    values: dict[str, float] = {}
    for setting in settings:
        limit, _, value = setting.partition("=")
        if limit not in known or limit in values or not _NUMBER.fullmatch(value):
            raise ModelLimitsError(f"expected {form}, found {text!r}")
        values[limit] = int(value) if value.isdecimal() else float(value)
    if not name or not values:
        raise ModelLimitsError(f"expected {form}, found {text!r}")
    return name, ModelLimits(**values)  # type: ignore[arg-type]  # which it checks itself


class Quotas:
    """The requests inside, by the name of their model, and who is refused because they are too many."""

    def __init__(self, admission: Admission, metrics: Metrics, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin with nobody inside.

        Args:
            admission: The door: shares are shares of its limits, and its rate holds until one of the model is measured.
            metrics: Where refusals are counted.
            clock: Monotonic seconds.
        """
        self._server = admission.limits
        self._server_rate = admission.rate
        self._metrics = metrics
        self._clock = clock
        self._by_name: dict[str, _Quota] = {}

    def inside(self, name: str) -> Mapping[str, float]:
        """What the requests for a model take now: `requests`, `megapixels`, `memory_mib`."""
        quota = self._by_name.get(name) or _Quota(self._server.max_retry_after_s)
        taken = (quota.requests, round(quota.megapixels, 3), round(quota.memory_bytes / _MIB, 1))
        return dict(zip(("requests", "megapixels", "memory_mib"), taken, strict=True))

    def forget(self, name: str) -> None:
        """The model is gone; requests that are still inside are not counted for another of its name."""
        self._by_name.pop(name, None)

    @contextmanager
    def enter(self, name: str, limits: ModelLimits, entrant: Entrant) -> Iterator[None]:
        """Count a request for a model while the context is open.

        Raises:
            OverloadedError: Too much is inside for this model; `retry_after_s` says when to come back.
        """
        quota = self._quota(name)
        self.check(name, limits, entrant)
        quota.bookings.keep(entrant.fingerprint)
        if not quota.requests:
            quota.rate.begin(self._clock())
        quota.inside.append(entrant)
        try:
            yield
            quota.rate.finish(entrant.megapixels, self._clock())
        finally:
            quota.inside.remove(entrant)
            if not quota.requests:
                quota.rate.end(self._clock())

    def check(self, name: str, limits: ModelLimits, entrant: Entrant) -> None:
        """Refuse who could not come in now. Of an image that is not known yet the size is 0.

        Raises:
            OverloadedError: As `enter`.
        """
        quota, server, share, now = self._quota(name), self._server, limits.share or 1.0, self._clock()
        held = [] if quota.bookings.is_due(entrant.fingerprint, now) else quota.bookings.expected(now)
        most = max(1, math.floor(min(limits.max_requests or math.inf, server.max_requests * share)))
        if quota.requests >= most - min(len(held), most // HELD_SHARE):
            detail = f"at most {most} requests are taken at a time, {quota.requests} are inside"
            self._refuse(name, "model_requests", detail + and_held(held), entrant, most)
        if not quota.requests:
            return  # the first one always comes in: the server's own limits have let it through
        megapixels, area = entrant.megapixels, min(limits.max_megapixels or math.inf, server.max_megapixels * share)
        kept = min(math.fsum(wish.megapixels for wish in held), area / HELD_SHARE) if held else 0.0
        if quota.megapixels + megapixels + kept > area:
            found = f"{quota.megapixels:.3g} are inside, and this image has {megapixels:.3g}"
            detail = f"at most {area:g} megapixels are taken at a time, {found}"
            self._refuse(name, "model_megapixels", detail + and_held(held), entrant, quota.requests)
        need, memory = entrant.memory_bytes, server.max_memory_bytes * share
        kept = min(sum(wish.memory_bytes for wish in held), memory / HELD_SHARE) if held else 0.0
        if quota.memory_bytes + need + kept > memory:
            found = f"{quota.memory_bytes / _MIB:.0f} are, and this request needs {need / _MIB:.0f}"
            detail = f"at most {memory / _MIB:.0f} MiB of memory are taken at a time, {found}"
            self._refuse(name, "model_memory", detail + and_held(held), entrant, quota.requests)

    def _quota(self, name: str) -> "_Quota":
        return self._by_name.setdefault(name, _Quota(self._server.max_retry_after_s))

    def _refuse(self, name: str, reason: str, detail: str, entrant: Entrant, crowd: int) -> NoReturn:
        """Refuse where `crowd` requests are what there is room for; when to come back is promised as at the door."""
        self._metrics.refusals.labels(reason).inc()
        quota = self._quota(name)
        rate = quota.rate if quota.rate.finished else self._server_rate
        request_s = 1 / rate.requests_per_s if rate.requests_per_s else self._metrics.device.item_s or 1.0
        per_s = rate.megapixels_per_s
        need_s = entrant.megapixels / per_s if reason != "model_requests" and per_s else request_s
        wish = Wish(entrant.megapixels, entrant.memory_bytes, need_s, entrant.fingerprint)
        after_s = quota.bookings.book(wish, max(1, crowd // HELD_SHARE) * request_s, self._clock())
        error = OverloadedError(f"model {name}: {detail}", retry_after_s=after_s)
        error.reason = reason
        raise error


class _Quota:
    """What is inside for one model, and what was promised to those who are not."""

    def __init__(self, max_retry_after_s: int) -> None:
        self.inside: list[Entrant] = []
        self.rate = ServiceRate()
        self.bookings = Bookings(max_retry_after_s)

    @property
    def requests(self) -> int:
        return len(self.inside)

    @property
    def megapixels(self) -> float:
        return math.fsum(entrant.megapixels for entrant in self.inside)

    @property
    def memory_bytes(self) -> int:
        return sum(entrant.memory_bytes for entrant in self.inside)

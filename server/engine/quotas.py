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

from server.engine.admission import Admission
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
        quota = self._by_name.get(name) or _Quota()
        taken = (quota.requests, round(quota.megapixels, 3), round(quota.memory_bytes / _MIB, 1))
        return dict(zip(("requests", "megapixels", "memory_mib"), taken, strict=True))

    def forget(self, name: str) -> None:
        """The model is gone; requests that are still inside are not counted for another of its name."""
        self._by_name.pop(name, None)

    @contextmanager
    def enter(self, name: str, limits: ModelLimits, megapixels: float, memory_bytes: int) -> Iterator[None]:
        """Count a request for a model while the context is open.

        Raises:
            OverloadedError: Too much is inside for this model; `retry_after_s` says when to come back.
        """
        quota = self._by_name.setdefault(name, _Quota())
        self._check(name, limits, megapixels, memory_bytes)
        if not quota.requests:
            quota.rate.begin(self._clock())
        taken = (megapixels, memory_bytes)
        quota.taken.append(taken)
        try:
            yield
            quota.rate.finish(megapixels, self._clock())
        finally:
            quota.taken.remove(taken)
            if not quota.requests:
                quota.rate.end(self._clock())

    def check(self, name: str, limits: ModelLimits) -> None:
        """Refuse now who would be refused whatever the size of its image.

        Raises:
            OverloadedError: As `enter`.
        """
        self._check(name, limits, 0.0, 0)

    def _check(self, name: str, limits: ModelLimits, megapixels: float, memory_bytes: int) -> None:
        quota, server, share = self._by_name.get(name) or _Quota(), self._server, limits.share or 1.0
        most = max(1, math.floor(min(limits.max_requests or math.inf, server.max_requests * share)))
        if quota.requests >= most:
            detail = f"at most {most} requests are taken at a time, and so many are inside"
            self._refuse(name, quota, "model_requests", detail)
        if not quota.requests:
            return  # the first one always comes in: the server's own limits have let it through
        area = min(limits.max_megapixels or math.inf, server.max_megapixels * share)
        if quota.megapixels + megapixels > area:
            found = f"{quota.megapixels:.3g} are inside, and this image has {megapixels:.3g}"
            self._refuse(name, quota, "model_megapixels", f"at most {area:g} megapixels are taken at a time, {found}")
        memory = server.max_memory_bytes * share
        if quota.memory_bytes + memory_bytes > memory:
            found = f"{quota.memory_bytes / _MIB:.0f} are, and this request needs {memory_bytes / _MIB:.0f}"
            detail = f"at most {memory / _MIB:.0f} MiB of memory are taken at a time, {found}"
            self._refuse(name, quota, "model_memory", detail)

    def _refuse(self, name: str, quota: "_Quota", reason: str, detail: str) -> None:
        self._metrics.refusals.labels(reason).inc()
        per_s = quota.rate.requests_per_s or self._server_rate.requests_per_s
        request_s = 1 / per_s if per_s else self._metrics.device.item_s or 1.0
        retry_after_s = quota.line.join(request_s, quota.requests, self._clock(), self._server.max_retry_after_s)
        error = OverloadedError(f"model {name}: {detail}", retry_after_s=retry_after_s)
        error.reason = reason
        raise error


class _Line:
    """Those who were refused: each gets a turn of its own, so that they do not all come back at the same moment."""

    def __init__(self) -> None:
        self._end = -math.inf

    def join(self, request_s: float, ahead: int, now: float, most_s: float) -> int:
        """Whole seconds until the turn of one more; by the last turn all who are ahead now have left."""
        latest = now + min(max(1, ahead) * request_s, most_s)
        self._end = min(max(self._end, now) + request_s, latest)
        return max(1, math.ceil(self._end - now))


class _Quota:
    """What is inside for one model: megapixels and bytes of each request."""

    def __init__(self) -> None:
        self.taken: list[tuple[float, int]] = []
        self.rate = ServiceRate()
        self.line = _Line()

    @property
    def requests(self) -> int:
        return len(self.taken)

    @property
    def megapixels(self) -> float:
        return math.fsum(megapixels for megapixels, _ in self.taken)

    @property
    def memory_bytes(self) -> int:
        return sum(memory_bytes for _, memory_bytes in self.taken)

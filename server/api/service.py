"""What the composition root hands to both transports, and the little that both do alike.

What stands behind them may be in another process (`server.frontends`); so whatever asks it is awaited.
"""

import re
import uuid
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

from server.access import Account, Gate
from server.access.accounts import Allowance
from server.engine.quotas import ModelLimits
from server.observability.tracing import Tracing
from server.pipeline.request import SegmentRequest, SegmentResult
from server.pipeline.study import ShadowPlan

_ENVELOPE_BYTES = 64 * 1024  # of a message beside its image

# Letters of UUIDs, ULIDs, trace ids and URNs: nothing that could break a header, a log line or a shell.
_REQUEST_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+=-]{0,127}")


class Segmenter(Protocol):
    """The pipeline, as transports see it."""

    async def segment(self, request: SegmentRequest) -> SegmentResult:
        """Answer one request, or raise a `ServerError`; cancelling the task drops the work."""
        ...


class Arriving(Protocol):
    """One body on its way, as `server.engine.uploads.Arrival` says it."""

    async def reserve(self, most: int) -> None:
        """Wait until there is room for so many bytes."""
        ...

    async def add(self, size: int) -> None:
        """So many more bytes are here, or a `ServerError` where there is no room for them."""
        ...


class Entrance(Protocol):
    """The gate that is passed before anything is read; whoever is refused there is counted."""

    def receive(self, announced: int = 0) -> AbstractAsyncContextManager[Arriving]:
        """Read a body while the context is open, or a `ServerError`."""
        ...

    def stream(self) -> AbstractAsyncContextManager[None]:
        """Have a stream open as long as the context is, or a `ServerError`."""
        ...


class Counting(Protocol):
    """The metrics, as transports see them."""

    def count_request(self, transport: str, outcome: str, seconds: float) -> None:
        """Count one answered request: `ok`, or the public code of its error, and the time that it took."""
        ...

    async def page(self) -> tuple[bytes, str]:
        """The body of `/metrics` and its content type."""
        ...


class Admin(Protocol):
    """What administrators may see and change: `server.pipeline.roster` and `server.pipeline.shadow` say it."""

    async def models(self) -> list[dict[str, Any]]: ...

    async def put_model(self, name: str, directory: str, limits: ModelLimits | None) -> Mapping[str, Any]: ...

    async def remove_model(self, name: str) -> Mapping[str, Any]: ...

    async def make_default(self, name: str) -> None: ...

    async def begin_shadow(self, plan: ShadowPlan | None) -> None: ...

    async def shadow_report(self) -> dict[str, Any] | None: ...


@dataclass(frozen=True, slots=True)
class TransportLimits:
    """What transports check themselves.

    Attributes:
        max_upload_bytes: Bytes of one encoded image.
        max_timeout_s: Longest time that a client may ask for.
        stream_window: Images of one gRPC stream that are worked on at once; the next is read when one is answered.
        stream_idle_s: Seconds that a stream may be open without a message to work on.
        max_calls: gRPC calls of one connection that are begun at once; further ones wait at the client. It stands
            behind all other limits, which refuse with a reason.
    """

    max_upload_bytes: int = 64 * 1024 * 1024
    max_timeout_s: float = 600.0
    stream_window: int = 16
    stream_idle_s: float = 300.0
    max_calls: int = 1024

    @property
    def max_message_bytes(self) -> int:
        """Of one gRPC message."""
        return self.max_upload_bytes + _ENVELOPE_BYTES


Allowances = Callable[[Account], Awaitable[Allowance | None]]
"""What an account has left; None without a limit, or where that cannot be told."""


async def counted_here(account: Account) -> Allowance | None:
    """Of accounts whose requests are all counted in this process."""
    return account.allowance


@dataclass(frozen=True, slots=True)
class Service:
    """Everything behind the transports.

    Attributes:
        pipeline: Answers requests.
        metrics: Where requests are counted, and what `/metrics` shows.
        limits: What is checked before the pipeline.
        unready_reason: Why no request is taken now; None when they are.
        live: False when only a new process helps.
        models: What `/models` lists, as JSON types.
        gate: Who is let through.
        entrance: The gate that is passed before a body is read.
        hold: Counts so many bytes among the memory inside while its context is open: an answer that is being written.
        admin: What administrators may change; None where there are none.
        allowance: What an account has left at the moment of an answer.
        tracing: Begins traces; None where there are none.
    """

    pipeline: Segmenter
    metrics: Counting
    limits: TransportLimits
    unready_reason: Callable[[], str | None]
    live: Callable[[], bool]
    models: Callable[[], Sequence[Mapping[str, Any]]]
    entrance: Entrance
    hold: Callable[[int], AbstractContextManager[None]]
    gate: Gate = field(default_factory=Gate)
    admin: Admin | None = None
    allowance: Allowances = counted_here
    tracing: Tracing | None = None

    def trace(self, name: str, headers: Iterable[tuple[str, str]] = ()) -> AbstractContextManager[None]:
        """Trace a request as long as the context is open, where traces are on; names of headers are in lower case."""
        return nullcontext() if self.tracing is None else self.tracing.request(name, headers)

    def count(self, transport: str, outcome: str, seconds: float) -> None:
        """Count one answered request: `ok`, or the public code of its error, and the time that it took."""
        self.metrics.count_request(transport, outcome, seconds)


def choose_request_id(offered: str | None) -> str:
    """The client's own id where it is a sane one (up to 128 letters, digits and ._:/@+=-), else a new one."""
    if offered is not None and _REQUEST_ID.fullmatch(offered):
        return offered
    return uuid.uuid4().hex

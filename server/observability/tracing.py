"""Traces of requests: one span for a request, and one below it for each stage that it went through.

OpenTelemetry is imported where traces are begun and nowhere else: where they are off, its SDK is not loaded, and a
stage costs a look at a context variable. Where they go, how many are kept and under which name is set by the variables
of OpenTelemetry itself.

The pipeline says what has just ended and how long it took; no span is open while work waits in lines and threads, so
none can be left open, and none has to be carried from thread to thread.
"""

import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.metadata import entry_points, version
from typing import TYPE_CHECKING

from server.observability.logs import trace_id

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span, Tracer

Attribute = str | int | float | bool

SERVICE_NAME = "birefnet-server"
_CLOSE_S = 5.0  # for the last spans to leave
_NS = 1_000_000_000
_PROTOCOLS = {"grpc": "otlp_proto_grpc", "http/protobuf": "otlp_proto_http"}


class TracingError(Exception):
    """Traces were asked for and cannot be made; the message says what is missing."""


class RequestTrace:
    """The span of one request in this process; its stages are added when they have ended."""

    def __init__(self, tracer: "Tracer", span: "Span", context: "Context") -> None:
        self.context = context
        self._tracer = tracer
        self._span = span

    def stage(self, name: str, seconds: float, before_s: float, attributes: Mapping[str, Attribute]) -> None:
        """Add a span that ended `before_s` ago."""
        end = time.time_ns() - round(before_s * _NS)
        begin = end - round(seconds * _NS)
        self._tracer.start_span(name, self.context, attributes=attributes, start_time=begin).end(end)

    def conclude(self, outcome: str, *, failed: bool, attributes: Mapping[str, Attribute]) -> None:
        """Say what became of the request: `ok`, or the public code of its error."""
        from opentelemetry.trace import StatusCode

        self._span.set_attributes({"birefnet.outcome": outcome, **attributes})
        if failed:
            self._span.set_status(StatusCode.ERROR, outcome)


_current: ContextVar[RequestTrace | None] = ContextVar("trace", default=None)


def record_stage(name: str, seconds: float, before_s: float = 0.0, **attributes: Attribute) -> None:
    """Note that a stage of the current request has ended, if it is traced.

    Args:
        name: Of the stage.
        seconds: That it took.
        before_s: Seconds since it ended.
        attributes: What else is known of it.
    """
    if (trace := _current.get()) is not None:
        trace.stage(name, seconds, before_s, {f"birefnet.{key}": value for key, value in attributes.items()})


def conclude(outcome: str, *, failed: bool, **attributes: Attribute) -> None:
    """Note what became of the current request, if it is traced."""
    if (trace := _current.get()) is not None:
        trace.conclude(outcome, failed=failed, attributes=attributes)


class Tracing:
    """Begins the traces of requests."""

    def __init__(self, provider: "TracerProvider") -> None:
        """Trace with a provider, which is closed with this object."""
        from opentelemetry.propagate import extract

        self._provider = provider
        self._extract = extract
        self._tracer = provider.get_tracer("server", version("birefnet-server"))

    @contextmanager
    def request(self, name: str, headers: Iterable[tuple[str, str]]) -> Iterator[None]:
        """Trace what is done in this context and in the tasks begun in it.

        Args:
            name: Of the span.
            headers: Of the request, names in lower case: where a caller's trace is continued (`traceparent`).
        """
        from opentelemetry.trace import SpanKind, set_span_in_context

        outer = _current.get()
        parent = outer.context if outer is not None else self._extract(dict(headers))
        span = self._tracer.start_span(name, parent, SpanKind.SERVER if outer is None else SpanKind.INTERNAL)
        # Neither is ever reset: a report of what went wrong, further out in this task, carries the id too.
        _current.set(RequestTrace(self._tracer, span, set_span_in_context(span, parent)))
        trace_id.set(f"{span.get_span_context().trace_id:032x}")
        try:
            yield
        finally:
            span.end()

    def close(self) -> None:
        """Send what is left, for some seconds; blocks."""
        # A collector that does not answer must not keep the process.
        sending = threading.Thread(target=self._provider.shutdown, name="traces", daemon=True)
        sending.start()
        sending.join(_CLOSE_S)


def open_tracing(environment: Mapping[str, str]) -> Tracing:
    """Traces as OpenTelemetry's variables say.

    Args:
        environment: Of the process: OTEL_TRACES_EXPORTER, OTEL_EXPORTER_OTLP_PROTOCOL and OTEL_SERVICE_NAME are used
            here, the others by OpenTelemetry itself.

    Raises:
        TracingError: OpenTelemetry is not installed, or has no such exporter.
    """
    try:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise TracingError(f"traces: expected the extra [otel] to be installed, found: {error}") from error
    facts = {"service.version": version("birefnet-server")}
    if "OTEL_SERVICE_NAME" not in environment and "service.name=" not in environment.get(
        "OTEL_RESOURCE_ATTRIBUTES", ""
    ):
        facts["service.name"] = SERVICE_NAME
    provider = TracerProvider(resource=Resource.create(facts), shutdown_on_exit=False)
    for name in _exporters(environment):
        found = entry_points(group="opentelemetry_traces_exporter", name=name)
        if not found:
            raise TracingError(f"OTEL_TRACES_EXPORTER: expected an exporter that is installed, found {name!r}")
        provider.add_span_processor(BatchSpanProcessor(next(iter(found)).load()()))
    return Tracing(provider)


def _exporters(environment: Mapping[str, str]) -> Iterator[str]:
    """Names of the exporters that are asked for, as OpenTelemetry's entry points have them."""
    for name in environment.get("OTEL_TRACES_EXPORTER", "otlp").split(","):
        if name.strip() == "otlp":
            general = environment.get("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
            protocol = environment.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", general)
            if protocol not in _PROTOCOLS:
                raise TracingError(
                    f"OTEL_EXPORTER_OTLP_PROTOCOL: expected {' | '.join(_PROTOCOLS)}, found {protocol!r}"
                )
            yield _PROTOCOLS[protocol]
        elif name.strip() != "none":
            yield name.strip()

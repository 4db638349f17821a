"""Where traces go is read from OpenTelemetry's variables."""

import contextvars
import time
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from server.observability import tracing
from server.observability.tracing import Tracing, TracingError, open_tracing, record_stage


def exporter_names(**environment: str) -> list[str]:
    found = open_tracing({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", **environment})
    try:
        processors: tuple[Any, ...] = found._provider._active_span_processor._span_processors
        return [type(processor.span_exporter).__module__ for processor in processors]
    finally:
        found.close()


@pytest.mark.parametrize(
    ("environment", "modules"),
    [
        ({}, ["opentelemetry.exporter.otlp.proto.grpc.trace_exporter"]),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, ["opentelemetry.exporter.otlp.proto.http.trace_exporter"]),
        (
            {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf"},
            ["opentelemetry.exporter.otlp.proto.http.trace_exporter"],
        ),
        ({"OTEL_TRACES_EXPORTER": "console"}, ["opentelemetry.sdk.trace.export"]),
        ({"OTEL_TRACES_EXPORTER": "none"}, []),
    ],
)
def test_the_exporter_is_the_one_that_the_variables_name(environment, modules):
    assert exporter_names(**environment) == modules


def test_an_unknown_protocol_is_refused():
    with pytest.raises(TracingError, match=r"expected grpc \| http/protobuf, found 'http/json'"):
        open_tracing({"OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"})


def test_without_opentelemetry_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(TracingError, match=r"expected the extra \[otel\] to be installed"):
        open_tracing({})


@pytest.mark.parametrize(
    ("environment", "name"),
    [
        ({}, "birefnet-server"),
        ({"OTEL_SERVICE_NAME": "mine"}, "mine"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "service.name=theirs,a=b"}, "theirs"),
    ],
)
def test_the_service_has_our_name_unless_it_is_given_another(environment, name, monkeypatch):
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    found = open_tracing({"OTEL_TRACES_EXPORTER": "none", **environment})
    assert found._provider.resource.attributes["service.name"] == name
    found.close()


def test_a_stage_ends_when_it_ended():
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    before = time.time_ns()

    def work() -> None:
        with Tracing(provider).request("a request", []):
            record_stage("first", 2.0, 3.0, kind="x")

    contextvars.copy_context().run(work)  # as every request has a context of its own
    after = time.time_ns()
    first, request = exporter.get_finished_spans()
    assert (first.name, dict(first.attributes or {})) == ("first", {"birefnet.kind": "x"})
    assert first.start_time is not None
    assert first.end_time is not None
    assert first.end_time - first.start_time == 2_000_000_000
    assert before - 3_000_000_000 <= first.end_time <= after - 3_000_000_000
    assert first.parent is not None
    assert first.parent.span_id == request.context.span_id


def test_without_a_trace_nothing_is_recorded():
    assert tracing._current.get() is None
    record_stage("first", 1.0)
    tracing.conclude("ok", failed=False)


def test_a_collector_that_hangs_does_not_keep_the_process(monkeypatch):
    never = __import__("threading").Event()

    class Hanging(SpanExporter):
        def export(self, spans):
            return SpanExportResult.SUCCESS

        def shutdown(self):
            never.wait()

    monkeypatch.setattr(tracing, "_CLOSE_S", 0.05)
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(Hanging()))
    try:
        Tracing(provider).close()  # returns
    finally:
        never.set()

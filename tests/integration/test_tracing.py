"""One trace per request over both transports, with OpenTelemetry's own SDK and an exporter in memory."""

import asyncio
import io
import json
import logging

import grpc
import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from protos.matting.v1 import matting_pb2 as pb
from server.app.lifecycle import serve
from server.observability.logs import JsonFormatter, _add_ids
from server.observability.tracing import Tracing
from server.settings import Settings
from tests.support.backends import DeviceScript
from tests.support.clients import marked_png, running_server

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"  # the example of W3C Trace Context
STAGES = ["queue", "decode", "queue", "batch", "queue", "encode"]


@pytest.fixture
def exporter(monkeypatch) -> InMemorySpanExporter:
    found = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(found))
    monkeypatch.setattr("server.app.lifecycle.open_tracing", lambda _: Tracing(provider))
    return found


def whole(exporter: InMemorySpanExporter, name: str) -> tuple[ReadableSpan, list[ReadableSpan]]:
    """The one span of this name, and what is below it, in the order in which it ended."""
    spans = exporter.get_finished_spans()
    (root,) = [span for span in spans if span.name == name]
    below = [span for span in spans if span.parent is not None and span.parent.span_id == root.context.span_id]
    return root, below


def check_stages(root: ReadableSpan, below: list[ReadableSpan], stages: list[str]) -> None:
    assert [span.name for span in below] == stages
    assert {span.context.trace_id for span in below} == {root.context.trace_id}
    (begin, end), *times = [(span.start_time or 0, span.end_time or 0) for span in (root, *below)]
    # Stages are stamped when they have ended, and measured by another clock: where one began is no exact matter.
    assert all(begin < last <= end and first <= last for first, last in times)


async def test_a_request_over_rest_is_one_trace_that_continues_the_callers(exporter):
    async with running_server(traces=True) as server:
        headers = {"traceparent": TRACEPARENT}
        answer = await server.http.post("/segment", content=marked_png(7), headers=headers)
        assert answer.status_code == 200
        await server.http.get("/readyz")
    root, below = whole(exporter, "POST /segment")
    check_stages(root, below, STAGES)
    assert f"{root.context.trace_id:032x}" == TRACE
    assert root.parent is not None
    assert f"{root.parent.span_id:016x}" == PARENT
    assert root.kind is SpanKind.SERVER
    assert dict(root.attributes or {}) == {"birefnet.outcome": "ok", "http.response.status_code": 200}
    assert dict(below[3].attributes or {})["birefnet.size"] == 1
    assert len(exporter.get_finished_spans()) == 1 + len(STAGES), "probes are not traced"


async def test_a_call_over_grpc_is_one_trace_that_continues_the_callers(exporter):
    async with running_server(traces=True) as server:
        message = pb.SegmentRequest(image=marked_png(7))
        await server.stub.Segment(message, metadata=(("traceparent", TRACEPARENT),))
    root, below = whole(exporter, "matting.v1.Matting/Segment")
    check_stages(root, below, STAGES)
    assert f"{root.context.trace_id:032x}" == TRACE
    assert dict(root.attributes or {}) == {"birefnet.outcome": "ok"}


async def test_every_image_of_a_stream_has_a_span_with_its_stages(exporter):
    async with running_server(traces=True) as server:
        stream = server.stub.SegmentStream(metadata=(("traceparent", TRACEPARENT),))
        for number in range(2):
            await stream.write(pb.SegmentRequest(image=marked_png(number), id=str(number)))
            assert (await stream.read()).answer.image
        await stream.done_writing()
        assert await stream.read() is grpc.aio.EOF
    root, images = whole(exporter, "matting.v1.Matting/SegmentStream")
    assert [span.name for span in images] == ["image of a stream"] * 2
    spans = exporter.get_finished_spans()
    for image in images:
        check_stages(image, [s for s in spans if s.parent and s.parent.span_id == image.context.span_id], STAGES)
    assert {f"{span.context.trace_id:032x}" for span in spans} == {TRACE}
    assert root.parent is not None


async def test_requests_at_once_have_traces_of_their_own(exporter):
    script = DeviceScript(gated=True)
    async with running_server(script, traces=True, max_batch=2) as server:
        first = asyncio.create_task(server.post(marked_png(1)))
        await script.arrival()
        others = [asyncio.create_task(server.post(marked_png(mark))) for mark in (2, 3)]
        await server.wait_until_waiting(2)
        script.open()
        await asyncio.gather(first, *others)
    spans = exporter.get_finished_spans()
    roots = [span for span in spans if span.name == "POST /segment"]
    assert len({span.context.trace_id for span in roots}) == 3
    for root in roots:
        check_stages(root, [s for s in spans if s.parent and s.parent.span_id == root.context.span_id], STAGES)
    sizes = [dict(span.attributes or {})["birefnet.size"] for span in spans if span.name == "batch"]
    assert sorted(sizes) == [1, 2, 2]


async def test_refinement_has_a_span(exporter):
    async with running_server(traces=True) as server:
        await server.post(marked_png(7, (600, 600)), refine="on")
    root, below = whole(exporter, "POST /segment")
    check_stages(root, below, [*STAGES[:4], "refine", *STAGES[4:]])


async def test_a_failure_of_ours_marks_the_span_and_one_of_the_client_does_not(exporter):
    script = DeviceScript(poison={9})
    async with running_server(script, traces=True) as server:
        assert (await server.post(marked_png(9))).status_code == 500
        assert (await server.post(b"no image")).status_code == 415
        with pytest.raises(grpc.aio.AioRpcError):
            await server.call(marked_png(9))
    found = {
        (span.name, dict(span.attributes or {})["birefnet.outcome"]): span.status.status_code
        for span in exporter.get_finished_spans()
        if span.kind is SpanKind.SERVER
    }
    assert found == {
        ("POST /segment", "inference-failed"): StatusCode.ERROR,
        ("POST /segment", "not-an-image"): StatusCode.UNSET,
        ("matting.v1.Matting/Segment", "inference-failed"): StatusCode.ERROR,
    }


async def test_what_the_caller_does_not_sample_is_not_kept(exporter):
    async with running_server(traces=True) as server:
        headers = {"traceparent": TRACEPARENT[:-1] + "0"}
        assert (await server.http.post("/segment", content=marked_png(7), headers=headers)).status_code == 200
    assert exporter.get_finished_spans() == ()


async def test_json_logs_carry_the_trace(exporter, caplog):
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    handler.addFilter(_add_ids)
    log = logging.getLogger("server.api")
    log.addHandler(handler)
    caplog.set_level("INFO", "server.api")
    try:
        async with running_server(traces=True) as server:
            headers = {"traceparent": TRACEPARENT, "X-Request-Id": "mine"}
            await server.http.post("/segment", content=marked_png(7), headers=headers)
        async with running_server() as server:
            await server.http.post("/segment", content=marked_png(7), headers=headers)
    finally:
        log.removeHandler(handler)
    records = [json.loads(line) for line in stream.getvalue().splitlines()]
    found = [
        (record["request_id"], record.get("trace_id"))
        for record in records
        if record["logger"].endswith("rest.boundary")
    ]
    assert found == [("mine", TRACE), ("mine", None)]


async def test_an_unknown_exporter_ends_the_start_with_its_name(monkeypatch, caplog):
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "carrier-pigeon")
    assert await serve(Settings(port=0, grpc_port=0, backend="fake", traces=True)) == 1
    assert (
        "cannot start: OTEL_TRACES_EXPORTER: expected an exporter that is installed, found 'carrier-pigeon'"
        in caplog.text
    )

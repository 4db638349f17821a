"""A live process sends its traces where OpenTelemetry's variables say, and the last ones before it ends."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import httpx
import numpy as np
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as collector_pb
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as collector_grpc

from tests.support.images import png
from tests.support.processes import PATIENCE_S, live_server


class Collector(collector_grpc.TraceServiceServicer):
    """Keeps what it is sent."""

    def __init__(self) -> None:
        self.requests: list[collector_pb.ExportTraceServiceRequest] = []
        self.port = 0

    def Export(self, request, context):  # noqa: N802
        self.requests.append(request)
        return collector_pb.ExportTraceServiceResponse()


@pytest.fixture
def collector() -> Iterator[Collector]:
    found = Collector()
    server = grpc.server(ThreadPoolExecutor(2))
    collector_grpc.add_TraceServiceServicer_to_server(found, server)
    found.port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield found
    server.stop(None).wait()


def test_traces_reach_the_collector_before_the_process_ends(collector: Collector):
    address = f"http://127.0.0.1:{collector.port}"
    flags = ("--backend", "fake", "--traces")
    with live_server(*flags, OTEL_EXPORTER_OTLP_ENDPOINT=address, OTEL_SERVICE_NAME="mine") as server:
        image = png(np.full((16, 16, 3), 7, np.uint8))
        assert httpx.post(f"{server.http}/segment", content=image, timeout=PATIENCE_S).status_code == 200
        server.signal()
        assert server.wait() == 0
        answered = next(record for record in server.wait_for_records() if record.get("path") == "/segment")
    resources = [resource for request in collector.requests for resource in request.resource_spans]
    names = {a.key: a.value.string_value for resource in resources for a in resource.resource.attributes}
    spans = [span for resource in resources for scope in resource.scope_spans for span in scope.spans]
    assert names["service.name"] == "mine"
    assert sorted(span.name for span in spans) == ["POST /segment", "batch", "decode", "encode", *["queue"] * 3]
    assert {span.trace_id.hex() for span in spans} == {answered["trace_id"]}

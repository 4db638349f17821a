"""Every error, over both transports, as clients see it."""

import asyncio
import base64
import logging
from typing import Any

import grpc
import httpx
import pytest

from protos.matting.v1 import matting_pb2 as pb
from protos.matting.v1 import matting_pb2_grpc
from server import errors
from server.api.local import LocalEntrance
from server.api.rest import create_app
from server.api.rpc import RpcOptions, RpcServer
from server.api.service import Service, TransportLimits
from server.engine.admission import Admission, AdmissionLimits
from server.engine.uploads import UploadLimits, Uploads
from server.errors import ServerError
from server.observability.metrics import Metrics
from server.pipeline.request import SegmentRequest, SegmentResult
from tests.support.backends import DeviceScript, counted
from tests.support.clients import marked_png, running_server, trailing
from tests.support.images import disc, huge_png_header, jpeg

Code = grpc.StatusCode

# Written out here once more, so that a slip in the table shows.
EXPECTED = {
    errors.ServerError: (500, Code.INTERNAL, False),
    errors.RequestError: (400, Code.INVALID_ARGUMENT, False),
    errors.MalformedRequestError: (400, Code.INVALID_ARGUMENT, False),
    errors.EmptyBodyError: (400, Code.INVALID_ARGUMENT, False),
    errors.InvalidOptionError: (422, Code.INVALID_ARGUMENT, False),
    errors.UnauthenticatedError: (401, Code.UNAUTHENTICATED, False),
    errors.UnknownModelError: (404, Code.NOT_FOUND, False),
    errors.ModelRefusedError: (422, Code.FAILED_PRECONDITION, False),
    errors.ConflictError: (409, Code.ABORTED, False),
    errors.BodyTooLargeError: (413, Code.INVALID_ARGUMENT, False),
    errors.ImageTooLargeError: (413, Code.INVALID_ARGUMENT, False),
    errors.MetadataTooLargeError: (413, Code.INVALID_ARGUMENT, False),
    errors.NotAnImageError: (415, Code.INVALID_ARGUMENT, False),
    errors.CorruptImageError: (422, Code.INVALID_ARGUMENT, False),
    errors.CapacityError: (503, Code.UNAVAILABLE, True),
    errors.OverloadedError: (429, Code.RESOURCE_EXHAUSTED, True),
    errors.RateLimitedError: (429, Code.RESOURCE_EXHAUSTED, True),
    errors.DrainingError: (503, Code.UNAVAILABLE, True),
    errors.NotReadyError: (503, Code.UNAVAILABLE, True),
    errors.DeadlineExceededError: (504, Code.DEADLINE_EXCEEDED, True),
    errors.CancelledByClientError: (499, Code.CANCELLED, False),
    errors.InferenceError: (500, Code.INTERNAL, False),
    errors.DeviceLostError: (503, Code.UNAVAILABLE, True),
}


class Failing:
    """Stands in for the pipeline, and fails."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    async def segment(self, request: SegmentRequest) -> SegmentResult:
        raise self.error


def service_of(pipeline: Failing) -> Service:
    metrics = Metrics()
    admission = Admission(AdmissionLimits(), metrics)
    uploads = Uploads(UploadLimits(), admission)
    return Service(
        pipeline, metrics, TransportLimits(), lambda: None, lambda: True, tuple, LocalEntrance(uploads), admission.hold
    )


async def post_to(service: Service) -> httpx.Response:
    transport = httpx.ASGITransport(create_app(service), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        return await client.post("/segment", content=b"x", headers={"X-Request-Id": "the-id"})


async def call_to(service: Service) -> grpc.aio.AioRpcError:
    server = RpcServer(service, RpcOptions("127.0.0.1", 0))
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await matting_pb2_grpc.MattingStub(channel).Segment(pb.SegmentRequest(image=b"x"))
    await server.stop(0)
    return caught.value


@pytest.mark.parametrize("error_class", EXPECTED, ids=lambda error_class: error_class.code)
async def test_every_error_class_has_its_status_over_both_transports(error_class: type[ServerError]):
    http, code, retryable = EXPECTED[error_class]
    service = service_of(Failing(error_class("expected this, found \udcff that", retry_after_s=7)))
    response = await post_to(service)
    error = await call_to(service)
    assert response.status_code == http
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["retry-after"] == "7"
    assert response.json() == {
        "type": f"urn:problem-type:birefnet:{error_class.code}",
        "title": error_class.title,
        "status": http,
        "detail": "expected this, found \\udcff that",
        "code": error_class.code,
        "retryable": retryable,
        "retry_after_s": 7,
        "request_id": "the-id",
    }
    assert error.code() is code
    assert error.details() == "expected this, found \\udcff that"
    assert trailing(error)["x-error-code"] == error_class.code
    assert trailing(error)["retry-after"] == "7"
    assert trailing(error)["x-request-id"]
    assert isinstance(service.metrics, Metrics)
    sample = service.metrics.registry.get_sample_value
    for transport in ("rest", "grpc"):
        assert sample("birefnet_requests_total", {"transport": transport, "outcome": error_class.code}) == 1


async def test_a_bug_is_answered_without_its_trace_and_logged_with_the_request_id(caplog):
    service = service_of(Failing(ZeroDivisionError("secret of the inside")))
    with caplog.at_level(logging.ERROR):
        response = await post_to(service)
        error = await call_to(service)
    assert response.status_code == 500
    assert response.json()["code"] == "internal"
    assert "secret" not in response.text
    assert "Traceback" not in response.text
    assert error.code() is Code.INTERNAL
    assert trailing(error)["x-error-code"] == "internal"
    assert "secret" not in (error.details() or "")
    assert "ZeroDivisionError" in caplog.text


async def test_a_bug_is_logged_by_the_http_server_under_the_request_id(caplog, monkeypatch):
    from server.observability import logs

    seen = []

    class Spy(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.append((logs.request_id.get(), record.getMessage(), record.exc_info is not None))

    async with running_server() as server:

        async def fail(request: SegmentRequest) -> SegmentResult:
            raise ZeroDivisionError("inside")

        monkeypatch.setattr(type(server.process.parts.pipeline), "segment", lambda self, request: fail(request))
        spy = Spy(logging.ERROR)
        logging.getLogger().addHandler(spy)
        response = await server.http.post("/segment", content=marked_png(1), headers={"X-Request-Id": "bug-1"})
        logging.getLogger().removeHandler(spy)
    assert response.status_code == 500
    assert [(name, traced) for name, _, traced in seen] == [("bug-1", True)]


IMAGE = marked_png(5)
JSON = {"Content-Type": "application/json"}
BAD_REQUESTS: dict[str, tuple[dict[str, Any], int, str, str]] = {
    "empty": ({"content": b""}, 400, "empty-body", "0 bytes"),
    "empty part": ({"files": {"image": b""}}, 400, "empty-body", "0 bytes"),
    "text": ({"content": b"hello, world"}, 415, "not-an-image", "expected an image"),
    "pdf": ({"content": b"%PDF-1.4 abc"}, 415, "not-an-image", "PDF"),
    "truncated": ({"content": jpeg(disc().image)[:700]}, 422, "corrupt-image", "expected"),
    "pixels": ({"content": huge_png_header(20_000, 20_000)}, 413, "image-too-large", "50"),
    "bytes": ({"content": IMAGE + bytes(300_000)}, 413, "body-too-large", "262144"),
    "bytes in part": ({"files": {"image": IMAGE + bytes(300_000)}}, 413, "body-too-large", "262144"),
    "bytes in json": (
        {"json": {"image_base64": base64.b64encode(bytes(300_000)).decode()}},
        413,
        "body-too-large",
        "262144",
    ),
    "unknown option": ({"content": IMAGE, "params": {"colour": "red"}}, 422, "invalid-option", "colour"),
    "bad value": ({"content": IMAGE, "params": {"output": "hologram"}}, 422, "invalid-option", "matte | cutout"),
    "impossible": (
        {"content": IMAGE, "params": {"output": "cutout", "format": "jpeg"}},
        422,
        "invalid-option",
        "it has no alpha",
    ),
    "zip of a matte": ({"content": IMAGE, "params": {"format": "zip"}}, 422, "invalid-option", "halves of a cutout"),
    "accept": (
        {"content": IMAGE, "params": {"output": "cutout"}, "headers": {"Accept": "image/jpeg"}},
        422,
        "invalid-option",
        "Accept",
    ),
    "twice in query": ({"content": IMAGE, "params": {"output": ["matte", "cutout"]}}, 422, "invalid-option", "twice"),
    "query and form": (
        {"files": {"image": IMAGE}, "data": {"output": "matte"}, "params": {"output": "matte"}},
        422,
        "invalid-option",
        "the query and the body",
    ),
    "unknown model": ({"content": IMAGE, "params": {"model": "gone"}}, 404, "unknown-model", "fake"),
    "timeout": ({"content": IMAGE, "params": {"timeout_ms": "999999999"}}, 422, "invalid-option", "600000"),
    "url": ({"json": {"image_url": "http://x/y.png"}}, 422, "url-not-allowed", "allow_urls"),
    "bad json": ({"content": b'{"image_base64": ', "headers": JSON}, 400, "malformed-request", "invalid JSON"),
    "json list": ({"content": b"[1]", "headers": JSON}, 400, "malformed-request", "JSON object"),
    "deep json": ({"content": b"[" * 200_000, "headers": JSON}, 400, "malformed-request", "JSON"),
    "json without image": ({"json": {"output": "matte"}}, 400, "malformed-request", "output"),
    "json twice": (
        {"content": b'{"image_base64": "aa", "image_base64": "bb"}', "headers": JSON},
        400,
        "malformed-request",
        "once",
    ),
    "bad base64": ({"json": {"image_base64": "a$b"}}, 400, "malformed-request", "base64"),
    "surrogate": (
        {"content": b'{"image_base64": "aaaa", "\\ud800": "x"}', "headers": JSON},
        422,
        "invalid-option",
        "expected the options",
    ),
    "form without image": ({"files": {"other": (None, b"x")}}, 400, "malformed-request", "image_file"),
    "foreign file": ({"files": {"photo": ("a.jpg", IMAGE)}}, 400, "malformed-request", "photo"),
    "two images": ({"files": [("image", IMAGE), ("file", IMAGE)]}, 400, "malformed-request", "second"),
    "urlencoded form": ({"data": {"output": "matte"}}, 400, "malformed-request", "curl -F"),
    "compressed": ({"content": IMAGE, "headers": {"Content-Encoding": "gzip"}}, 400, "malformed-request", "gzip"),
    "no boundary": (
        {"content": b"x", "headers": {"Content-Type": "multipart/form-data"}},
        400,
        "malformed-request",
        "boundary",
    ),
}


async def test_every_bad_request_is_a_problem_that_says_what_is_wrong():
    async with running_server(max_upload_mib=0.25) as server:
        for name, (request, status, code, hint) in BAD_REQUESTS.items():
            response = await server.http.post("/segment", **request)
            problem = response.json()
            assert (name, response.status_code, problem["code"]) == (name, status, code), problem
            assert response.headers["content-type"] == "application/problem+json", name
            assert hint in problem["detail"], (name, problem["detail"])
            assert problem["request_id"] == response.headers["x-request-id"], name
        assert (await server.post(IMAGE)).status_code == 200


@pytest.mark.parametrize("cut", [1, 40, 100, -60, -4])
async def test_a_multipart_body_that_ends_early_is_malformed(cut: int):
    request = httpx.Request("POST", "http://x/segment", files={"image": IMAGE})
    body = request.read()[:cut]
    async with running_server() as server:
        response = await server.http.post(
            "/segment", content=body, headers={"Content-Type": request.headers["content-type"]}
        )
    assert response.status_code == 400, response.text
    assert response.json()["code"] == "malformed-request"


async def test_paths_and_methods_that_do_not_exist_are_problems():
    async with running_server() as server:
        missing = await server.http.get("/nothing/here")
        wrong = await server.http.get("/segment")
    assert (missing.status_code, missing.json()["code"]) == (404, "not-found")
    assert (wrong.status_code, wrong.json()["code"]) == (405, "method-not-allowed")
    assert wrong.headers["allow"] == "POST"
    assert {missing.headers["content-type"], wrong.headers["content-type"]} == {"application/problem+json"}


async def test_grpc_refuses_what_rest_refuses():
    cases = [
        (pb.SegmentRequest(), "empty-body"),
        (pb.SegmentRequest(image=b"hello"), "not-an-image"),
        (pb.SegmentRequest(image=huge_png_header(20_000, 20_000)), "image-too-large"),
        (pb.SegmentRequest(image=IMAGE + bytes(280_000)), "body-too-large"),
        (pb.SegmentRequest(image=IMAGE, options=pb.SegmentOptions(output=99)), "invalid-option"),  # type: ignore[arg-type]
        (
            pb.SegmentRequest(image=IMAGE, options=pb.SegmentOptions(output=pb.OUTPUT_CUTOUT, format=pb.FORMAT_JPEG)),
            "invalid-option",
        ),
        (pb.SegmentRequest(image=IMAGE, options=pb.SegmentOptions(background="red")), "invalid-option"),
        (pb.SegmentRequest(image=IMAGE, options=pb.SegmentOptions(model="gone")), "unknown-model"),
        # Field 9 of the options belongs to a newer client: ignoring it would give a wrong answer.
        (
            pb.SegmentRequest.FromString(
                pb.SegmentRequest(image=IMAGE).SerializeToString() + bytes([0x12, 0x02, 0x48, 0x01])
            ),
            "invalid-option",
        ),
    ]
    async with running_server(max_upload_mib=0.25) as server:
        for message, code in cases:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await server.stub.Segment(message)
            assert trailing(caught.value)["x-error-code"] == code, caught.value.details()


async def test_a_body_beyond_the_limit_is_refused_before_it_is_there():
    """The client announces, or sends, more than the limit and never ends: it is answered all the same."""
    async with running_server(max_upload_mib=0.25) as server:
        host, port = "127.0.0.1", server.process.port
        for head, body in (
            (b"Content-Length: 900000000", b""),
            (b"Transfer-Encoding: chunked", b"80000\r\n" + bytes(0x80000) + b"\r\n"),
        ):
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(b"POST /segment HTTP/1.1\r\nHost: x\r\n" + head + b"\r\n\r\n" + body)
            async with asyncio.timeout(10):
                status_line = await reader.readline()
            assert status_line == b"HTTP/1.1 413 Content Too Large\r\n" or b" 413 " in status_line
            writer.close()


async def test_overload_is_refused_at_once_with_retry_after():
    script = DeviceScript(gated=True)
    async with running_server(script, max_requests=1) as server:
        inside = asyncio.create_task(server.post(IMAGE))
        await script.arrival()
        response = await server.post(IMAGE)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await server.call(IMAGE)
        script.open()
        assert (await inside).status_code == 200
    assert response.status_code == 429
    assert (response.json()["code"], response.json()["reason"]) == ("overloaded", "requests")
    assert int(response.headers["retry-after"]) >= 1
    assert caught.value.code() is Code.RESOURCE_EXHAUSTED
    assert trailing(caught.value)["x-refusal-reason"] == "requests"
    assert int(trailing(caught.value)["retry-after"]) >= 1


async def test_a_deadline_that_passes_is_told_over_both_transports():
    script = DeviceScript(gated=True)
    async with running_server(script) as server:
        inside = asyncio.create_task(server.post(IMAGE))
        await script.arrival()
        response = await server.post(IMAGE, timeout_ms="50")
        by_option = await failure(server.call(IMAGE, timeout_ms=50))
        by_call = await failure(server.call(IMAGE, timeout_s=0.05))
        script.open()
        assert (await inside).status_code == 200
    assert (response.status_code, response.json()["code"]) == (504, "deadline-exceeded")
    assert by_option.code() is by_call.code() is Code.DEADLINE_EXCEEDED
    assert trailing(by_option)["x-error-code"] == "deadline-exceeded"
    assert len(script.batches) == 1  # none of the three reached the device


async def test_only_the_poisoned_image_of_a_batch_fails():
    script = DeviceScript(gated=True, poison={66})
    async with running_server(script) as server:
        first = asyncio.create_task(server.post(marked_png(1)))
        await script.arrival()
        others = [asyncio.create_task(server.post(marked_png(mark))) for mark in (60, 66, 70)]
        await server.wait_until_waiting(3)
        script.open()
        answers = [await task for task in others]
        assert (await first).status_code == 200
    assert [answer.status_code for answer in answers] == [200, 500, 200]
    assert answers[1].json()["code"] == "inference-failed"


async def test_a_lost_device_turns_off_readiness_then_liveness():
    script = DeviceScript(fatal={66})
    async with running_server(script) as server:
        assert (await server.http.get("/livez")).status_code == 200
        failed = await server.post(marked_png(66))
        live, ready = await server.http.get("/livez"), await server.http.get("/readyz")
    assert (failed.status_code, failed.json()["code"]) == (503, "device-lost")
    assert (live.status_code, live.json()["code"]) == (503, "device-lost")
    assert (ready.status_code, ready.json()["code"]) == (503, "not-ready")
    assert "fallen off" in ready.json()["detail"]


async def failure(call) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


async def test_what_grpc_itself_says_to_a_message_that_is_too_large():
    """Before we see it, and so without our code, as docs/operations.md says."""
    async with running_server(max_upload_mib=1) as server:
        with pytest.raises(grpc.aio.AioRpcError, match="larger than max") as caught:
            await server.call(bytes(2 << 20))
        assert caught.value.code() is Code.RESOURCE_EXHAUSTED
        assert not {"x-error-code", "retry-after"} & trailing(caught.value).keys()
        assert counted(server.metrics, "birefnet_requests_total", transport="grpc", outcome="malformed-request") == 1

"""`image_url` over both transports: off by default, and on, an image by its URL is answered like an upload."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from protos.matting.v1 import matting_pb2 as pb
from server.access.keys import make_key, write_row
from tests.support.backends import DeviceScript, counted
from tests.support.clients import RunningServer, marked_png, running_server, trailing, until
from tests.support.images import decoded, disc, huge_png_header, png
from tests.support.origin import Origin, Visit, response, running_origin

IMAGE = png(disc(40, 50).image)


@asynccontextmanager
async def fetching(script: DeviceScript | None = None, **settings: Any) -> AsyncIterator[tuple[RunningServer, Origin]]:
    """A server that may fetch from this machine, and an origin with an image."""
    async with running_origin({"/image": response(IMAGE)}) as origin:
        allowed = {"allow_urls": True, "url_allow": ("127.0.0.0/8",), "url_ports": (origin.port,)}
        async with running_server(script, **{**allowed, **settings}) as server:
            yield server, origin


async def call_by_url(server: RunningServer, url: str, timeout_s: float | None = None) -> pb.SegmentResponse:
    answer: pb.SegmentResponse = await server.stub.Segment(pb.SegmentRequest(image_url=url), timeout=timeout_s)
    return answer


async def refuse_call(server: RunningServer, url: str) -> tuple[grpc.StatusCode, str, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call_by_url(server, url)
    return caught.value.code(), trailing(caught.value)["x-error-code"], caught.value.details() or ""


async def hang(visit: Visit) -> None:
    await visit.wait_until_closed()


async def test_off_by_default_and_the_refusal_says_so():
    async with running_origin({"/image": response(IMAGE)}) as origin, running_server() as server:
        answers = [
            await server.http.post("/segment", json={"image_url": origin.url()}),
            await server.http.post("/segment", data={"image_url": origin.url()}),
            await server.http.post("/segment", files={"image_url": (None, origin.url())}),
        ]
        refusal = await refuse_call(server, origin.url())
    assert [answer.status_code for answer in answers] == [422, 422, 422]
    assert {answer.json()["code"] for answer in answers} == {"url-not-allowed"}
    assert {answer.json()["detail"] for answer in answers} == {refusal[2]}
    assert "fetches no images" in refusal[2]
    assert "allow_urls" in refusal[2]
    assert refusal[:2] == (grpc.StatusCode.INVALID_ARGUMENT, "url-not-allowed")
    assert origin.visits == []


async def test_an_image_by_its_url_is_answered_like_the_upload_over_both_transports():
    async with fetching() as (server, origin):
        upload = await server.post(IMAGE, output="cutout")
        answers = [
            await server.http.post("/segment", json={"image_url": origin.url(), "output": "cutout"}),
            await server.http.post("/segment", data={"image_url": origin.url("/image?a=b&c=d"), "output": "cutout"}),
            await server.http.post(
                "/segment?output=cutout", files={"image_url": (None, origin.url()), "timeout_ms": (None, "9000")}
            ),
        ]
        message = pb.SegmentRequest(image_url=origin.url(), options=pb.SegmentOptions(output=pb.OUTPUT_CUTOUT), id="7")
        answer = await server.stub.Segment(message)
    assert [found.status_code for found in answers] == [200, 200, 200], answers[0].text
    assert {found.content for found in answers} == {upload.content} == {answer.image}
    assert decoded(upload.content).shape == (40, 50, 4)
    assert [visit.line for visit in origin.visits][1] == "GET /image?a=b&c=d HTTP/1.1"
    assert len(origin.visits) == 4
    stages = [part.split(";")[0] for part in answers[0].headers["server-timing"].split(", ")]
    assert stages[0] == "fetch"
    assert set(stages) == {"fetch", "decode", "queue", "infer", "encode"}
    assert answer.stages[0].stage == "fetch"
    assert answer.id == "7"
    assert "fetch" not in upload.headers["server-timing"]
    assert counted(server.metrics, "birefnet_stage_seconds_count", stage="fetch") == 4
    assert counted(server.metrics, "birefnet_fetches_total", outcome="ok") == 4


async def test_a_stream_takes_urls_and_images_side_by_side():
    async with fetching() as (server, origin):
        call = server.stub.SegmentStream()
        await call.write(pb.SegmentRequest(image_url=origin.url(), id="url"))
        await call.write(pb.SegmentRequest(image=IMAGE, id="image"))
        await call.write(pb.SegmentRequest(image_url=origin.url("/gone"), id="gone"))
        await call.done_writing()
        found = {answer.id: answer async for answer in call}
    assert found["url"].answer.image == found["image"].answer.image
    assert found["gone"].error.code == "url-fetch-failed"
    assert found["gone"].error.status == grpc.StatusCode.FAILED_PRECONDITION.value[0]


ERRORS = {
    "/gone": (424, "url-fetch-failed", grpc.StatusCode.FAILED_PRECONDITION, "found 404"),
    "/large": (413, "url-too-large", grpc.StatusCode.INVALID_ARGUMENT, "262144"),
    "/pixels": (413, "image-too-large", grpc.StatusCode.INVALID_ARGUMENT, "50"),
    "/page": (415, "not-an-image", grpc.StatusCode.INVALID_ARGUMENT, "found none"),
    "/empty": (415, "not-an-image", grpc.StatusCode.INVALID_ARGUMENT, "found none"),
}


async def test_every_failure_has_its_status_and_code_over_both_transports():
    async with fetching(max_upload_mib=0.25) as (server, origin):
        origin.routes |= {
            "/large": response(bytes(300_000)),
            "/pixels": response(huge_png_header(20_000, 20_000)),
            "/page": response(b"secret"),
            "/empty": response(b""),
        }
        for path, (status, code, grpc_code, hint) in ERRORS.items():
            answer = await server.http.post("/segment", json={"image_url": origin.url(path)})
            problem = answer.json()
            assert (path, answer.status_code, problem["code"]) == (path, status, code), problem
            assert hint in problem["detail"], problem
            assert "secret" not in answer.text
            assert (await refuse_call(server, origin.url(path)))[:2] == (grpc_code, code)
        for url in ("http://169.254.169.254/", "http://localhost/", "ftp://127.0.0.1/", "http://127.0.0.1:1/", "x"):
            answer = await server.http.post("/segment", json={"image_url": url})
            assert (answer.status_code, answer.json()["code"]) == (422, "url-not-allowed"), url
        assert (await server.http.post("/segment", json={"image_url": origin.url()})).status_code == 200


async def test_a_server_that_hangs_is_a_timeout_over_both_transports():
    async with fetching(url_timeout_s=0.1) as (server, origin):
        origin.routes["/hang"] = hang
        answer = await server.http.post("/segment", json={"image_url": origin.url("/hang")})
        refusal = await refuse_call(server, origin.url("/hang"))
        await until(lambda: origin.closed == origin.opened)
    assert (answer.status_code, answer.json()["code"]) == (504, "url-timeout")
    assert answer.json()["detail"] == "image_url: expected the whole image within 0.1 s"
    assert refusal[:2] == (grpc.StatusCode.DEADLINE_EXCEEDED, "url-timeout")


FORM = {"Content-Type": "application/x-www-form-urlencoded"}
AMBIGUOUS: dict[str, tuple[dict[str, Any], int, str]] = {
    "json": ({"json": {"image_url": "http://x/", "image_base64": "aaaa"}}, 400, "beside an image"),
    "form": ({"files": {"image": IMAGE}, "data": {"image_url": "http://x/"}}, 400, "beside an image"),
    "twice": ({"data": {"image_url": ["http://x/", "http://x/"]}}, 400, "2 of `image_url`"),
    "query": ({"params": {"image_url": "http://x/"}, "content": IMAGE}, 422, "in the query"),
    "query alone": ({"params": {"image_url": "http://x/"}, "data": {"image_url": "http://x/"}}, 422, "in the query"),
    "form without": ({"data": {"output": "matte"}}, 400, "without `image_url`"),
    "form of other bytes": ({"content": b"image_url=%FF", "headers": FORM}, 400, "UTF-8"),
    "form of many": ({"data": {"image_url": "x", **{f"a{n}": "x" for n in range(40)}}}, 400, "32 fields"),
    "unknown option": ({"data": {"image_url": "http://x/", "colour": "red"}}, 422, "colour"),
    "list": ({"json": {"image_url": ["http://x/"]}}, 422, "expected a string"),
}


async def test_what_is_not_one_image_is_refused():
    async with fetching() as (server, origin):
        for name, (request, status, hint) in AMBIGUOUS.items():
            answer = await server.http.post("/segment", **request)
            assert (name, answer.status_code) == (name, status), answer.text
            assert hint in answer.json()["detail"], (name, answer.text)
    assert origin.visits == []


async def test_nothing_is_fetched_for_a_request_that_would_be_refused_anyway():
    script = DeviceScript(gated=True)
    async with fetching(script, max_requests=1) as (server, origin):
        wrong = await server.http.post("/segment", json={"image_url": origin.url(), "model": "gone"})
        impossible = await server.http.post(
            "/segment", json={"image_url": origin.url(), "output": "cutout", "format": "jpeg"}
        )
        inside = asyncio.create_task(server.post(marked_png(1)))
        await script.arrival()
        full = await server.http.post("/segment", json={"image_url": origin.url()})
        script.open()
        await inside
        assert counted(server.metrics, "birefnet_refusals_total", reason="requests") == 1
    assert [wrong.status_code, impossible.status_code, full.status_code] == [404, 422, 429]
    assert "retry-after" in full.headers
    assert origin.visits == []


async def test_a_slow_url_takes_no_place_of_work_that_is_ready():
    async with fetching(max_requests=1) as (server, origin):
        origin.routes["/hang"] = hang
        slow = asyncio.create_task(server.http.post("/segment", json={"image_url": origin.url("/hang")}))
        await origin.arrival()
        assert server.process.parts.admission.inside == 0
        assert (await server.post(IMAGE)).status_code == 200
        slow.cancel()
        await asyncio.gather(slow, return_exceptions=True)
        await until(lambda: origin.closed == 1)


async def test_fetches_beyond_the_line_are_refused_and_counted():
    async with fetching(max_requests=1, url_fetches=1) as (server, origin):
        origin.routes["/hang"] = hang
        held = [asyncio.create_task(call_by_url(server, origin.url("/hang")))]
        await origin.arrival()
        held.append(asyncio.create_task(call_by_url(server, origin.url("/hang"))))
        fetcher = server.process.parts.fetcher
        assert fetcher is not None
        await until(lambda: fetcher.places.waiting == 1)
        answer = await server.http.post("/segment", json={"image_url": origin.url()})
        for task in held:
            task.cancel()
        await asyncio.gather(*held, return_exceptions=True)
        await until(lambda: fetcher.places.running == 0)
        assert counted(server.metrics, "birefnet_refusals_total", reason="fetches") == 1
    assert (answer.status_code, answer.json()["code"]) == (429, "overloaded")
    assert int(answer.headers["retry-after"]) >= 1
    assert len(origin.visits) == 1


async def test_one_api_key_takes_no_more_than_half_of_the_places(tmp_path: Path):
    keys = {name: make_key() for name in ("greedy", "modest")}
    path = tmp_path / "keys"
    path.write_text("\n".join(write_row(name, key) for name, key in keys.items()))

    def ask(server: RunningServer, name: str, url: str) -> "asyncio.Task[httpx.Response]":
        headers = {"X-Api-Key": keys[name]}
        return asyncio.create_task(server.http.post("/segment", json={"image_url": url}, headers=headers))

    both = ("127.0.0.0/8", "::1/128")  # of localhost, which is another host than 127.0.0.1 here
    async with fetching(url_fetches=2, url_allow=both, api_keys_file=path) as (server, origin):
        fetcher = server.process.parts.fetcher
        assert fetcher is not None
        origin.routes["/hang"] = hang
        held = [ask(server, "greedy", origin.url("/hang"))]
        await origin.arrival()
        held.append(ask(server, "greedy", origin.url("/image", host="localhost")))
        await until(lambda: fetcher.places.waiting == 1)
        assert (await ask(server, "modest", origin.url(host="localhost"))).status_code == 200
        assert fetcher.places.waiting == 1
        for task in held:
            task.cancel()
        await asyncio.gather(*held, return_exceptions=True)


async def test_clients_that_leave_end_the_fetch():
    async with fetching() as (server, origin):
        origin.routes["/hang"] = hang
        body = httpx.Request("POST", "http://x/", json={"image_url": origin.url("/hang")}).read()
        headers = f"Host: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
        _, writer = await asyncio.open_connection("127.0.0.1", server.process.port)
        writer.write(f"POST /segment HTTP/1.1\r\n{headers}\r\n\r\n".encode() + body)
        await origin.arrival()
        writer.close()
        await until(lambda: origin.closed == 1)
        call = asyncio.create_task(call_by_url(server, origin.url("/hang")))
        await origin.arrival()
        call.cancel()
        await until(lambda: origin.closed == 2)
        await asyncio.gather(call, return_exceptions=True)
        assert counted(server.metrics, "birefnet_fetches_total", outcome="cancelled") == 2
        await until(
            lambda: counted(server.metrics, "birefnet_requests_total", transport="rest", outcome="cancelled") == 1
        )


async def test_the_time_of_the_fetch_is_time_of_the_request():
    async with fetching() as (server, origin):
        origin.routes["/hang"] = hang
        answer = await server.http.post("/segment", json={"image_url": origin.url("/hang"), "timeout_ms": 100})
        assert (answer.status_code, answer.json()["code"]) == (504, "deadline-exceeded")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call_by_url(server, origin.url("/hang"), timeout_s=0.1)
        await until(lambda: origin.closed == origin.opened)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_a_drain_refuses_what_is_still_being_fetched_and_loses_nothing():
    release = asyncio.Event()

    async def later(visit: Visit) -> None:
        await release.wait()
        await visit.send(response(IMAGE))

    async with fetching() as (server, origin):
        origin.routes["/later"] = later
        asking = asyncio.create_task(server.http.post("/segment", json={"image_url": origin.url("/later")}))
        await origin.arrival()
        server.process.take_signal(signal.SIGTERM)
        await until(lambda: server.process.parts.admission.draining)
        release.set()
        answer = await asking
        assert (await server.task) == 0
    assert (answer.status_code, answer.json()["code"]) == (503, "draining")
    assert int(answer.headers["retry-after"]) >= 1


async def test_openapi_names_the_field():
    async with running_server() as server:
        content = (await server.http.get("/openapi.json")).json()["paths"]["/segment"]["post"]["requestBody"]["content"]
    for media_type in ("application/json", "multipart/form-data", "application/x-www-form-urlencoded"):
        assert "image_url" in content[media_type]["schema"]["properties"], media_type

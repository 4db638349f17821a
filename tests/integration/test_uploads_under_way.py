"""Bodies on their way are bounded, and whoever would be refused anyway is refused before the body is read."""

import asyncio
import queue
import time
from contextlib import ExitStack
from typing import Any

import grpc
import httpx
import pytest

from protos.matting.v1 import matting_pb2 as pb
from tests.support.backends import counted, turn_loop
from tests.support.clients import RunningServer, marked_png, running_server, trailing, until
from tests.support.memory import resident_bytes
from tests.support.processes import PATIENCE_S, live_server

HEAD = "POST /segment HTTP/1.1\r\nHost: x\r\n{fields}\r\n"
IMAGE = marked_png(5)


async def begin(server: RunningServer, **fields: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Send the head of a request and nothing of its body."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.process.port)
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items())
    writer.write(HEAD.format(fields=lines).encode())
    return reader, writer


def silent_call(server: RunningServer) -> Any:
    """A single call, as it is on the wire, whose message does not come."""
    return server.channel.stream_unary(
        "/matting.v1.Matting/Segment",
        request_serializer=pb.SegmentRequest.SerializeToString,
        response_deserializer=pb.SegmentResponse.FromString,
    )()


async def status(reader: asyncio.StreamReader) -> int:
    return int((await reader.readline()).split()[1])


def under_way(server: RunningServer) -> int:
    number: int = server.process.parts.uploads.number
    return number


def refusals(server: RunningServer, reason: str) -> float:
    return counted(server.metrics, "birefnet_refusals_total", reason=reason)


async def test_a_body_that_does_not_come_takes_a_place_until_its_client_leaves():
    async with running_server(max_uploads=1) as server:
        _, slow = await begin(server, Content_Length="1000")
        await until(lambda: under_way(server) == 1)
        refused = await server.post(IMAGE)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await server.call(IMAGE)
        slow.close()
        await until(lambda: under_way(server) == 0)
        assert (await server.post(IMAGE)).status_code == 200
        assert (await server.call(IMAGE)).width == 16
        assert refusals(server, "uploads") == 2
    assert (refused.status_code, refused.json()["code"]) == (429, "overloaded")
    assert int(refused.headers["retry-after"]) >= 1
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert int(trailing(caught.value)["retry-after"]) >= 1


async def test_announced_bytes_are_refused_before_any_of_them_comes():
    async with running_server(max_uploads_mib=1) as server:
        _, first = await begin(server, Content_Length=str(700 << 10))
        await until(lambda: under_way(server) == 1)
        reader, second = await begin(server, Content_Length=str(700 << 10))
        assert await status(reader) == 429
        assert refusals(server, "uploads") == 1
        assert server.process.parts.uploads.bytes == 700 << 10
        first.close()
        second.close()


async def test_an_announcement_beyond_the_limit_is_413_even_where_there_is_no_room():
    async with running_server(max_upload_mib=1, max_uploads=1) as server:
        _, first = await begin(server, Content_Length="1000")
        await until(lambda: under_way(server) == 1)
        reader, second = await begin(server, Content_Length=str(1 << 40))
        assert await status(reader) == 413
        assert refusals(server, "uploads") == 0
        first.close()
        second.close()


async def test_a_draining_server_refuses_before_the_body():
    async with running_server() as server:
        drained = asyncio.create_task(server.process.parts.admission.drain())
        await asyncio.sleep(0)
        reader, writer = await begin(server, Content_Length="1000")
        assert await status(reader) == 503
        unary = silent_call(server)
        assert await unary.code() is grpc.StatusCode.UNAVAILABLE
        assert dict(await unary.trailing_metadata())["x-error-code"] == "draining"
        assert refusals(server, "draining") == 2
        await drained
        writer.close()


async def test_a_call_without_a_message_is_malformed():
    async with running_server() as server:
        call = silent_call(server)
        await call.done_writing()
        assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert dict(await call.trailing_metadata())["x-error-code"] == "malformed-request"


async def test_a_message_that_does_not_come_is_given_up():
    async with running_server(max_timeout_s=0.2, timeout_s=0.2) as server:
        call = silent_call(server)
        assert await call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert under_way(server) == 0


async def test_messages_of_unknown_length_wait_until_there_is_room_for_the_largest():
    async with running_server(max_upload_mib=1, max_uploads_mib=2) as server:
        silent = silent_call(server)
        await until(lambda: server.process.parts.uploads.bytes > 1 << 20)
        waiting = asyncio.create_task(server.call(IMAGE))
        await until(lambda: under_way(server) == 2)
        await turn_loop(50)
        assert under_way(server) == 2
        assert server.process.parts.uploads.bytes < 2 << 20
        assert (await server.post(IMAGE)).status_code == 200  # which says how long it is
        silent.cancel()
        assert (await waiting).width == 16
        await until(lambda: server.process.parts.uploads.bytes == 0)


def wait_for_uploads(http: httpx.Client, number: int) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while f"\nbirefnet_uploads {number}.0\n" not in (page := http.get("/metrics").text):
        assert time.monotonic() < deadline, page


def test_calls_that_wait_to_be_read_take_hardly_any_memory():
    """What gRPC itself takes in of them counts nowhere, so it must be little, however much they send."""
    calls, size, taken = 24, 4 << 20, 512 << 10
    flags = ("--backend", "fake", "--refiner", "none", "--max-upload-mib", "8", "--max-uploads-mib", "16")
    with ExitStack() as stack:
        live = stack.enter_context(live_server(*flags))
        http = stack.enter_context(httpx.Client(base_url=live.http))
        channel = stack.enter_context(grpc.insecure_channel(live.grpc))
        method = "/matting.v1.Matting/Segment"
        silence = queue.SimpleQueue[None]()
        silent: Any = channel.stream_unary(method).future(iter(silence.get, None))  # the only one that is being read
        wait_for_uploads(http, 1)
        before = resident_bytes(live.process.pid)
        segment = channel.unary_unary(method, pb.SegmentRequest.SerializeToString, pb.SegmentResponse.FromString)
        waiting = [segment.future(pb.SegmentRequest(image=IMAGE + bytes(size))) for _ in range(calls)]
        wait_for_uploads(http, 1 + calls)
        for _ in range(100):  # in which more would come
            http.get("/livez").raise_for_status()
            assert resident_bytes(live.process.pid) - before < calls * taken + (8 << 20)
        silent.cancel()
        silence.put(None)
        assert {call.result(PATIENCE_S).width for call in waiting} == {16}

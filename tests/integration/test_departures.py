"""Clients that leave before their answer: their work is dropped, over both transports, and counted."""

import asyncio

import grpc
import pytest

from protos.matting.v1 import matting_pb2 as pb
from tests.support.backends import DeviceScript, counted
from tests.support.clients import RunningServer, marked_png, running_server, until


async def send(server: RunningServer, body: bytes) -> asyncio.StreamWriter:
    """Post an image over a socket of our own, and do not wait."""
    _, writer = await asyncio.open_connection("127.0.0.1", server.process.port)
    writer.write(b"POST /segment HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    await writer.drain()
    return writer


async def occupied(script: DeviceScript, server: RunningServer) -> "asyncio.Task[object]":
    """A request that holds the device at the gate."""
    task: asyncio.Task[object] = asyncio.create_task(server.post(marked_png(1)))
    await script.arrival()
    return task


async def test_http_clients_that_close_while_queued_never_reach_the_device():
    script = DeviceScript(gated=True)
    async with running_server(script) as server:
        first = await occupied(script, server)
        leaving = [await send(server, marked_png(mark)) for mark in (100, 101, 102)]
        staying = asyncio.create_task(server.post(marked_png(200)))
        await server.wait_until_waiting(4)
        for writer in leaving:
            writer.close()
        await server.wait_until_waiting(1)
        script.open()
        assert (await staying).status_code == 200
        await first
        await until(lambda: counted_requests(server, "rest", "cancelled") == 3)
        assert server.process.parts.admission.inside == 0
        assert counted(server.metrics, "birefnet_dropped_total", reason="cancelled") == 3
    assert script.batches == [[1], [200]]


async def test_grpc_clients_that_cancel_while_queued_never_reach_the_device():
    script = DeviceScript(gated=True)
    async with running_server(script) as server:
        first = await occupied(script, server)
        leaving = [server.stub.Segment(pb.SegmentRequest(image=marked_png(mark))) for mark in (100, 101, 102)]
        staying = asyncio.create_task(server.call(marked_png(200)))
        await server.wait_until_waiting(4)
        for call in leaving:
            call.cancel()
        await server.wait_until_waiting(1)
        script.open()
        assert (await staying).batch_size == 1
        await first
        await until(lambda: counted_requests(server, "grpc", "cancelled") == 3)
        assert counted(server.metrics, "birefnet_dropped_total", reason="cancelled") == 3
    assert script.batches == [[1], [200]]


async def test_a_cancelled_stream_drops_all_its_images():
    script = DeviceScript(gated=True)
    async with running_server(script) as server:
        first = await occupied(script, server)
        call = server.stub.SegmentStream()
        for mark in (100, 101, 102):
            await call.write(pb.SegmentRequest(image=marked_png(mark), id=str(mark)))
        await server.wait_until_waiting(3)
        call.cancel()
        await server.wait_until_waiting(0)
        script.open()
        await first
        assert counted_requests(server, "grpc", "cancelled") == 3
    assert script.batches == [[1]]


async def test_a_grpc_deadline_drops_the_work_at_the_server_too():
    script = DeviceScript(gated=True)
    async with running_server(script) as server:
        first = await occupied(script, server)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await server.call(marked_png(100), timeout_s=1.0)
        await server.wait_until_inside(1)
        script.open()
        await first
        assert counted_requests(server, "grpc", "deadline-exceeded") == 1
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert script.batches == [[1]]


async def test_a_client_that_leaves_within_its_upload_costs_nothing():
    script = DeviceScript()
    async with running_server(script) as server:
        _, writer = await asyncio.open_connection("127.0.0.1", server.process.port)
        writer.write(b"POST /segment HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n" + marked_png(1)[:50])
        await writer.drain()
        writer.close()
        await until(lambda: counted_requests(server, "rest", "cancelled") == 1)
        assert server.process.parts.admission.inside == 0
    assert script.batches == []


async def test_a_body_that_never_arrives_is_answered_and_its_connection_closed():
    """A client that stalls, or sends a byte now and then, must not keep what it has sent in memory."""
    async with running_server(timeout_s=0.2, max_timeout_s=0.2) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.process.port)
        writer.write(b"POST /segment HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n" + marked_png(1)[:50])
        async with asyncio.timeout(4):  # far less than an idle connection is kept
            answer = await reader.read()
        writer.close()
        assert counted_requests(server, "rest", "deadline-exceeded") == 1
        assert server.process.parts.admission.inside == 0
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 504 ")
    assert b"\r\nconnection: close" in head.lower()
    assert b"the body did not arrive within 0.2 s" in body


def counted_requests(server: RunningServer, transport: str, outcome: str) -> float:
    labels = {"transport": transport, "outcome": outcome}
    return server.metrics.registry.get_sample_value("birefnet_requests_total", labels) or 0.0

"""How long gRPC connections last, how many images of a stream are worked on, and how large metadata may be."""

import asyncio

import grpc
import pytest

from protos.matting.v1 import matting_pb2 as pb
from tests.support.backends import PATIENCE_S, DeviceScript, counted, turn_loop
from tests.support.clients import marked_png, running_server, until

IMAGE = marked_png(5)
READY = grpc.ChannelConnectivity.READY


async def test_an_aged_connection_ends_and_its_calls_do_not():
    script = DeviceScript(gated=True)
    async with running_server(script, grpc_max_connection_age_s=0.2) as server:
        call = asyncio.create_task(server.call(IMAGE))
        await script.arrival()
        # GOAWAY has come: the channel would connect anew for the next call.
        await until(lambda: server.channel.get_state() is not READY)
        script.open()
        assert (await call).media_type == "image/png"
        assert (await server.call(IMAGE)).media_type == "image/png"


async def test_a_call_that_outlasts_the_grace_of_its_connection_is_cancelled_and_dropped():
    script = DeviceScript(gated=True)
    async with running_server(script, grpc_max_connection_age_s=0.1, grpc_connection_grace_s=0.1) as server:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await server.call(IMAGE)
        await server.wait_until_inside(0)
        script.open()
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_connections_have_no_age_unless_told():
    async with running_server() as server:
        await server.call(IMAGE)
        assert server.channel.get_state() is READY


async def test_a_stream_is_read_as_far_as_its_window():
    script = DeviceScript(gated=True)
    async with running_server(script, grpc_stream_window=3) as server:
        stream = server.stub.SegmentStream()
        for number in range(5):
            await stream.write(pb.SegmentRequest(image=IMAGE, id=str(number)))
        await server.wait_until_inside(3)
        await turn_loop(50)
        assert server.process.parts.admission.inside == 3
        script.open()
        await stream.done_writing()
        assert {response.id async for response in stream} == set("01234")


async def test_one_stream_too_many_is_refused_before_it_is_read():
    async with running_server(grpc_max_streams=1) as server:
        first = server.stub.SegmentStream()
        await first.write(pb.SegmentRequest(image=IMAGE, id="1"))
        assert (await first.read()).answer.image
        assert counted(server.metrics, "birefnet_grpc_streams") == 1
        second = server.stub.SegmentStream()
        assert await second.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        found = {str(key): value for key, value in await second.trailing_metadata()}
        assert (found["x-error-code"], found["x-refusal-reason"]) == ("overloaded", "streams")
        assert int(found["retry-after"]) >= 1
        assert counted(server.metrics, "birefnet_refusals_total", reason="streams") == 1
        await first.done_writing()
        assert await first.read() is grpc.aio.EOF
        await until(lambda: counted(server.metrics, "birefnet_grpc_streams") == 0)
        third = server.stub.SegmentStream()
        await third.write(pb.SegmentRequest(image=IMAGE, id="3"))
        assert (await third.read()).answer.image
        third.cancel()


async def test_one_connection_cannot_begin_calls_without_end():
    """The limit is told to clients, in the settings of HTTP/2, and lies above those that refuse with a reason."""
    async with running_server(max_requests=10, max_uploads=20, grpc_max_streams=5) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.process.grpc_port)
        writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\x04\0\0\0\0\0")
        head = await reader.readexactly(9)
        body = await reader.readexactly(int.from_bytes(head[:3], "big"))
        writer.close()
    assert head[3] == 4, "a frame of settings"
    settings = {body[at : at + 2]: int.from_bytes(body[at + 2 : at + 6], "big") for at in range(0, len(body), 6)}
    assert settings[b"\0\x03"] == 2 * (10 + 20 + 5)


async def test_metadata_beyond_the_limit_is_refused():
    async with running_server() as server:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await server.stub.Segment(pb.SegmentRequest(image=IMAGE), metadata=(("x-large", "y" * 20_000),))
        assert (await server.call(IMAGE)).media_type == "image/png"
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_stream_is_refused_unread_while_the_server_drains():
    async with running_server() as server:
        await server.process.parts.admission.drain()
        stream = server.stub.SegmentStream()  # nothing is sent
        assert await stream.code() is grpc.StatusCode.UNAVAILABLE
        assert dict(await stream.trailing_metadata())["x-error-code"] == "draining"
        assert counted(server.metrics, "birefnet_refusals_total", reason="draining") == 1


async def test_a_stream_on_which_nothing_happens_ends():
    script = DeviceScript(gated=True)
    async with running_server(script, grpc_max_streams=1, grpc_stream_idle_s=0.5) as server:
        stream = server.stub.SegmentStream()
        await stream.write(pb.SegmentRequest(image=IMAGE, id="1"))
        await server.wait_until_inside(1)
        await asyncio.sleep(0.8)  # longer than the limit: it is worked for
        script.open()
        assert (await stream.read()).answer.image
        async with asyncio.timeout(PATIENCE_S):
            assert await stream.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert dict(await stream.trailing_metadata())["x-error-code"] == "deadline-exceeded"
        assert counted(server.metrics, "birefnet_grpc_streams") == 0

"""How long gRPC connections last, how many images of a stream are worked on, and how large metadata may be."""

import asyncio

import grpc
import pytest

from protos.matting.v1 import matting_pb2 as pb
from tests.support.backends import DeviceScript, turn_loop
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


async def test_metadata_beyond_the_limit_is_refused():
    async with running_server() as server:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await server.stub.Segment(pb.SegmentRequest(image=IMAGE), metadata=(("x-large", "y" * 20_000),))
        assert (await server.call(IMAGE)).media_type == "image/png"
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED

"""Channels repeat refused calls by themselves, when they were told to; nothing of an answer may have come before."""

import asyncio

import grpc
import pytest

from protos.matting.v1 import matting_pb2 as pb
from protos.matting.v1 import matting_pb2_grpc
from tests.support.backends import DeviceScript, counted
from tests.support.clients import marked_png, running_server, trailing, until
from tests.support.fleet import CHANNEL_OPTIONS
from tests.support.images import noise, png

IMAGE = marked_png(7)


@pytest.mark.parametrize("image", [marked_png(9), png(noise(320, 320))], ids=["small", "above gRPC's own buffer"])
async def test_a_refused_call_is_repeated_by_the_channel_when_the_server_said(image):
    script = DeviceScript(gated=True)
    async with running_server(script, max_requests=1) as server:
        inside = asyncio.create_task(server.call(IMAGE))
        await script.arrival()
        target = f"127.0.0.1:{server.process.grpc_port}"
        async with grpc.aio.insecure_channel(target, options=CHANNEL_OPTIONS) as channel:
            call = matting_pb2_grpc.MattingStub(channel).Segment(pb.SegmentRequest(image=image))
            await until(lambda: counted(server.metrics, "birefnet_refusals_total", reason="requests") == 1)
            script.open()
            answer = await call
            await inside
        assert answer.image
        assert counted(server.metrics, "birefnet_requests_total", transport="grpc", outcome="ok") == 2


async def test_a_refusal_is_trailers_only_and_says_when_to_come_back_to_channels_too():
    script = DeviceScript(gated=True)
    async with running_server(script, max_requests=1) as server:
        inside = asyncio.create_task(server.call(IMAGE))
        await script.arrival()
        call = server.stub.Segment(pb.SegmentRequest(image=IMAGE), metadata=(("x-request-id", "mine"),))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        script.open()
        await inside
    found = trailing(caught.value)
    assert not await call.initial_metadata(), "what has initial metadata is never repeated by a channel"
    assert int(found["grpc-retry-pushback-ms"]) == 1000 * int(found["retry-after"]) > 0
    assert found["x-request-id"] == "mine"

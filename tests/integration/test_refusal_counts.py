"""What clients are told and what the server counts are the same numbers, reason by reason, over every transport."""

import asyncio
from collections import Counter

import grpc

from protos.matting.v1 import matting_pb2 as pb
from server.observability.metrics import REFUSALS
from tests.support.backends import DeviceScript, counted
from tests.support.clients import RunningServer, marked_png, running_server, trailing


def refused_by(server: RunningServer) -> dict[str, int]:
    counts = {reason: int(counted(server.metrics, "birefnet_refusals_total", reason=reason)) for reason in REFUSALS}
    return {reason: count for reason, count in counts.items() if count}


async def post(server: RunningServer, mark: int, **options: str) -> tuple[str, int]:
    response = await server.post(marked_png(mark), **options)
    return response.json()["reason"], int(response.headers["retry-after"])


async def call(server: RunningServer, mark: int, **options: int) -> tuple[str, int]:
    try:
        await server.call(marked_png(mark), **options)
    except grpc.aio.AioRpcError as error:
        found = trailing(error)
        return found["x-refusal-reason"], int(found["retry-after"])
    raise AssertionError("expected a refusal")


async def stream(server: RunningServer, marks: range) -> list[tuple[str, int]]:
    opened = server.stub.SegmentStream()
    for mark in marks:
        await opened.write(pb.SegmentRequest(image=marked_png(mark), id=str(mark)))
    await opened.done_writing()
    return [(response.error.reason, response.error.retry_after_s) async for response in opened]


async def test_every_refusal_is_told_and_counted_under_one_reason():
    script = DeviceScript(gated=True)
    async with running_server(script, max_requests=4, grpc_max_streams=1) as server:
        for mark in range(10):  # so that what a request takes is known
            script.let_pass()
            assert (await server.post(marked_png(mark))).status_code == 200
        inside = [asyncio.create_task(server.post(marked_png(20 + mark))) for mark in range(4)]
        await server.wait_until_inside(4)
        told = [await post(server, 30 + mark) for mark in range(7)]
        told += [await call(server, 40 + mark) for mark in range(5)]
        told += await stream(server, range(50, 53))
        held = server.stub.SegmentStream()
        await held.write(pb.SegmentRequest(image=b"no image", id="held"))
        assert (await held.read()).error.reason == ""
        second = server.stub.SegmentStream()
        assert await second.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        found = {str(key): value for key, value in await second.trailing_metadata()}
        told.append((str(found["x-refusal-reason"]), int(found["retry-after"])))
        held.cancel()
        script.open()
        assert [(await each).status_code for each in inside] == [200] * 4
        assert all(seconds >= 1 for _, seconds in told)
        counts = Counter(reason for reason, _ in told)
        assert counts == {"requests": 15, "streams": 1}
        assert refused_by(server) == counts

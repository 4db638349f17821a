"""What clients are told and what the server counts are the same numbers, reason by reason, over every transport."""

import asyncio
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import grpc
import pytest

from protos.matting.v1 import matting_pb2 as pb
from server.observability.metrics import REFUSALS
from tests.support.backends import DeviceScript, counted
from tests.support.clients import RunningServer, marked_png, running_server, trailing
from tests.support.refusals import SITUATIONS, Knock


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


def test_every_reason_has_a_situation():
    assert set(SITUATIONS) == set(REFUSALS)


@pytest.mark.parametrize("reason", REFUSALS)
async def test_each_reason_is_told_and_counted_over_every_transport(reason, tmp_path: Path):
    async with SITUATIONS[reason](tmp_path) as (server, knock):
        before = refused_by(server)
        assert before.keys() <= {reason}
        told = []
        if knock.single:
            told += [await by_rest(server, knock), await by_call(server, knock)]
        if knock.streams:
            told.append(await by_stream(server, knock))
        assert [each for each, _ in told] == [reason] * len(told)
        assert [retry_after is not None for _, retry_after in told] == [knock.advised] * len(told)
        assert all(seconds is None or seconds >= 1 for _, seconds in told)
        assert refused_by(server) == {reason: before.get(reason, 0) + len(told)}


Told = tuple[str | None, int | None]
"""The reason of a refusal, and the seconds until the client may come back."""


async def by_rest(server: RunningServer, knock: Knock) -> Told:
    params = {} if knock.timeout_ms is None else {"timeout_ms": str(knock.timeout_ms)}
    body = {"content": knock.image} if knock.url is None else {"json": {"image_url": knock.url}}
    response = await server.http.post("/segment", params=params, headers=dict(knock.headers), **body)
    advice = response.headers.get("retry-after")
    return response.json()["reason"], None if advice is None else int(advice)


async def by_call(server: RunningServer, knock: Knock) -> Told:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await server.stub.Segment(message(knock), metadata=tuple(knock.headers.items()))
    return told_in(trailing(caught.value))


async def by_stream(server: RunningServer, knock: Knock) -> Told:
    stream = server.stub.SegmentStream(metadata=tuple(knock.headers.items()))
    try:
        await stream.write(message(knock))
        response = await stream.read()
    except grpc.aio.AioRpcError as refused:  # the stream itself
        return told_in(trailing(refused))
    if response is grpc.aio.EOF:
        return told_in({str(key): str(value) for key, value in await stream.trailing_metadata()})
    stream.cancel()
    error = response.error
    return error.reason, error.retry_after_s or None


def message(knock: Knock) -> pb.SegmentRequest:
    options = pb.SegmentOptions() if knock.timeout_ms is None else pb.SegmentOptions(timeout_ms=knock.timeout_ms)
    if knock.url is not None:
        return pb.SegmentRequest(image_url=knock.url, options=options)
    return pb.SegmentRequest(image=knock.image, options=options)


def told_in(found: Mapping[str, str]) -> Told:
    advice = found.get("retry-after")
    return found.get("x-refusal-reason"), None if advice is None else int(advice)

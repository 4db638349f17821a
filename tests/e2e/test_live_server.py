"""A live process, started as people start it, and clients outside of it."""

import asyncio
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator

import grpc
import httpx
import numpy as np
import pytest

from protos.matting.v1 import matting_pb2 as pb
from protos.matting.v1 import matting_pb2_grpc
from server.app.lifecycle import FAILED
from tests.support.images import decoded, jpeg, photographs, png
from tests.support.processes import PATIENCE_S, ROOT, LiveServer, clean_environment, live_server

SLOW_FAKE = ("--backend", "fake", "--max-batch", "2", "--fake-latency-s", "1")


@pytest.fixture(scope="module")
def live() -> Iterator[LiveServer]:
    """The server as it is out of the box."""
    with live_server() as server:
        yield server


@pytest.mark.parametrize("name", sorted(photographs()))
def test_a_photograph_gives_the_same_matte_over_rest_and_grpc(live: LiveServer, name: str):
    pixels = photographs()[name]
    image = jpeg(pixels) if name in ("astronaut", "chelsea") else png(pixels)
    response = httpx.post(f"{live.http}/segment", files={"image": image}, timeout=PATIENCE_S)
    assert response.status_code == 200, response.text
    with grpc.insecure_channel(live.grpc) as channel:
        answer = matting_pb2_grpc.MattingStub(channel).Segment(pb.SegmentRequest(image=image), timeout=PATIENCE_S)
    assert response.content == answer.image
    matte = decoded(answer.image)
    assert matte.shape == pixels.shape[:2]
    assert matte.dtype == np.uint8
    assert np.ptp(matte) > 100  # something was separated from something


async def test_32_at_once_form_batches_and_each_gets_its_own_matte(live: LiveServer):
    """Sixteen images of different sizes and subjects, each twice, once over each transport."""
    images = _different_images(16)
    async with (
        httpx.AsyncClient(base_url=live.http, timeout=PATIENCE_S) as http,
        grpc.aio.insecure_channel(live.grpc) as channel,
    ):
        stub = matting_pb2_grpc.MattingStub(channel)
        alone = [(await http.post("/segment", content=image)).content for image in images]
        batches_before = await _batch_sizes(http)
        posts = [_post(http, image) for image in images]
        calls = [_call(stub, image) for image in images]
        together = await asyncio.gather(*posts, *calls)
        batches = await _batch_sizes(http)
    runs, items = (after - before for after, before in zip(batches, batches_before, strict=True))
    assert items == 32
    assert runs < 32, "no two of 32 concurrent requests shared a batch"
    for got, wanted in zip(together, [*alone, *alone], strict=True):
        found, expected = decoded(got), decoded(wanted)
        assert found.shape == expected.shape
        # A batch of two and one image alone may round differently in the last bit.
        assert np.abs(found.astype(int) - expected).max() <= 1


def test_it_is_not_ready_before_it_is_warm():
    with live_server(*SLOW_FAKE, ready=False) as server:
        early, live = httpx.get(f"{server.http}/readyz"), httpx.get(f"{server.http}/livez")
        server.wait_for("ready")
        late = httpx.get(f"{server.http}/readyz")
    assert (early.status_code, live.status_code, late.status_code) == (503, 200, 200)
    assert "warming up" in early.json()["detail"]


async def test_sigterm_with_requests_in_flight_loses_none_and_exits_0():
    image = png(np.full((16, 16, 3), 77, np.uint8))
    with live_server(*SLOW_FAKE) as server:
        async with (
            httpx.AsyncClient(base_url=server.http, timeout=PATIENCE_S) as http,
            grpc.aio.insecure_channel(server.grpc) as channel,
        ):
            stub = matting_pb2_grpc.MattingStub(channel)
            tasks = [asyncio.create_task(_post(http, image)) for _ in range(6)]
            tasks += [asyncio.create_task(_call(stub, image)) for _ in range(6)]
            await _wait_for_queue(http, 8)  # of 12, at most 2 are on the device: nearly all are inside
            server.signal(signal.SIGTERM)
            answers = await asyncio.gather(*tasks)
        code = await asyncio.to_thread(server.wait)
    assert [int(decoded(answer).max()) for answer in answers] == [77] * 12
    assert code == 0


def test_sigterm_while_warming_up_ends_it_in_order():
    with live_server(*SLOW_FAKE, ready=False) as server:
        server.signal(signal.SIGTERM)
        assert server.wait(30) == 0
        records = server.wait_for_records()
    assert "drained" in [record["message"] for record in records]
    assert "ready" not in [record["message"] for record in records]
    assert {record["level"] for record in records} == {"INFO"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_idle_server_leaves_at_once(number: signal.Signals):
    with live_server("--backend", "fake") as server:
        server.signal(number)
        assert server.wait(20) == 0


async def test_a_second_signal_ends_it_at_once():
    image = png(np.full((16, 16, 3), 77, np.uint8))
    with live_server("--backend", "fake", "--fake-latency-s", "3", "--max-batch", "1") as server:
        async with httpx.AsyncClient(base_url=server.http, timeout=PATIENCE_S) as http:
            stuck = [asyncio.create_task(http.post("/segment", content=image)) for _ in range(4)]
            await _wait_for_queue(http, 3)
            server.signal(signal.SIGTERM)
            await asyncio.to_thread(server.wait_for, "SIGTERM: not ready any more, draining")
            server.signal(signal.SIGTERM)
            code = await asyncio.to_thread(server.wait, 5)
            results = await asyncio.gather(*stuck, return_exceptions=True)
    assert code == 128 + signal.SIGTERM
    assert any(isinstance(result, httpx.TransportError) for result in results)


def test_a_port_in_use_ends_it_with_a_clear_error():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-m", "server", "serve", "--backend", "fake", "--port", port, "--grpc-port", "0"]
        result = subprocess.run(
            command, cwd=ROOT, env=clean_environment(), capture_output=True, text=True, timeout=PATIENCE_S, check=False
        )
    assert result.returncode == FAILED
    assert f"cannot listen on 127.0.0.1:{port}: Address already in use" in result.stderr
    assert "Traceback" not in result.stderr


def test_logs_are_json_with_request_ids(live: LiveServer):
    response = httpx.get(f"{live.http}/version", headers={"X-Request-Id": "log-me"})
    assert response.status_code == 200
    record = live.wait_for("request answered")
    while record.get("request_id") != "log-me":
        live.records.remove(record)
        record = live.wait_for("request answered")
    assert (record["path"], record["status"], record["outcome"]) == ("/version", 200, "ok")


def _different_images(count: int) -> list[bytes]:
    """Crops of photographs, each of another size."""
    sources = list(photographs().values())
    crops = []
    for number in range(count):
        source = sources[number % len(sources)]
        step = number // len(sources)
        crops.append(jpeg(np.ascontiguousarray(source[20 * step : 260 + 5 * number, 30 * step : 280 + 9 * number])))
    return crops


async def _post(http: httpx.AsyncClient, image: bytes) -> bytes:
    response = await http.post("/segment", content=image)
    assert response.status_code == 200, response.text
    return response.content


async def _call(stub: matting_pb2_grpc.MattingStub, image: bytes) -> bytes:
    answer: pb.SegmentResponse = await stub.Segment(pb.SegmentRequest(image=image), timeout=PATIENCE_S)  # type: ignore[misc]
    return answer.image


async def _metric(http: httpx.AsyncClient, name: str) -> float:
    lines = (await http.get("/metrics")).text.splitlines()
    return float(next(line.split()[-1] for line in lines if line.startswith(f"{name} ")))


async def _batch_sizes(http: httpx.AsyncClient) -> tuple[float, float]:
    return await _metric(http, "birefnet_batch_size_count"), await _metric(http, "birefnet_batch_size_sum")


async def _wait_for_queue(http: httpx.AsyncClient, depth: int) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while await _metric(http, "birefnet_queue_depth") < depth:  # noqa: ASYNC110 - another process has no event here
            await asyncio.sleep(0.01)

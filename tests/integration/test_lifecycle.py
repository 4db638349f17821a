"""From the first breath to the last: warming up, ready, draining, gone."""

import asyncio
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import Any

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from protos.matting.v1 import matting_pb2 as pb
from server.app.lifecycle import Process, serve
from server.backends.base import Backend, BackendFault
from server.backends.fake import FakeBackend
from server.settings import Settings
from tests.support.backends import PATIENCE_S, DeviceScript, counted
from tests.support.clients import RunningServer, marked_png, running_server, trailing, until

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


async def health(server: RunningServer) -> int:
    stub = health_pb2_grpc.HealthStub(server.channel)
    return int((await stub.Check(health_pb2.HealthCheckRequest(service="matting.v1.Matting"))).status)


async def test_while_warming_up_it_is_live_but_not_ready_and_refuses():
    opened = threading.Event()

    def hold(artifact_id: str, arrays: object) -> None:
        assert opened.wait(PATIENCE_S)

    process = Process(Settings(port=0, grpc_port=0, backend="fake"), lambda: FakeBackend(before_run=hold))
    task = asyncio.create_task(process.run())
    async with (
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{process.port}") as http,
        grpc.aio.insecure_channel(f"127.0.0.1:{process.grpc_port}") as channel,
    ):
        server = RunningServer(process, task, http, channel)
        await until(lambda: "warming up" in (process.unready_reason() or ""))
        live, ready = await http.get("/livez"), await http.get("/readyz")
        refused = await server.post(marked_png(1))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await server.call(marked_png(1))
        before = await health(server)
        opened.set()
        await until(lambda: process.unready_reason() is None)
        after = (await http.get("/readyz")).status_code
        assert (await server.post(marked_png(1))).status_code == 200
        process.take_signal(signal.SIGTERM)
        assert await task == 0
    assert live.status_code == 200
    assert (ready.status_code, ready.json()["code"]) == (503, "not-ready")
    assert "warming up" in ready.json()["detail"]
    assert (refused.status_code, refused.json()["code"]) == (503, "not-ready")
    assert int(refused.headers["retry-after"]) > 0
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert before == NOT_SERVING
    assert after == 200


async def test_draining_refuses_new_work_and_finishes_what_is_inside_on_both_transports():
    script = DeviceScript(gated=True)
    async with running_server(script) as server:
        inside = [asyncio.create_task(server.post(marked_png(1)))]
        await script.arrival()
        inside.append(asyncio.create_task(server.post(marked_png(2))))
        calls = [asyncio.create_task(server.call(marked_png(3)))]
        await server.wait_until_inside(3)
        server.process.take_signal(signal.SIGTERM)
        ready = await server.http.get("/readyz")
        refused = await server.post(marked_png(9))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await server.call(marked_png(9))
        checked = await health(server)
        live = await server.http.get("/livez")
        assert not server.task.done()
        script.open()
        answers = [await task for task in inside]
        messages = [await task for task in calls]
        code = await server.task
    assert (ready.status_code, "shutting down" in ready.json()["detail"]) == (503, True)
    assert (refused.status_code, refused.json()["code"]) == (503, "draining")
    assert int(refused.headers["retry-after"]) >= 1
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert trailing(caught.value)["x-error-code"] == "draining"
    assert checked == NOT_SERVING
    assert live.status_code == 200
    assert [answer.status_code for answer in answers] == [200, 200]
    assert messages[0].image
    assert code == 0


async def test_an_open_stream_ends_with_the_drain_after_its_answers():
    """A client that keeps a stream open must not keep the process."""
    script = DeviceScript(gated=True)
    async with running_server(script) as server:
        idle, busy = server.stub.SegmentStream(), server.stub.SegmentStream()
        await busy.write(pb.SegmentRequest(image=marked_png(1), id="1"))
        await idle.write(pb.SegmentRequest(image=b"no image", id="0"))
        assert (await idle.read()).error.code == "not-an-image"
        await script.arrival()
        server.process.take_signal(signal.SIGTERM)
        script.open()
        answer = await busy.read()
        async with asyncio.timeout(PATIENCE_S):
            assert await server.task == 0
        codes = [await idle.code(), await busy.code()]
        keys = [dict(await call.trailing_metadata()) for call in (idle, busy)]
    assert answer.answer.image
    assert codes == [grpc.StatusCode.UNAVAILABLE] * 2
    assert [found["x-error-code"] for found in keys] == ["draining"] * 2


async def test_during_the_drain_delay_it_is_not_ready_but_still_serves():
    async with running_server(drain_delay_s=20.0) as server:
        await until_serving(server)
        server.process.take_signal(signal.SIGTERM)
        assert (await server.http.get("/readyz")).status_code == 503
        await until_not_serving(server)
        assert (await server.post(marked_png(4))).status_code == 200
        assert (await server.call(marked_png(4))).batch_size == 1
        server.task.cancel()  # the rest of the delay


async def test_work_that_outlives_the_drain_timeout_is_answered_and_reported(caplog):
    caplog.set_level("INFO", "server.app.lifecycle")
    script = DeviceScript(gated=True)
    async with running_server(script, drain_timeout_s=0.2) as server:
        on_device = asyncio.create_task(server.post(marked_png(1)))
        await script.arrival()
        stream = server.stub.SegmentStream()
        await stream.write(pb.SegmentRequest(image=marked_png(2), id="2"))
        call = asyncio.create_task(server.call(marked_png(3)))
        await server.wait_until_inside(3)
        server.process.take_signal(signal.SIGTERM)
        async with asyncio.timeout(PATIENCE_S):
            answer = await on_device
            in_stream = await stream.read()
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
        script.open()
        code = await server.task
    assert code == 1
    assert (answer.status_code, answer.json()["code"]) == (503, "draining")
    assert int(answer.headers["retry-after"]) >= 1
    assert in_stream.error.code == "draining"
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert trailing(caught.value)["x-error-code"] == "draining"
    assert [record.lost for record in caplog.records if record.message == "drained"] == [3]
    # The first is on the device, and was not dropped before it; the others were, and not by their clients.
    assert counted(server.metrics, "birefnet_dropped_total", reason="evicted") == 2
    assert counted(server.metrics, "birefnet_dropped_total", reason="cancelled") == 0


@pytest.mark.parametrize("transport", ["HTTP", "gRPC"])
async def test_a_transport_that_ends_by_itself_ends_the_process_in_order(transport, caplog):
    """Half a server would look alive to whoever asks the other half."""
    script = DeviceScript(gated=True)
    async with running_server(script) as server:
        inside = asyncio.create_task(server.post(marked_png(1)) if transport == "gRPC" else server.call(marked_png(1)))
        await script.arrival()
        transports: Any = server.process._transports
        if transport == "HTTP":
            transports._http._server.should_exit = True
        else:
            ending = asyncio.create_task(transports._rpc._server.stop(None))
            await ending
        await until(lambda: server.process.stopping)
        script.open()
        await inside
        async with asyncio.timeout(PATIENCE_S):
            assert await server.task == 1
    assert f"the {transport} server has ended by itself" in caplog.text


async def test_grpc_connections_are_told_to_go_away_at_the_drain():
    """So that clients that keep a connection open do not call a server that is gone (RFC 9113, 6.8)."""
    script = DeviceScript(gated=True)
    async with running_server(script) as server:
        inside = asyncio.create_task(server.call(marked_png(1)))
        await script.arrival()
        reader, writer = await asyncio.open_connection("127.0.0.1", server.process.grpc_port)
        settings = b"\0\0\0\x04\0\0\0\0\0"
        writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + settings)
        assert await frame_type(reader) == 4, "the server's own settings"
        server.process.take_signal(signal.SIGTERM)
        script.open()
        async with asyncio.timeout(PATIENCE_S):
            while (kind := await frame_type(reader)) != 7:
                assert kind in (4, 6, 8), "nothing but settings, pings and windows before GOAWAY"
        writer.close()
        assert (await inside).image
        assert await server.task == 0


async def frame_type(reader: asyncio.StreamReader) -> int:
    """Read one frame of HTTP/2; its type."""
    head = await reader.readexactly(9)
    await reader.readexactly(int.from_bytes(head[:3], "big"))
    return head[3]


async def test_a_busy_host_thread_keeps_neither_the_drain_nor_the_second_signal_waiting(monkeypatch):
    began, go = threading.Event(), threading.Event()

    def work(*_: object, **__: object) -> None:
        began.set()
        assert go.wait(PATIENCE_S)

    monkeypatch.setattr("server.pipeline.pipeline.prepare", work)
    monkeypatch.setattr("server.app.composition._CLOSE_S", 3.0)
    try:
        async with running_server(drain_timeout_s=0.1) as server:
            stuck = asyncio.create_task(server.post(marked_png(1)))
            await until(began.is_set)
            server.process.take_signal(signal.SIGTERM)
            assert (await stuck).json()["code"] == "draining"
            slowest, before = 0.0, time.monotonic()
            while not server.task.done():
                await asyncio.sleep(0.01)
                slowest, before = max(slowest, time.monotonic() - before), time.monotonic()
            assert await server.task == 1
        assert slowest < 2, "signals are taken by the event loop, which must not wait for a thread"
    finally:
        go.set()


def test_a_busy_thread_does_not_keep_the_process():
    program = """
import sys, threading
from concurrent.futures import ThreadPoolExecutor
from server.app import lifecycle
from server.settings import Settings

async def serve(settings, when_ready):
    pool = ThreadPoolExecutor(1)
    pool.submit(threading.Event().wait)
    pool.shutdown(wait=False)
    print("all is said")
    return 7

lifecycle.serve = serve
sys.exit(lifecycle.run(Settings(backend="fake")))
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=PATIENCE_S)
    assert (ended.returncode, ended.stdout) == (7, "all is said\n"), ended.stderr


def test_what_the_start_has_made_is_not_looked_through_for_garbage():
    """A full collection would stop the event loop for it, for many times what a refusal may take."""
    program = """
import gc
from server.app import lifecycle
from server.settings import Settings

class Process(lifecycle.Process):
    async def run(self):
        self._when_ready()
        print(gc.get_freeze_count() > 10_000, len(gc.get_objects()) < 1000)
        await self.parts.close()
        return 0

lifecycle.Process = Process
lifecycle.run(Settings(backend="fake", port=0, grpc_port=0))
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=PATIENCE_S)
    assert ended.stdout == "True True\n", ended.stderr


async def test_liveness_answers_at_once_while_the_device_works():
    script = DeviceScript(gated=True)
    async with running_server(script) as server:
        busy = asyncio.create_task(server.post(marked_png(1)))
        await script.arrival()
        await server.http.get("/livez")
        times = []
        for _ in range(20):
            started = time.monotonic()
            assert (await server.http.get("/livez")).status_code == 200
            times.append(time.monotonic() - started)
        script.open()
        await busy
    assert sorted(times)[10] < 0.1


async def test_a_port_in_use_is_a_clear_error_and_not_a_second_server(caplog):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for name in ("port", "grpc_port"):
            settings = Settings(**{"port": 0, "grpc_port": 0, "backend": "fake", name: port})
            caplog.clear()
            assert await serve(settings) == 1
            assert f"cannot listen on 127.0.0.1:{port}: Address already in use" in caplog.text


async def test_a_device_that_cannot_start_ends_the_process_with_its_reason(caplog):
    def make() -> Backend:
        raise BackendFault("no such card")

    settings = Settings(port=0, grpc_port=0, backend="fake")
    assert await serve(settings, make) == 1
    assert "cannot start: no such card" in caplog.text


async def test_the_fake_backend_serves_no_artifacts(caplog):
    settings = Settings(port=0, grpc_port=0, backend="fake", model=("somewhere",))
    assert await serve(settings) == 1
    assert "fake runs no artifacts" in caplog.text


async def until_serving(server: RunningServer) -> None:
    await follow(server, SERVING)


async def until_not_serving(server: RunningServer) -> None:
    await follow(server, NOT_SERVING)


async def follow(server: RunningServer, status: int) -> None:
    stub = health_pb2_grpc.HealthStub(server.channel)
    watch = stub.Watch(health_pb2.HealthCheckRequest(service=""), timeout=PATIENCE_S)
    while (await watch.read()).status != status:
        pass
    watch.cancel()

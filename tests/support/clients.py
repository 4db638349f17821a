"""A whole server in the test's own event loop, on free ports, with clients of both transports.

Everything is real but the device: sockets, uvicorn, gRPC, pipeline, engine.
"""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import httpx
import numpy as np

from protos.matting.v1 import matting_pb2 as pb
from protos.matting.v1 import matting_pb2_grpc
from server.app.lifecycle import Process
from server.backends.base import Backend
from server.backends.fake import FakeBackend, FakeOptions
from server.settings import Settings
from tests.support.backends import PATIENCE_S, DeviceScript
from tests.support.images import png

_OPTIONS = FakeOptions()

STARTING_S = 150.0
"""For further processes to start, on a machine with many others; as `PATIENCE_S`."""

DEFAULTS: dict[str, Any] = {"port": 0, "grpc_port": 0, "backend": "fake", "compute_niceness": 0}
"""Settings of servers that do not say otherwise. Not nice: whatever else runs beside the tests would go before them."""


@dataclass
class RunningServer:
    """A server and its clients."""

    process: Process
    task: "asyncio.Task[int]"
    http: httpx.AsyncClient
    channel: grpc.aio.Channel

    @property
    def stub(self) -> Any:
        """The gRPC client; typed loosely, for the stubs know only its synchronous face."""
        return matting_pb2_grpc.MattingStub(self.channel)

    @property
    def metrics(self) -> Any:
        return self.process.parts.metrics

    async def post(self, image: bytes, **options: str) -> httpx.Response:
        """One image as the body."""
        return await self.http.post("/segment", content=image, params=options)

    async def call(self, image: bytes, timeout_s: float | None = None, **options: Any) -> pb.SegmentResponse:
        """One image over gRPC."""
        message = pb.SegmentRequest(image=image, options=pb.SegmentOptions(**options))
        answer: pb.SegmentResponse = await self.stub.Segment(message, timeout=timeout_s)
        return answer

    async def wait_until_inside(self, count: int) -> None:
        """Until so many requests are between the door and their answers."""
        await until(lambda: self.process.parts.admission.inside == count)

    async def wait_until_waiting(self, count: int) -> None:
        """Until so many items wait for the device."""
        await until(lambda: self.metrics.queue_depth == count)


@asynccontextmanager
async def running_server(
    script: DeviceScript | None = None, *, options: FakeOptions = _OPTIONS, warm: bool = True, **settings: Any
) -> AsyncIterator[RunningServer]:
    """A server that is ready, drained at the end.

    Args:
        script: What its device does; armed once the server is ready.
        options: Of the fake device.
        warm: Wait until it is ready.
        settings: Instead of the defaults.
    """
    script = script if script is not None else DeviceScript()

    def make_backend() -> Backend:
        return FakeBackend(options, before_run=script)

    chosen = Settings(**{**DEFAULTS, **settings})
    process = Process(chosen, make_backend)
    task = asyncio.create_task(process.run())
    limits = httpx.Limits(max_connections=200, max_keepalive_connections=200)
    http = httpx.AsyncClient(base_url=f"http://127.0.0.1:{process.port}", timeout=PATIENCE_S, limits=limits)
    unlimited = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))
    channel = grpc.aio.insecure_channel(f"127.0.0.1:{process.grpc_port}", options=unlimited)
    try:
        if warm:
            await _wait_until_ready(process, task)
            script.armed = True
        yield RunningServer(process, task, http, channel)
    finally:
        script.open()
        if not process.stopping:
            process.take_signal(signal.SIGTERM)
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.gather(task, return_exceptions=True)
        await http.aclose()
        await channel.close()


async def _wait_until_ready(process: Process, task: "asyncio.Task[int]") -> None:
    await until(lambda: task.done() or process.unready_reason() is None, STARTING_S)
    assert not task.done(), "the server ended while it started"


async def until(condition: Callable[[], bool], patience_s: float = PATIENCE_S) -> None:
    """Wait for what is certain to come true; only a broken test waits for long."""
    async with asyncio.timeout(patience_s):
        while not condition():  # noqa: ASYNC110 - what is watched has no event
            await asyncio.sleep(0.002)


def marked_png(mark: int, size: tuple[int, int] = (16, 16)) -> bytes:
    """An upload whose matte, from the fake device, is `mark` everywhere."""
    return png(np.full((*size, 3), mark, np.uint8))


def trailing(error: grpc.aio.AioRpcError) -> Mapping[str, str]:
    """Trailing metadata of a failed call."""
    return {str(key): str(value) for key, value in error.trailing_metadata() or ()}

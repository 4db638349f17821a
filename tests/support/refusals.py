"""Every reason why a request is turned away at the door, each as a running server that turns the next one away."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from protos.matting.v1 import matting_pb2 as pb
from server.access.keys import make_key, write_row
from server.backends.fake import FakeOptions
from tests.support.backends import DeviceScript
from tests.support.clients import RunningServer, marked_png, running_server, until
from tests.support.origin import Visit, running_origin

_OPTIONS = FakeOptions()
SMALL = marked_png(9)
LARGE = marked_png(9, (1000, 1000))  # one megapixel


@dataclass(frozen=True)
class Knock:
    """A request that is turned away.

    Attributes:
        image: The upload.
        url: Of the image, instead.
        headers: Over gRPC, metadata.
        timeout_ms: Its own.
        streams: Whether a gRPC stream is turned away, too; `single` whether the others are.
        advised: Whether it is told when to come back.
    """

    image: bytes = SMALL
    url: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    timeout_ms: int | None = None
    streams: bool = True
    single: bool = True
    advised: bool = True


Place = tuple[RunningServer, Knock]


@asynccontextmanager
async def full(
    limits: Mapping[str, Any], image: bytes = SMALL, options: FakeOptions = _OPTIONS
) -> AsyncIterator[Place]:
    """One such image is inside, and there is room for no other."""
    script = DeviceScript(gated=True)
    async with running_server(script, options=options, **limits) as server:
        inside = asyncio.create_task(server.post(image))
        await script.arrival()
        yield server, Knock(image)
        script.open()
        assert (await inside).status_code == 200


@asynccontextmanager
async def slow() -> AsyncIterator[Place]:
    """A batch takes half a second, as the server has measured, and one is under way."""
    script = DeviceScript()
    async with running_server(script, options=FakeOptions(delay_s=0.5, max_batch=8)) as server:
        answers = await asyncio.gather(*(server.post(marked_png(mark)) for mark in range(8)))
        assert [answer.status_code for answer in answers] == [200] * 8
        script.forget_arrivals()
        script.gated = True
        inside = asyncio.create_task(server.post(SMALL))
        await script.arrival()
        yield server, Knock(timeout_ms=400, advised=False)  # alone it would be as late
        script.open()
        assert (await inside).status_code == 200


@asynccontextmanager
async def uploading() -> AsyncIterator[Place]:
    async with running_server(max_uploads=1) as server:
        _, writer = await asyncio.open_connection("127.0.0.1", server.process.port)
        writer.write(b"POST /segment HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n")
        await until(lambda: server.process.parts.uploads.number == 1)
        yield server, Knock(streams=False)  # their messages come one after another, by the window of each
        writer.close()


@asynccontextmanager
async def streaming() -> AsyncIterator[Place]:
    async with running_server(grpc_max_streams=1) as server:
        held = server.stub.SegmentStream()
        await held.write(pb.SegmentRequest(image=b"no image", id="held"))
        assert (await held.read()).error.reason == ""
        yield server, Knock(single=False)
        held.cancel()


@asynccontextmanager
async def fetching() -> AsyncIterator[Place]:
    async def hang(visit: Visit) -> None:
        await visit.wait_until_closed()

    async with running_origin({"/image": hang}) as origin:
        allowed: dict[str, Any] = {"allow_urls": True, "url_allow": ("127.0.0.0/8",), "url_ports": (origin.port,)}
        async with running_server(max_requests=1, url_fetches=1, **allowed) as server:
            body = {"image_url": origin.url()}
            held = [asyncio.create_task(server.http.post("/segment", json=body)) for _ in range(2)]
            fetcher = server.process.parts.fetcher
            assert fetcher is not None
            await until(lambda: (fetcher.places.running, fetcher.places.waiting) == (1, 1))
            yield server, Knock(url=origin.url())
            for task in held:
                task.cancel()
            await asyncio.gather(*held, return_exceptions=True)
            await until(lambda: fetcher.places.running == 0)


@asynccontextmanager
async def spent(place: Path) -> AsyncIterator[Place]:
    key, path = make_key(), place / "keys"
    path.write_text(write_row("lab", key, 1))
    async with running_server(api_keys_file=path) as server:
        headers = {"x-api-key": key}
        assert (await server.http.post("/segment", content=LARGE, headers=headers)).status_code == 200
        yield server, Knock(LARGE, headers=headers)


@asynccontextmanager
async def draining() -> AsyncIterator[Place]:
    async with running_server() as server:
        await server.process.parts.admission.drain()
        yield server, Knock()


@asynccontextmanager
async def not_ready() -> AsyncIterator[Place]:
    script = DeviceScript(fatal={66})
    async with running_server(script) as server:
        assert (await server.post(marked_png(66))).status_code == 503
        yield server, Knock()


SITUATIONS: Mapping[str, Callable[[Path], AbstractAsyncContextManager[Place]]] = {
    "uploads": lambda _: uploading(),
    "streams": lambda _: streaming(),
    "fetches": lambda _: fetching(),
    "requests": lambda _: full({"max_requests": 1}),
    "wait": lambda _: full({"max_wait_s": 0.005}, options=FakeOptions(delay_s=0.01, max_batch=1)),
    "megapixels": lambda _: full({"max_megapixels": 1.5, "max_megapixels_inside": 1.5}, LARGE),
    "memory": lambda _: full({"max_memory_inside_mib": 30}, LARGE),
    "model_requests": lambda _: full({"model_limits": ("fake max_requests=1",)}),
    "model_megapixels": lambda _: full({"model_limits": ("fake max_megapixels=1.5",)}, LARGE),
    "model_memory": lambda _: full({"max_memory_inside_mib": 300, "model_limits": ("fake share=0.1",)}, LARGE),
    "rate_limit": spent,
    "deadline": lambda _: slow(),
    "draining": lambda _: draining(),
    "not_ready": lambda _: not_ready(),
}
"""By reason; each is given a folder of its own."""

"""A web server that behaves as a test wants, badly mostly, on real sockets in the test's own event loop."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from tests.support.backends import PATIENCE_S


@dataclass
class Visit:
    """One connection, after its request was read.

    Attributes:
        head: Request line and headers, as they came.
    """

    head: str
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @property
    def line(self) -> str:
        """The request line."""
        return self.head.partition("\r\n")[0]

    @property
    def headers(self) -> Mapping[str, str]:
        """By their names in lower case."""
        pairs = (line.partition(":") for line in self.head.split("\r\n")[1:] if line)
        return {name.lower(): value.strip() for name, _, value in pairs}

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def wait_until_closed(self) -> None:
        """Until the other side has closed the connection."""
        with contextlib.suppress(ConnectionError):
            assert await self.reader.read() == b""

    def reset(self) -> None:
        """Break the connection off."""
        transport = self.writer.transport
        assert isinstance(transport, asyncio.WriteTransport)
        transport.abort()


Behaviour = Callable[[Visit], Awaitable[None]]


@dataclass
class Origin:
    """A running server.

    Attributes:
        port: Where it listens, on 127.0.0.1.
        routes: What each path answers: bytes to send, or what to do.
        visits: Requests so far.
        opened: Connections so far.
        closed: Of these, those that have ended.
    """

    port: int = 0
    routes: dict[str, bytes | Behaviour] = field(default_factory=dict)
    visits: list[Visit] = field(default_factory=list)
    opened: int = 0
    closed: int = 0
    _visited: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))

    def url(self, path: str = "/image", host: str = "127.0.0.1", scheme: str = "http") -> str:
        return f"{scheme}://{host}:{self.port}{path}"

    async def arrival(self) -> Visit:
        """The newest request, once one more has come."""
        async with asyncio.timeout(PATIENCE_S):
            await self._visited.acquire()
        return self.visits[-1]

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        self.opened += 1
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            visit = Visit(head, reader, writer)
            self.visits.append(visit)
            self._visited.release()
            route = self.routes.get(visit.line.split(" ")[1].partition("?")[0], response(b"", status="404 Not Found"))
            await (visit.send(route) if isinstance(route, bytes) else route(visit))
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self.closed += 1
            writer.close()


@asynccontextmanager
async def running_origin(
    routes: Mapping[str, bytes | Behaviour] | None = None, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Origin]:
    """A server on a free port of 127.0.0.1.

    Args:
        routes: As of `Origin`; may be changed later.
        tls: To serve https instead.
    """
    origin = Origin(routes=dict(routes or {}))
    tasks: set[asyncio.Task[None]] = set()

    def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(origin.answer(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(begin, "127.0.0.1", 0, ssl=tls)
    origin.port = server.sockets[0].getsockname()[1]
    try:
        yield origin
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()


def response(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    """A whole answer with its Content-Length, and further headers as `Name: value`."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def redirect(location: str, status: str = "302 Found") -> bytes:
    """An answer that points elsewhere."""
    return response(b"elsewhere", f"Location: {location}", status=status)

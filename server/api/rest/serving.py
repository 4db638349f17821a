"""The HTTP server: uvicorn in our event loop, started and stopped by us."""

import asyncio
import contextlib
import math
import socket
import ssl
from collections.abc import Iterator
from functools import partial

import uvicorn
from starlette.types import ASGIApp

from server.api.rest.protocol import WRITE_S, BoundedProtocol


class HttpServer:
    """One HTTP server on a socket that is bound already."""

    def __init__(
        self,
        app: ASGIApp,
        bound: socket.socket,
        keep_alive_s: int = 75,
        tls: ssl.SSLContext | None = None,
        write_s: float = WRITE_S,
    ) -> None:
        """Build the server, without accepting connections yet.

        Args:
            app: What answers.
            bound: Socket to listen on.
            keep_alive_s: Seconds until an idle connection is closed.
            tls: None serves in the clear.
            write_s: Seconds until a connection is cut whose client takes nothing of what was written to it.
        """
        config = uvicorn.Config(
            app,
            http=partial(BoundedProtocol, write_s=write_s),  # type: ignore[arg-type]  # called, and no more
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=keep_alive_s,
        )
        config.load()
        config.ssl = tls
        self._server = _Server(config)
        self._socket = bound
        self._task: asyncio.Task[None] | None = None

    @property
    def port(self) -> int:
        """Where it listens."""
        port: int = self._socket.getsockname()[1]
        return port

    async def start(self) -> None:
        """Accept connections."""
        self._task = asyncio.create_task(self._server.serve(sockets=[self._socket]))
        accepting = asyncio.create_task(self._server.accepting.wait())
        await asyncio.wait((self._task, accepting), return_when=asyncio.FIRST_COMPLETED)
        accepting.cancel()
        if self._task.done():
            self._task.result()

    async def ended(self) -> None:
        """Until it serves no more, for whatever reason; raises what ended it. After `start`."""
        if self._task is None:
            raise RuntimeError("This is a bug: the HTTP server was not started")
        await asyncio.shield(self._task)

    async def stop(self, grace_s: float) -> None:
        """Accept no more, close idle connections, let requests finish for a while, cancel what is left."""
        if self._task is None:
            self._socket.close()
            return
        self._server.config.timeout_graceful_shutdown = max(1, math.ceil(grace_s))
        self._server.should_exit = True
        await self._task


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers, and with a sign that it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.accepting = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        self.accepting.set()

"""Both transports around one service, in the process that holds the ports."""

import asyncio
import socket
from collections.abc import Awaitable, Mapping
from dataclasses import replace

from server.api.certificates import Certificates
from server.api.rest import HttpServer, create_app
from server.api.rpc import RpcOptions, RpcServer
from server.api.service import Service, TransportLimits
from server.settings import Settings


class Transports:
    """HTTP and gRPC.

    Attributes:
        port: Of HTTP.
        grpc_port: Of gRPC.
    """

    def __init__(
        self,
        service: Service,
        settings: Settings,
        bound: socket.socket,
        certificates: Certificates | None,
        shared_grpc_port: int | None = None,
    ) -> None:
        """Build them, without accepting connections yet.

        Args:
            service: What stands behind them.
            settings: Of this process.
            bound: Socket that HTTP listens on.
            certificates: For TLS; None is none.
            shared_grpc_port: That other processes of this server listen on, too; None takes the one of the settings,
                for this process alone.

        Raises:
            OSError: The port of gRPC cannot be taken.
        """
        tls = certificates.http_context() if certificates is not None else None
        app = create_app(service, settings.cors_origin)
        self._http = HttpServer(app, bound, settings.keep_alive_s, tls, settings.write_timeout_s)
        options = _rpc_options(settings, certificates)
        if shared_grpc_port is not None:
            options = replace(options, port=shared_grpc_port, shared=True)
        self._rpc = RpcServer(service, options)
        self.port, self.grpc_port = self._http.port, self._rpc.port

    async def start(self) -> None:
        """Accept connections; gRPC health says NOT_SERVING until `say`."""
        await self._rpc.start()
        await self._http.start()

    async def say(self, *, serving: bool) -> None:
        """Let gRPC health say whether requests are taken."""
        await self._rpc.set_serving(serving=serving)

    def endings(self) -> Mapping[str, Awaitable[None]]:
        """What ends when one of them serves no more, for whatever reason, by what that is in words."""
        return {"the HTTP server": self._http.ended(), "the gRPC server": self._rpc.ended()}

    async def stop(self, grace_s: float) -> None:
        """Accept no more, let requests finish for a while, cancel what is left."""
        await asyncio.gather(self._http.stop(grace_s), self._rpc.stop(grace_s))


def transport_limits(settings: Settings) -> TransportLimits:
    """What transports check themselves."""
    return TransportLimits(
        settings.max_upload_bytes,
        settings.max_timeout_s,
        settings.grpc_stream_window,
        settings.grpc_stream_idle_s,
        # Whoever could be refused with a reason is: twice, so that two limits that are met at once are told apart.
        2 * (settings.max_requests + settings.max_uploads + settings.grpc_max_streams),
    )


def _rpc_options(settings: Settings, certificates: Certificates | None) -> RpcOptions:
    return RpcOptions(
        settings.host,
        settings.grpc_port,
        settings.grpc_max_connection_age_s or None,
        settings.grpc_connection_grace_s,
        certificates.rpc_credentials() if certificates is not None else None,
    )

"""The gRPC server: options, services, health, and its end."""

import asyncio
from dataclasses import dataclass

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from protos.inference.v2 import inference_pb2, inference_pb2_grpc
from protos.matting.v1 import matting_pb2, matting_pb2_grpc
from server.api.addresses import bind_socket, join_address
from server.api.rpc.boundary import Boundary
from server.api.rpc.inference import InferenceServicer
from server.api.rpc.servicer import MattingServicer
from server.api.service import Service

SERVICE_NAME: str = matting_pb2.DESCRIPTOR.services_by_name["Matting"].full_name
INFERENCE_NAME: str = inference_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name
CALLS = (f"/{SERVICE_NAME}/Segment", f"/{SERVICE_NAME}/SegmentStream", f"/{INFERENCE_NAME}/ModelInfer")
"""Those that carry images."""

_UNLIMITED = -1
_UNREAD_BYTES = 256 << 10  # of one call; once it is read, as many are asked for as its message has


@dataclass(frozen=True, slots=True)
class RpcOptions:
    """Where and how gRPC is served.

    Attributes:
        host: Name or address to listen on.
        port: 0 takes a free one.
        max_connection_age_s: After which a connection is asked to end (GOAWAY), so that clients resolve names anew;
            gRPC itself varies it by ±10 % per connection. None is never.
        connection_grace_s: Seconds that calls on such a connection then have; what is left is cancelled.
        tls: None serves in the clear.
        shared: Whether other processes of this server listen on the port, too.
    """

    host: str
    port: int
    max_connection_age_s: float | None = None
    connection_grace_s: float = 600.0
    tls: grpc.ServerCredentials | None = None
    shared: bool = False

    def channel_arguments(self) -> dict[str, int]:
        """As gRPC wants them."""
        found = {
            # Two servers on one port, each with half of the connections, must be an error, unless that is meant.
            "grpc.so_reuseport": int(self.shared),
            "grpc.max_send_message_length": _UNLIMITED,
        }
        if self.max_connection_age_s is not None:
            found["grpc.max_connection_age_ms"] = round(self.max_connection_age_s * 1000)
            found["grpc.max_connection_age_grace_ms"] = round(self.connection_grace_s * 1000)
        return found


class RpcServer:
    """One gRPC server in the running event loop.

    Attributes:
        port: Where it listens.
    """

    def __init__(self, service: Service, options: RpcOptions) -> None:
        """Take the port and build the server, without accepting calls yet.

        Args:
            service: What stands behind it.
            options: Where and how.

        Raises:
            OSError: The port cannot be taken; the message says which and why.
        """
        if not options.shared:
            bind_socket(options.host, options.port).close()  # gRPC itself says only that it failed
        arguments = {
            **options.channel_arguments(),
            # Somewhat above the limit of an image, so that our own error, with its code, answers most that exceed it.
            "grpc.max_receive_message_length": service.limits.max_message_bytes,
            "grpc.max_concurrent_streams": service.limits.max_calls,
            # What comes of a call that nobody reads yet waits here, uncounted. By itself gRPC takes the more of it the
            # faster the network is: some megabytes of each call.
            "grpc.http2.bdp_probe": 0,
            "grpc.http2.lookahead_bytes": _UNREAD_BYTES,
        }
        interceptors = [Boundary(CALLS, service)]
        self._server = grpc.aio.server(interceptors=interceptors, options=tuple(arguments.items()))
        self._health = health.aio.HealthServicer()
        self._matting = MattingServicer(service)
        matting_pb2_grpc.add_MattingServicer_to_server(self._matting, self._server)
        inference_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(InferenceServicer(service), self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = (SERVICE_NAME, INFERENCE_NAME, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server)
        self._serving: bool | None = None
        self._ending: asyncio.Future[bool] | None = None
        address = join_address(options.host, options.port)
        try:
            if options.tls is None:
                self.port = self._server.add_insecure_port(address)
            else:
                self.port = self._server.add_secure_port(address, options.tls)
        except RuntimeError as error:
            raise OSError(f"cannot listen on {address}: {error}") from error

    async def start(self) -> None:
        """Accept calls; health says NOT_SERVING until `set_serving`."""
        await self.set_serving(serving=False)
        await self._server.start()
        self._ending = asyncio.ensure_future(self._server.wait_for_termination())

    async def set_serving(self, *, serving: bool) -> None:
        """Say through the standard health service whether requests are taken."""
        if serving == self._serving:
            return
        self._serving = serving
        states = health_pb2.HealthCheckResponse
        status = states.SERVING if serving else states.NOT_SERVING
        for name in ("", SERVICE_NAME, INFERENCE_NAME):
            await self._health.set(name, status)

    async def ended(self) -> None:
        """Until it serves no more, for whatever reason."""
        if self._ending is None:
            raise RuntimeError("This is a bug: the gRPC server was not started")
        await asyncio.shield(self._ending)  # to cancel it would break the server's own end

    async def stop(self, grace_s: float) -> None:
        """Send GOAWAY, let calls and what streams have sent finish for a while, cancel what is left."""
        self._matting.close_streams()
        await self._server.stop(grace_s)

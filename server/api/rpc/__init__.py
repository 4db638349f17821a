"""The gRPC transport: messages in, a `SegmentRequest` out, and the result back as a message."""

from server.api.rpc.serving import RpcServer

__all__ = ["RpcServer"]

"""The gRPC transport: messages in, a `SegmentRequest` out, and the result back as a message."""

from server.api.rpc.serving import RpcOptions, RpcServer

__all__ = ["RpcOptions", "RpcServer"]

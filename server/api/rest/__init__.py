"""The REST transport: HTTP in, a `SegmentRequest` out, and the result back as bytes."""

from server.api.rest.application import create_app
from server.api.rest.serving import HttpServer

__all__ = ["HttpServer", "create_app"]

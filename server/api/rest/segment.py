"""`POST /segment`: one image in, one image out."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from typing import TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from server.api.rest.disconnect import run_while_connected
from server.api.rest.limits import announced_bytes, check_size
from server.api.rest.upload import longest_body, read_upload
from server.api.service import Service
from server.errors import DeadlineExceededError
from server.observability.logs import request_id
from server.pipeline.options import parse_options
from server.pipeline.request import SegmentRequest, SegmentResult

T = TypeVar("T")

_PIECE = 256 * 1024  # bytes; the server waits for the client in between


class Answer(Response):
    """An image, written as fast as the client reads it, and counted until then."""

    def __init__(
        self,
        body: bytes,
        media_type: str,
        headers: dict[str, str],
        hold: Callable[[int], AbstractContextManager[None]],
    ) -> None:
        super().__init__(body, media_type=media_type, headers=headers)
        self._hold = hold

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        size = len(self.body)
        with self._hold(size):
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            for start in range(0, size, _PIECE):
                # A copy: a view in the buffer of the connection would keep the whole body.
                piece = bytes(self.body[start : start + _PIECE])
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b""})  # which waits for the last piece


async def segment(request: Request, service: Service) -> Response:
    """Answer one HTTP request; the work is dropped when the client leaves.

    Raises:
        ServerError: Whatever is wrong, for the problem handlers.
    """
    # No name holds the request here: the pipeline frees the upload as soon as it is decoded.
    work = service.pipeline.segment(await _read(request, service))
    return _respond(await run_while_connected(request.receive, work), service)


async def _read(request: Request, service: Service) -> SegmentRequest:
    limits = service.limits
    headers = {name.lower(): value for name, value in request.headers.items()}
    query = request.query_params.multi_items()
    upload = await read_arriving(
        request,
        service,
        longest_body(limits.max_upload_bytes),
        lambda receive: read_upload(receive, headers, query, limits.max_upload_bytes),
    )
    options = parse_options(upload.options, accept=headers.get("accept", ""), max_timeout_s=limits.max_timeout_s)
    return SegmentRequest(upload.image, options, request_id.get(), getattr(request.state, "account", None))


async def read_arriving(request: Request, service: Service, longest: int, read: Callable[[Receive], Awaitable[T]]) -> T:
    """Read a body that is counted, with all others on their way, as long as it arrives.

    Args:
        request: Whose body it is.
        service: What stands behind it.
        longest: Bytes of the longest body that can be.
        read: What makes something of it.

    Raises:
        ServerError: It is too long, there is no room for it, or it does not arrive; and what `read` raises.
    """
    limits = service.limits
    announced = announced_bytes({name.lower(): value for name, value in request.headers.items()}) or 0
    check_size(announced, longest)  # first: there will never be room for it
    async with service.entrance.receive(announced) as arrival:

        async def receive() -> Message:
            message = await request.receive()
            await arrival.add(len(message.get("body", b"")))
            return message

        try:
            async with asyncio.timeout(limits.max_timeout_s):
                return await read(receive)
        except TimeoutError as error:
            request.state.close_connection = True  # its rest may never come
            raise DeadlineExceededError(f"the body did not arrive within {limits.max_timeout_s:g} s") from error


def _respond(result: SegmentResult, service: Service) -> Response:
    headers = {
        "X-Model": result.model,
        "X-Artifact": result.artifact,
        "X-Batch-Size": str(result.batch_size),
        "Server-Timing": ", ".join(f"{stage};dur={seconds * 1000:.1f}" for stage, seconds in result.stage_s.items()),
    }
    if (report := result.refinement) is not None:
        headers["X-Refine"] = f"stages={len(report.stages)}, tiles={report.tiles}, dropped={report.dropped}"
        if report.crop is not None:
            headers["X-Refine"] += ", cropped"
    return Answer(result.body, result.media_type, headers, service.hold)

"""Bodies are read only as far as their limit goes."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from server.errors import BodyTooLargeError, CancelledByClientError

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


def check_size(size: int, limit: int) -> None:
    """Refuse more bytes than the limit.

    Raises:
        BodyTooLargeError: `size` is what has arrived so far, or what was announced.
    """
    if size > limit:
        raise BodyTooLargeError(f"expected at most {limit} bytes, found {size} or more")


def announced_bytes(headers: Mapping[str, str]) -> int | None:
    """How long a body says that it is; None where it does not (names of the headers are in lower case)."""
    announced = headers.get("content-length", "")
    return int(announced) if announced.isdecimal() else None


async def read_chunks(receive: Receive, headers: Mapping[str, str], limit: int) -> AsyncIterator[bytes]:
    """The body of a request, piece by piece, without ever holding more than one of them.

    Args:
        receive: Of the ASGI server.
        headers: Of the request, names in lower case.
        limit: Most bytes. An announced length above it is refused before anything is read.

    Raises:
        BodyTooLargeError: More bytes were announced, or came.
        CancelledByClientError: The client left before the end.
    """
    if (announced := announced_bytes(headers)) is not None:
        check_size(announced, limit)
    total, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise CancelledByClientError("the client closed the connection before the end of the body")
        chunk: bytes = message.get("body", b"")
        total += len(chunk)
        check_size(total, limit)
        more = bool(message.get("more_body", False))
        if chunk:
            yield chunk

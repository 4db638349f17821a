"""One GET to one of the given addresses: the whole body, a redirect, or an error.

httpcore speaks HTTP and TLS, follows nothing by itself, reads no environment, and takes its connections from a backend.
Ours opens them to the addresses that were checked and to no other, while Host header, SNI and certificate remain those
of the name.
"""

import io
import logging
import ssl
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import httpcore

from server.errors import ServerError, UrlFetchFailedError, UrlTimeoutError, UrlTooLargeError
from server.fetch.addresses import Address
from server.fetch.urls import RemoteUrl

# It logs headers, and so the secrets of signed URLs, at the level of debugging.
logging.getLogger("httpcore").setLevel(logging.WARNING)

_REDIRECTS = (301, 302, 303, 307, 308)
_CONNECT_S = 5.0  # to all addresses together, and as much again for TLS
_SILENCE_S = 10.0  # in which no byte comes
_MAX_ADDRESSES = 4
# Each piece costs time in the event loop, however small it is.
_FREE_PIECES = 1024
_PIECE_BYTES = 512


@dataclass(frozen=True, slots=True)
class ExchangeOptions:
    """What holds for every exchange.

    Attributes:
        max_bytes: Of a body.
        tls: Whom to trust.
        user_agent: What to be called.
    """

    max_bytes: int
    tls: ssl.SSLContext
    user_agent: str


@dataclass(frozen=True, slots=True)
class Redirect:
    """The image is elsewhere; `location` is as the server wrote it."""

    location: str


async def get(
    url: RemoteUrl, addresses: Sequence[Address], options: ExchangeOptions, count: Callable[[int], None]
) -> bytes | Redirect:
    """Fetch a body.

    Args:
        url: Where it is.
        addresses: Of the host of `url`, checked; the one to try first before the others.
        options: Limits and trust.
        count: Is told of the bytes of each piece before it is kept; what it raises ends the exchange.

    Raises:
        UrlFetchFailedError: No connection, a broken one, another status than 200, or not the whole body.
        UrlTooLargeError: More bytes than the limit were announced, or came.
        UrlTimeoutError: Nothing came for too long. Cancel the caller for a limit of the whole.
    """
    backend = _Pinned(addresses[:_MAX_ADDRESSES])
    connection = httpcore.AsyncHTTPConnection(
        httpcore.Origin(url.scheme.encode(), url.host.encode(), url.port),
        ssl_context=options.tls,
        network_backend=backend,
    )
    headers = [
        ("Host", url.authority),
        ("User-Agent", options.user_agent),
        ("Accept", "image/*,*/*;q=0.5"),
        ("Accept-Encoding", "identity"),
        ("Connection", "close"),
    ]
    target = httpcore.URL(scheme=url.scheme.encode(), host=url.host.encode(), port=url.port, target=url.target.encode())
    limits = {"connect": _CONNECT_S, "read": _SILENCE_S, "write": _SILENCE_S, "pool": _CONNECT_S}
    try:
        async with connection.stream("GET", target, headers=headers, extensions={"timeout": limits}) as response:
            return await _read(response, options.max_bytes, count)
    except httpcore.TimeoutException as error:
        raise UrlTimeoutError(f"expected bytes every {_SILENCE_S:g} s, and a connection in half of that") from error
    except (httpcore.NetworkError, httpcore.ProtocolError) as error:
        raise _broken(error) from error
    finally:
        await connection.aclose()
        await backend.close()


async def _read(response: httpcore.Response, max_bytes: int, count: Callable[[int], None]) -> bytes | Redirect:
    headers = {name.lower(): value for name, value in response.headers}
    if response.status in _REDIRECTS and b"location" in headers:
        try:
            return Redirect(headers[b"location"].decode())
        except UnicodeDecodeError as error:
            raise UrlFetchFailedError("expected a redirect to a URL, found other bytes") from error
    if response.status != 200:
        raise UrlFetchFailedError(f"expected the status 200, found {response.status}")
    if headers.get(b"content-encoding", b"identity").lower() not in (b"", b"identity"):
        raise UrlFetchFailedError(
            "expected a body without Content-Encoding, found one with, though it was not asked for"
        )
    if b"content-length" not in headers and b"transfer-encoding" not in headers:
        raise UrlFetchFailedError(
            "expected a Content-Length or chunks, without which a cut body looks like a whole one"
        )
    announced = headers.get(b"content-length", b"")
    _check_size(int(announced) if announced.isdigit() else 0, max_bytes)
    return await _read_body(response, max_bytes, count)


async def _read_body(response: httpcore.Response, max_bytes: int, count: Callable[[int], None]) -> bytes:
    body, pieces = io.BytesIO(), 0
    async for piece in response.aiter_stream():
        _check_size(body.tell() + len(piece), max_bytes)
        count(len(piece))
        body.write(piece)
        pieces += 1
        if pieces > _FREE_PIECES + body.tell() // _PIECE_BYTES:
            raise UrlFetchFailedError(f"expected pieces of {_PIECE_BYTES} bytes or more, found {pieces} smaller ones")
    return body.getvalue()  # not a copy


def _check_size(size: int, limit: int) -> None:
    if size > limit:
        raise UrlTooLargeError(f"expected at most {limit} bytes, found {size} or more")


def _broken(error: BaseException) -> ServerError:
    """What may be said of it: httpcore's own words can quote the server."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return UrlFetchFailedError("expected a certificate that is valid for the host, found one that is not")
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, httpcore.ConnectError):
        return UrlFetchFailedError("expected a connection to the host, found none to be had")
    return UrlFetchFailedError("expected a whole HTTP answer, found one that breaks off or is malformed")


class _Pinned(httpcore.AsyncNetworkBackend):
    """Connects to the given addresses, whatever host is asked for, and remembers the connection.

    httpcore forgets it when a TLS handshake is cancelled.
    """

    def __init__(self, addresses: Sequence[Address]) -> None:
        self._addresses = addresses
        self._backend = httpcore.AnyIOBackend()
        self._stream: httpcore.AsyncNetworkStream | None = None

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's interface
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        failure: Exception = httpcore.ConnectError("no address")
        for address in self._addresses:
            share_s = None if timeout is None else timeout / len(self._addresses)
            try:
                self._stream = await self._backend.connect_tcp(
                    str(address), port, share_s, local_address, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
            else:
                return self._stream
        raise failure

    async def close(self) -> None:
        """Close what is still open."""
        if self._stream is not None:
            await self._stream.aclose()

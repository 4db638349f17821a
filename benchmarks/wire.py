"""Clients that cost little: HTTP/1.1 on raw sockets and gRPC without messages, with requests that are built once."""

import asyncio
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlencode

import grpc

from protos.matting.v1 import matting_pb2 as pb

_MARK = b"\0number\0"
_JPEG_START = 2  # bytes of the marker that a file begins with
_COMMENT = b"\xff\xfe" + (2 + len(_MARK)).to_bytes(2, "big")
_GARBAGE = b"this is no image, whatever its name may be: " + _MARK
_METHOD = "/matting.v1.Matting/Segment"


class Template:
    """A request whose image has a number in it, so that no two are the same."""

    def __init__(self, file: str, options: dict[str, str]) -> None:
        """Build it.

        Args:
            file: Path of a JPEG file.
            options: Of `/segment`, by name.
        """
        jpeg = Path(file).read_bytes()
        image = jpeg[:_JPEG_START] + _COMMENT + _MARK + jpeg[_JPEG_START:]
        self._http = {wrong: _http(_GARBAGE if wrong else image, options) for wrong in (False, True)}
        self._grpc = {wrong: _grpc(_GARBAGE if wrong else image, options) for wrong in (False, True)}

    def http(self, number: int, *, malformed: bool) -> bytes:
        """A whole HTTP request."""
        return _numbered(self._http[malformed], number)

    def grpc(self, number: int, *, malformed: bool) -> bytes:
        """A serialised `SegmentRequest`."""
        return _numbered(self._grpc[malformed], number)


@dataclass(frozen=True, slots=True)
class Reply:
    """What a client was told.

    Attributes:
        outcome: `ok`, `left`, a public error code, or `lost: …` where there was no whole answer.
        reason: Of a refusal.
        retry_after_s: That came with it.
    """

    outcome: str
    reason: str = ""
    retry_after_s: int | None = None


Leave = float | asyncio.Event
"""When a client leaves without its answer: after so many seconds, or when something happens."""


class HttpClient:
    """Requests on kept-alive connections, as many as are under way at once."""

    def __init__(self, host: str, port: int, template: Template) -> None:
        """Connect when there is something to send.

        Args:
            host: Of the server.
            port: Of the server.
            template: What to send.
        """
        self._address = (host, port)
        self._template = template
        self._idle: list[_Connection] = []

    async def connect(self, count: int) -> None:
        """Open connections ahead of time."""
        self._idle += await asyncio.gather(*(self._open() for _ in range(count)))

    async def send(self, number: int, *, malformed: bool = False, leave: Leave | None = None) -> Reply:
        """Send one, and wait for its answer, or leave before it."""
        data = self._template.http(number, malformed=malformed)
        try:
            connection = self._usable() or await self._open()
            answer = connection.ask(data)
            if not await _wait(answer, leave):
                answer.cancel()
                connection.transport.close()
                return Reply("left")
            status, headers, body = answer.result()
        except OSError as error:
            return Reply(f"lost: {type(error).__name__}")
        if not connection.transport.is_closing():
            self._idle.append(connection)
        if status == b"200":
            return Reply("ok")
        problem = json.loads(body)
        after = headers.get(b"retry-after")
        return Reply(problem["code"], problem.get("reason", ""), int(after) if after is not None else None)

    async def close(self) -> None:
        """Close what is open."""
        for connection in self._idle:
            connection.transport.close()

    def _usable(self) -> "_Connection | None":
        while self._idle:
            connection = self._idle.pop()
            if not connection.transport.is_closing():
                return connection
        return None

    async def _open(self) -> "_Connection":
        _, connection = await asyncio.get_running_loop().create_connection(_Connection, *self._address)
        return connection


class GrpcClient:
    """Calls on a few channels."""

    def __init__(self, address: str, template: Template, channels: int = 4) -> None:
        """Connect when there is something to send.

        Args:
            address: `host:port` of the server.
            template: What to send.
            channels: Connections that the calls are spread over.
        """
        self._template = template
        # Each a connection of its own: gRPC would share one between channels that look alike.
        apart = (("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1))
        self._channels = [grpc.aio.insecure_channel(address, options=apart) for _ in range(channels)]
        self._calls: list[Any] = [channel.unary_unary(_METHOD) for channel in self._channels]

    async def connect(self) -> None:
        """Open the connections ahead of time."""
        await asyncio.gather(*(channel.channel_ready() for channel in self._channels))

    async def send(self, number: int, *, malformed: bool = False, leave: Leave | None = None) -> Reply:
        """Send one, and wait for its answer, or leave before it."""
        call = self._calls[number % len(self._calls)](self._template.grpc(number, malformed=malformed))
        answer = asyncio.ensure_future(_answer(call))
        if not await _wait(answer, leave):
            call.cancel()
            await asyncio.wait((answer,))
            return Reply("left")
        return answer.result()

    async def close(self) -> None:
        """Close what is open."""
        for channel in self._channels:
            await channel.close()


async def _wait(answer: "asyncio.Future[Any]", leave: Leave | None) -> bool:
    """Until the answer is there, which is True, or it is time to leave."""
    if not isinstance(leave, asyncio.Event):
        await asyncio.wait((answer,), timeout=leave)
        return answer.done()
    going = asyncio.ensure_future(leave.wait())
    await asyncio.wait((answer, going), return_when=asyncio.FIRST_COMPLETED)
    going.cancel()
    return answer.done()


async def _answer(call: "grpc.aio.UnaryUnaryCall[bytes, bytes]") -> Reply:
    try:
        await call
    except asyncio.CancelledError:
        return Reply("left")
    except grpc.aio.AioRpcError as error:
        found = dict(error.trailing_metadata() or ())
        code = found.get("x-error-code")
        after = found.get("retry-after")
        outcome = str(code) if code is not None else f"lost: {error.code().name}"
        return Reply(outcome, str(found.get("x-refusal-reason", "")), int(after) if after is not None else None)
    return Reply("ok")


class _Connection(asyncio.Protocol):
    """One request at a time, and no more of its answer is read than is needed to find its end."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self._answer: asyncio.Future[tuple[bytes, dict[bytes, bytes], bytes]] | None = None
        self._received = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's does not say that it is one

    def ask(self, data: bytes) -> "asyncio.Future[tuple[bytes, dict[bytes, bytes], bytes]]":
        """Send a request; status, headers (names in lower case) and body come by the future."""
        self._answer = asyncio.get_running_loop().create_future()
        self._received.clear()
        self.transport.write(data)
        return self._answer

    def data_received(self, data: bytes) -> None:
        self._received += data
        end = self._received.find(b"\r\n\r\n")
        if end < 0 or self._answer is None or self._answer.done():
            return
        first, *lines = bytes(self._received[:end]).split(b"\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines)}
        if len(self._received) - end - 4 >= int(headers[b"content-length"]):
            if headers.get(b"connection") == b"close":
                self.transport.close()
            self._answer.set_result((first.split(b" ", 2)[1], headers, bytes(self._received[end + 4 :])))

    def connection_lost(self, error: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error if isinstance(error, OSError) else ConnectionResetError("closed"))


def _http(image: bytes, options: dict[str, str]) -> bytes:
    path = f"/segment?{urlencode(options)}" if options else "/segment"
    return f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(image)}\r\n\r\n".encode() + image


def _grpc(image: bytes, options: dict[str, str]) -> bytes:
    enums = {"output": pb.Output, "format": pb.Format, "priority": pb.Priority}
    fields = {
        name: enums[name].Value(f"{name.upper()}_{value.upper()}") if name in enums else int(value)
        for name, value in options.items()
    }
    return pb.SegmentRequest(image=image, options=pb.SegmentOptions(**fields)).SerializeToString()  # type: ignore[arg-type]


def _numbered(request: bytes, number: int) -> bytes:
    return request.replace(_MARK, b"%08d" % number, 1)

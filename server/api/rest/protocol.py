"""HTTP/1.1 as uvicorn speaks it, with bounds on what comes before and after a request.

uvicorn reads heads of any size for any time, and waits for ever for the rest of a body that was refused, and for the
client to read its answer.
"""

import asyncio
import logging
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from server.api.rest.problems import MEDIA_TYPE, render_problem
from server.api.service import choose_request_id

_log = logging.getLogger(__name__)

CERTIFIED = "certified"
"""In the state of every request: whether TLS has verified a certificate of the client's."""

MAX_HEAD_BYTES = 32 * 1024  # request line and headers; the larger usual limit of proxies
MAX_FIELDS = 100
HEAD_S = 15.0  # from the first byte of a head to its end
WRITE_S = 30.0  # without a byte taken of what was written, until the connection is cut
LINGER_S = 30.0  # for the body of a request that is answered already: its client should read the answer first


@dataclass(frozen=True, slots=True)
class _Fault:
    status: HTTPStatus
    detail: str


_UPGRADE_WITH_BODY = _Fault(
    HTTPStatus.BAD_REQUEST,
    "expected a body without Upgrade, found both; HTTP/2 is not spoken on this port (Java's HttpClient takes "
    "`version(HTTP_1_1)`)",
)


class BoundedProtocol(HttpToolsProtocol):
    """One connection."""

    _head_bytes: int | None = None  # None outside of a head
    _fields = 0
    _fault: _Fault | None = None
    _timer: asyncio.TimerHandle | None = None  # of what the connection waits for: a head, its end, the rest of a body
    _writing: asyncio.TimerHandle | None = None  # runs while something that was written has not been taken
    _unwritten = 0  # bytes, when it was set

    def __init__(self, *args: Any, write_s: float = WRITE_S, **kwargs: Any) -> None:  # noqa: ANN401 - uvicorn's own
        super().__init__(*args, **kwargs)
        self._write_s = write_s

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.app_state = {**self.app_state, CERTIFIED: bool(transport.get_extra_info("peercert"))}
        self._arm(self.timeout_keep_alive)

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        self._stop_watching()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_writing()

    def resume_writing(self) -> None:
        self._stop_watching()
        super().resume_writing()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        # A header that never ends is in no callback yet, and is kept by the parser all the same.
        if self._head_bytes is not None and not self.transport.is_closing():
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._fault = _too_large()
                self.send_400_response("")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head_bytes = self._fields = 0
        self._arm(HEAD_S)

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._check(len(self.url) <= MAX_HEAD_BYTES, _too_large())

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        self._fields += len(name) + len(value)
        self._check(len(self.headers) <= MAX_FIELDS and self._fields <= MAX_HEAD_BYTES, _too_large())

    def on_headers_complete(self) -> None:
        hosts = sum(name == b"host" for name, _ in self.headers)
        wanted = hosts == 1 or (hosts == 0 and self.parser.get_http_version() == "1.0")
        self._check(wanted, _Fault(HTTPStatus.BAD_REQUEST, f"expected one Host header, found {hosts}"))
        # The parser takes what follows an Upgrade for another protocol: a body would be read as the next request.
        self._check(not (self.parser.should_upgrade() and self._announces_body()), _UPGRADE_WITH_BODY)
        self._disarm()
        self._watch_writing()  # anew: of the answers before this one, usually nothing is left
        self._head_bytes = None
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        if self.cycle.response_complete:
            self._arm(self.timeout_keep_alive)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.cycle.response_complete and not self.transport.is_closing():
            self._arm(LINGER_S if self.cycle.more_body else self.timeout_keep_alive)
        self._watch_writing()  # a closing connection, too, waits for what is left

    def send_400_response(self, msg: str) -> None:
        """Answer what is no request that can be served, and close; the name is uvicorn's."""
        self._disarm()
        fault = self._fault or _Fault(HTTPStatus.BAD_REQUEST, "expected a request in HTTP/1.1, found something else")
        refused_id = choose_request_id(None)
        fields = {"status": fault.status.value, "detail": fault.detail, "request_id": refused_id}
        _log.info("connection refused", extra=fields)
        if self._may_answer():
            body = render_problem(fault.status, fault.detail, refused_id)
            head = (
                f"HTTP/1.1 {fault.status.value} {fault.status.phrase}\r\ncontent-type: {MEDIA_TYPE}\r\n"
                f"content-length: {len(body)}\r\nx-request-id: {refused_id}\r\nconnection: close\r\n\r\n"
            )
            self.transport.write(head.encode() + body)
        self.transport.close()
        self._watch_writing()

    def _may_answer(self) -> bool:
        """Whether what is written now would be read as the answer to what is wrong, not to a request before it."""
        if self.cycle is None or self.cycle.response_complete:
            return True
        return self._head_bytes is None and not self.cycle.response_started

    def _unsupported_upgrade_warning(self) -> None:
        """Without a body, an offer that is not taken up needs no word: many clients make one with every request."""

    def _announces_body(self) -> bool:
        return any(
            name == b"transfer-encoding" or (name == b"content-length" and value.strip(b" 0"))
            for name, value in self.headers
        )

    def _check(self, condition: bool, fault: _Fault) -> None:
        if not condition:
            self._fault = fault
            raise ValueError(fault.detail)  # uvicorn then asks for the answer

    def _arm(self, seconds: float) -> None:
        self._disarm()
        self._timer = self.loop.call_later(seconds, self._give_up)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _watch_writing(self) -> None:
        """Give the client so long to take something of what was written, and as long again whenever it does."""
        self._stop_watching()
        self._unwritten = self.transport.get_write_buffer_size()
        if self._unwritten:
            self._writing = self.loop.call_later(self._write_s, self._check_writing)

    def _stop_watching(self) -> None:
        if self._writing is not None:
            self._writing.cancel()
            self._writing = None

    def _check_writing(self) -> None:
        if self.transport.get_write_buffer_size() < self._unwritten:
            self._watch_writing()
        else:
            _log.info("connection cut: its client reads nothing", extra={"unwritten": self._unwritten})
            self.transport.abort()

    def _give_up(self) -> None:
        if self._head_bytes is not None:
            self._fault = _Fault(HTTPStatus.REQUEST_TIMEOUT, f"the head did not arrive within {HEAD_S:g} s")
            self.send_400_response("")
        else:
            self.transport.close()


def _too_large() -> _Fault:
    limits = f"{MAX_HEAD_BYTES} bytes and {MAX_FIELDS} headers"
    return _Fault(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"expected a head of at most {limits}, found more")

"""What surrounds every HTTP request: its id, its line in the log, its count."""

import logging
import time
from collections.abc import Mapping, MutableMapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.access import Account
from server.api.rest.schemas import INFERENCE_PREFIX
from server.api.service import Service, choose_request_id
from server.observability.logs import request_id
from server.observability.tracing import conclude

_log = logging.getLogger(__name__)

SEGMENT_PATH = "/segment"
_HEADER = "x-request-id"
# Browsers must not guess types, nor caches keep what belongs to one client.
_HYGIENE = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}
_PROBES = (f"{INFERENCE_PREFIX}/health/live", f"{INFERENCE_PREFIX}/health/ready")
_QUIET = ("/livez", "/readyz", "/metrics", *_PROBES)  # asked every few seconds, by machines


def is_inference(path: str) -> bool:
    """Whether a path is for images, and so counted."""
    return path == SEGMENT_PATH or (path.startswith(f"{INFERENCE_PREFIX}/models/") and path.endswith("/infer"))


def _route(path: str) -> str:
    """What a span is named after: few names, whatever clients ask for."""
    if path == SEGMENT_PATH:
        return path
    return f"{INFERENCE_PREFIX}/models/{{name}}/infer" if is_inference(path) else "other"


class RequestBoundary:
    """Outermost ASGI layer of the application."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(scope, self._service)
        # Never reset: the ASGI server's own report of an exception, further out in this task, carries the id too.
        request_id.set(exchange.id)

        async def receive_body() -> Message:
            exchange.client_waits = False
            return await receive()

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["X-Request-Id"] = exchange.id
                headers.update(await exchange.rate_limit_headers())
                for name, value in _HYGIENE.items():
                    headers.setdefault(name, value)
                if exchange.client_waits:
                    # Its next bytes may be the body or, without it, another request: nobody here could tell.
                    headers["Connection"] = "close"
                exchange.note(int(message["status"]))
            await send(message)

        with exchange.trace():
            try:
                await self._app(scope, receive_body, send_with_id)
            finally:
                exchange.note(500)


class _Exchange:
    """One request and what became of it; the first note counts."""

    def __init__(self, scope: MutableMapping[str, Any], service: Service) -> None:
        headers = {name: value for name, value in scope["headers"] if name == _HEADER.encode()}
        offered = headers.get(_HEADER.encode())
        self.id = choose_request_id(offered.decode("latin-1") if offered is not None else None)
        self.client_waits = any(name == b"expect" for name, _ in scope["headers"])
        """Whether the client asked to be told before it sends the body, and was not."""
        self._scope = scope
        self._service = service
        self._started = time.monotonic()
        self._noted = False
        scope.setdefault("state", {})["outcome"] = "ok"

    @property
    def _account(self) -> Account | None:
        account: Account | None = self._scope["state"].get("account")
        return account

    def trace(self) -> AbstractContextManager[None]:
        """One trace per request; what machines ask every few seconds has none."""
        if self._scope["path"] in _QUIET:
            return nullcontext()
        headers = ((name.decode("latin-1"), value.decode("latin-1")) for name, value in self._scope["headers"])
        return self._service.trace(f"{self._scope['method']} {_route(self._scope['path'])}", headers)

    async def rate_limit_headers(self) -> Mapping[str, str]:
        """What the client has left after this request; none without a limit."""
        allowance = await self._service.allowance(self._account) if self._account is not None else None
        return allowance.as_headers() if allowance is not None else {}

    def note(self, status: int) -> None:
        """Count and log, before the answer leaves: who has it may rely on the count."""
        if self._noted:
            return
        self._noted = True
        path, outcome = self._scope["path"], self._scope["state"]["outcome"]
        duration_s = time.monotonic() - self._started
        if status >= 500 and outcome == "ok":
            outcome = "internal"
        if is_inference(path) and self._scope["method"] != "OPTIONS":  # a browser's question, not a request
            self._service.count("rest", outcome, duration_s)
        conclude(outcome, failed=status >= 500, **{"http.response.status_code": status})
        _log.log(
            logging.DEBUG if path in _QUIET else logging.INFO,
            "request answered",
            extra={
                "transport": "rest",
                "method": self._scope["method"],
                "path": path[:200],
                "status": status,
                "outcome": outcome,
                "duration_s": round(duration_s, 4),
                **({"account": self._account.name} if self._account is not None else {}),
            },
        )

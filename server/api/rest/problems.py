"""Errors as problem documents (RFC 9457), those of the framework and of our own bugs included."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

from server.access.gate import CHALLENGE
from server.api.status import status_of
from server.errors import InvalidOptionError, ServerError, UnauthenticatedError
from server.observability.logs import request_id

MEDIA_TYPE = "application/problem+json"
_TYPE = "urn:problem-type:birefnet:"


class ProblemResponse(JSONResponse):
    """An error as the client sees it."""

    media_type = MEDIA_TYPE


def install_problem_handlers(app: FastAPI) -> None:
    """Answer every error of an application by a problem document."""
    app.add_exception_handler(ServerError, answer_server_error)
    app.add_exception_handler(HTTPException, _answer_http_exception)
    app.add_exception_handler(RequestValidationError, _answer_validation_error)
    # The framework raises it again after this answer, so uvicorn logs the trace, under the request's id.
    app.add_exception_handler(Exception, _answer_bug)


def problem_schema() -> dict[str, Any]:
    """JSON Schema of the documents, for OpenAPI."""
    text, whole = {"type": "string"}, {"type": "integer"}
    return {
        "type": "object",
        "description": "RFC 9457 problem details.",
        "required": ["type", "title", "status", "detail", "code", "retryable", "request_id"],
        "properties": {
            "type": {**text, "description": "URN of the kind of problem."},
            "title": {**text, "description": "The kind in words, always the same."},
            "status": {**whole, "description": "HTTP status."},
            "detail": {**text, "description": "What was expected and what was found."},
            "code": {**text, "description": "Stable identifier of the kind; programs may switch on it."},
            "retryable": {"type": "boolean", "description": "Whether the same request may succeed later."},
            "request_id": {**text, "description": "Under which the server's log has it."},
            "retry_after_s": {**whole, "description": "Seconds to wait, as Retry-After; absent when unknown."},
            "reason": {**text, "description": "Of a refusal at the door, as in birefnet_refusals_total; else absent."},
        },
    }


@dataclass(frozen=True, slots=True)
class _Problem:
    status: int
    code: str
    title: str
    detail: str
    retryable: bool = False
    retry_after_s: int | None = None
    reason: str | None = None

    def as_json(self, answered_id: str) -> dict[str, Any]:
        body = {
            "type": _TYPE + self.code,
            "title": self.title,
            "status": self.status,
            # A client's text may be quoted here, and need not be valid Unicode.
            "detail": self.detail.encode("utf-8", "backslashreplace").decode(),
            "code": self.code,
            "retryable": self.retryable,
            "request_id": answered_id,
        }
        more = {"retry_after_s": self.retry_after_s, "reason": self.reason}
        return body | {name: value for name, value in more.items() if value is not None}

    def as_response(self, request: Request, headers: Mapping[str, str] | None = None) -> ProblemResponse:
        request.state.outcome = self.code
        sent = dict(headers or {})
        if getattr(request.state, "close_connection", False):
            sent["Connection"] = "close"
        if self.retry_after_s is not None:
            sent["Retry-After"] = str(self.retry_after_s)
        return ProblemResponse(self.as_json(request_id.get()), self.status, headers=sent)


def render_problem(status: HTTPStatus, detail: str, answered_id: str) -> bytes:
    """A problem document of what never became a request of the application's."""
    return ProblemResponse(_http_problem(status, detail).as_json(answered_id)).body  # type: ignore[return-value]


def answer_server_error(request: Request, error: Exception) -> ProblemResponse:
    """The problem document of a `ServerError`."""
    if not isinstance(error, ServerError):
        raise TypeError(f"This is a bug: expected a ServerError, found {type(error).__name__}")
    status = status_of(error)
    found = (status.http, error.code, error.title, error.detail, status.retryable, error.retry_after_s, error.reason)
    problem = _Problem(*found)
    return problem.as_response(request, CHALLENGE if isinstance(error, UnauthenticatedError) else None)


def _answer_http_exception(request: Request, error: Exception) -> ProblemResponse:
    if not isinstance(error, HTTPException):
        raise TypeError(f"This is a bug: expected an HTTPException, found {type(error).__name__}")
    phrase = HTTPStatus(error.status_code).phrase
    detail = str(error.detail)
    if detail == phrase:
        detail = f"{phrase}: {request.method} {request.url.path[:200]}; the interface is described at /docs"
    return _http_problem(HTTPStatus(error.status_code), detail).as_response(request, error.headers)


def _http_problem(status: HTTPStatus, detail: str) -> _Problem:
    return _Problem(status, re.sub(r"[^a-z]+", "-", status.phrase.lower()), status.phrase, detail)


def _answer_validation_error(request: Request, error: Exception) -> ProblemResponse:
    return answer_server_error(request, InvalidOptionError(str(error)))


def _answer_bug(request: Request, error: Exception) -> ProblemResponse:
    detail = f"an unexpected error ({type(error).__name__}); the server's log has it under the request id"
    return _Problem(500, ServerError.code, ServerError.title, detail).as_response(request)

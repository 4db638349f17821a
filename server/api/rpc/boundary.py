"""What surrounds every call: its request id, its count, its line in the log, and the outermost catch."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Iterator
from contextvars import ContextVar
from typing import Any, TypeAlias, TypeVar

import grpc

from server.access import Account
from server.access.gate import Area
from server.api.rpc.messages import answer_bytes, error_metadata, valid_text
from server.api.service import Service, choose_request_id
from server.api.status import STATUSES, status_of
from server.errors import (
    CancelledByClientError,
    DeadlineExceededError,
    MalformedRequestError,
    ServerError,
    UnauthenticatedError,
)
from server.observability.logs import request_id
from server.observability.tracing import conclude

_log = logging.getLogger(__name__)

T = TypeVar("T")
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any] | None"  # generic in the stubs only

account: ContextVar[Account | None] = ContextVar("account", default=None)
"""Of the call that is being answered."""

_ID_KEY = "x-request-id"
FAULTS = frozenset(error.code for error, status in STATUSES.items() if status.http >= 500)
"""Codes of errors that are no client's fault."""
_INFERENCE = "inference.GRPCInferenceService"
_AREAS: dict[str, Area] = {
    "grpc.health.v1.Health": "probes",
    "grpc.reflection.v1alpha.ServerReflection": "reflection",
    f"{_INFERENCE}/ServerLive": "probes",
    f"{_INFERENCE}/ServerReady": "probes",
    f"{_INFERENCE}/ServerMetadata": "models",
    f"{_INFERENCE}/ModelReady": "models",
    f"{_INFERENCE}/ModelMetadata": "models",
}
"""Of whole services, or of their methods."""


async def guarded(work: Awaitable[T]) -> T:
    """Await work of ours; whatever is no `ServerError` already is a bug, logged here and reported as one.

    Raises:
        ServerError: And nothing else.
    """
    try:
        return await work
    except ServerError:
        raise
    except Exception as error:  # the outermost catch: a bug must end one call, with a trace in the log and none outside
        _log.exception("unexpected error")
        name = type(error).__name__
        raise ServerError(f"an unexpected error ({name}); the server's log has it under the request id") from error


async def begin_answer(context: Context) -> None:
    """Send the initial metadata, as late as possible: where it has come, no channel repeats the call by itself."""
    await context.send_initial_metadata(((_ID_KEY, request_id.get()),))


async def abort(service: Service, context: Context, error: ServerError, call_id: str) -> None:
    """End a call with an error, its code and what else helps in the trailing metadata."""
    metadata = (*error_metadata(error).items(), *await _allowance(service), (_ID_KEY, call_id))
    await context.abort(status_of(error).grpc, valid_text(error.detail), metadata)


class Boundary(grpc.aio.ServerInterceptor):
    """Asks every call for a key where one is needed, and wraps the calls that carry images."""

    def __init__(self, calls: Collection[str], service: Service) -> None:
        """Stand before a service.

        Args:
            calls: Those that carry images, as `/package.Service/Method`.
            service: What answers them.
        """
        self._calls = frozenset(calls)
        self._service = service

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        handler = await continuation(handler_call_details)
        if handler is None:
            return handler
        method = handler_call_details.method
        try:
            headers = _headers(handler_call_details.invocation_metadata)
            # Without a certificate where one is needed, the handshake has failed before this.
            caller = self._service.gate.admit(_area(method), headers, certified=True)
        except UnauthenticatedError as error:
            return self._refusal(method, error)
        if method not in self._calls:
            return handler
        # A single call is handled as streams of one message: we read those ourselves, and so can refuse them unread,
        # and bound them while they are on their way; and we learn when the answer has left.
        unary = not handler.response_streaming
        behaviour = self._read_one(handler.unary_unary) if unary else handler.stream_stream

        async def surrounded(request: Any, context: Context) -> None:  # noqa: ANN401 - an iterator that we do not use
            account.set(caller)
            with self._service.trace(method.removeprefix("/"), _texts(context)):
                answer = await self._surround(method, behaviour, request, context)
                if unary:
                    with self._service.hold(answer_bytes(answer)):  # until the client has room for it
                        await begin_answer(context)
                        await context.write(answer)

        return grpc.stream_stream_rpc_method_handler(
            surrounded, handler.request_deserializer, handler.response_serializer
        )

    def _refusal(self, method: str, error: ServerError) -> Handler:
        # Of the kind whose behaviour begins before a message is there, whatever the method is: nothing is read.
        async def fail(request: Any, context: Context) -> None:  # noqa: ANN401
            raise error

        async def refuse(request: Any, context: Context) -> None:  # noqa: ANN401
            await self._surround(method, fail, request, context)

        return grpc.stream_stream_rpc_method_handler(refuse)

    def _read_one(self, behaviour: Any) -> Any:  # noqa: ANN401 - of a message, to one of a stream
        async def read_and_answer(_: object, context: Context) -> Any:  # noqa: ANN401
            return await behaviour(await self._read(context), context)

        return read_and_answer

    async def _read(self, context: Context) -> Any:  # noqa: ANN401
        longest = self._service.limits.max_timeout_s
        async with self._service.entrance.receive() as arrival:
            try:
                async with asyncio.timeout(longest):
                    # Its length is known when all of it is here. Until it is read, the client is held back.
                    await arrival.reserve(self._service.limits.max_message_bytes)
                    message = await context.read()
            except TimeoutError as error:
                raise DeadlineExceededError(f"the message did not arrive within {longest:g} s") from error
        if message is grpc.aio.EOF:
            raise MalformedRequestError("expected one message, found none")
        return message

    async def _surround(self, method: str, behaviour: Any, request: Any, context: Context) -> Any:  # noqa: ANN401
        offered = {key: value for key, value in context.invocation_metadata() or () if key == _ID_KEY}.get(_ID_KEY)
        call_id = choose_request_id(offered if isinstance(offered, str) else None)
        request_id.set(call_id)
        started, outcome = time.monotonic(), CancelledByClientError.code
        answer, failure = None, None
        try:
            answer = await guarded(behaviour(request, context))
            outcome = "ok"
        except ServerError as error:
            failure, outcome = error, error.code
        finally:
            # A call that its client cancelled, or whose deadline has passed, leaves by CancelledError.
            if outcome == CancelledByClientError.code and _is_past_deadline(context):
                outcome = DeadlineExceededError.code
            self._note(method, outcome, time.monotonic() - started)
        if failure is not None:
            await abort(self._service, context, failure, call_id)
        context.set_trailing_metadata(await _allowance(self._service))
        return answer

    def _note(self, method: str, outcome: str, duration_s: float) -> None:
        """Count and log, before the answer leaves: who has it may rely on the count."""
        # The images of a stream are counted one by one, where they are answered; a refused stream has none.
        refused = outcome == UnauthenticatedError.code
        if method in self._calls and (refused or not method.endswith("Stream")):
            self._service.count("grpc", outcome, duration_s)
        caller = account.get()
        conclude(outcome, failed=outcome in FAULTS)
        fields = {"transport": "grpc", "method": method, "outcome": outcome, "duration_s": round(duration_s, 4)}
        _log.info("request answered", extra=fields | ({"account": caller.name} if caller is not None else {}))


def _texts(context: Context) -> Iterator[tuple[str, str]]:
    """Metadata of a call that is text."""
    for key, value in context.invocation_metadata() or ():
        if isinstance(value, str):
            yield key, value


def _is_past_deadline(context: Context) -> bool:
    remaining = context.time_remaining()
    return remaining is not None and remaining <= 0


def _area(method: str) -> Area:
    """What a method belongs to; every service that is not known here needs a key."""
    name = method.removeprefix("/")
    return _AREAS.get(name) or _AREAS.get(name.partition("/")[0], "service")


def _headers(metadata: Any) -> Iterator[tuple[str, bytes]]:  # noqa: ANN401 - pairs of str and str or bytes, or None
    for key, value in metadata or ():
        yield key, value if isinstance(value, bytes) else value.encode()


async def _allowance(service: Service) -> tuple[tuple[str, str], ...]:
    """What the caller has left, as trailing metadata."""
    caller = account.get()
    allowance = await service.allowance(caller) if caller is not None else None
    return tuple(allowance.as_headers().items()) if allowance is not None else ()

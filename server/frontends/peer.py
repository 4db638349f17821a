"""Two event loops that ask and tell each other things, over one socket.

A **call** is answered, by a value or by a `ServerError`, and can be cancelled by who made it; a **note** is not. What
one side sends is taken by the other in the order in which it was sent: what is answered at once is done before the next
message is looked at.

Rules of this module: one event loop on each side; nothing here waits but `call`.
"""

import asyncio
import inspect
import itertools
import logging
import socket
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from server.errors import CancelledByClientError, ServerError
from server.frontends.framing import Deframer, frame

_log = logging.getLogger(__name__)

Handler = Callable[..., Any]
"""What answers a call: its value, or an awaitable of it; of a note nothing is awaited."""


class PeerLostError(CancelledByClientError):
    """The other process has ended: what it wanted is wanted no more, and what it was to do is not done."""


class Peer(asyncio.Protocol):
    """One end.

    Attributes:
        lost: Done when the other end has gone.
    """

    def __init__(self, handlers: Mapping[str, Handler]) -> None:
        """Answer calls and take notes by name."""
        self._handlers = handlers
        self._deframer = Deframer()
        self._transport: asyncio.WriteTransport | None = None
        self._numbers = itertools.count()
        self._asked: dict[int, asyncio.Future[Any]] = {}
        self._working: dict[int, asyncio.Task[None]] = {}
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def call(self, name: str, *arguments: object) -> Any:  # noqa: ANN401 - what the other side answers
        """Ask, and wait for the answer. Cancelling the caller cancels the work of the other side.

        Raises:
            ServerError: What the other side raised.
            PeerLostError: It has gone.
        """
        number = next(self._numbers)
        answer = self._asked[number] = asyncio.get_running_loop().create_future()
        self._send("call", number, name, arguments)
        try:
            return await answer
        except asyncio.CancelledError:
            self._send("cancel", number)
            raise
        finally:
            self._asked.pop(number, None)

    def note(self, name: str, *arguments: object) -> None:
        """Tell, without an answer. To who has gone nothing is told."""
        self._send("note", -1, name, arguments)

    def close(self) -> None:
        """Hang up, after what was sent."""
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # of a socket

    def data_received(self, data: bytes) -> None:
        for kind, number, *rest in self._deframer.feed(data):
            if kind == "call":
                self._answer(number, *rest)
            elif kind == "note":
                self._take(*rest)
            elif kind == "cancel":
                if (task := self._working.get(number)) is not None:
                    task.cancel()
            elif (asked := self._asked.get(number)) is not None and not asked.done():
                if kind == "value":
                    asked.set_result(rest[0])
                else:
                    asked.set_exception(rest[0])

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        for task in self._working.values():
            task.cancel()
        for asked in self._asked.values():
            if not asked.done():
                asked.set_exception(_gone())
        if not self.lost.done():
            self.lost.set_result(None)

    def _send(self, *message: object) -> None:
        if self._transport is None:
            if message[0] == "call" and not (asked := self._asked[message[1]]).done():  # type: ignore[index]
                asked.set_exception(_gone())
            return
        self._transport.write(frame(message))

    def _take(self, name: str, arguments: tuple[Any, ...]) -> None:
        try:
            self._handlers[name](*arguments)
        except Exception:  # noqa: BLE001 - the outermost catch of what nobody waits for: the next message must still be taken
            _log.exception("unexpected error")

    def _answer(self, number: int, name: str, arguments: tuple[Any, ...]) -> None:
        try:
            found = self._handlers[name](*arguments)
        except Exception as error:  # noqa: BLE001 - as `_finish`
            self._send("error", number, public(error))
            return
        if not inspect.isawaitable(found):
            self._send("value", number, found)
            return
        task = self._working[number] = asyncio.ensure_future(self._finish(number, found))
        task.add_done_callback(lambda _: self._working.pop(number, None))

    async def _finish(self, number: int, work: Awaitable[Any]) -> None:
        try:
            found = await work
        except asyncio.CancelledError:
            raise  # who asked has left, or has gone
        except Exception as error:  # noqa: BLE001 - the outermost catch of this process: the other one must learn of it
            self._send("error", number, public(error))
        else:
            self._send("value", number, found)


async def connect(handlers: Mapping[str, Handler], end: socket.socket) -> Peer:
    """One end, over a connected socket that is its own from now on."""
    end.setblocking(False)
    _, peer = await asyncio.get_running_loop().create_connection(lambda: Peer(handlers), sock=end)
    return peer


def public(error: BaseException) -> ServerError:
    """What the other process may know of an error; one that nobody expected is logged here, and only its name told."""
    if isinstance(error, ServerError):
        return error
    _log.error("unexpected error", exc_info=error)
    name = type(error).__name__
    return ServerError(f"an unexpected error ({name}); the server's log has it under the request id")


def _gone() -> PeerLostError:
    return PeerLostError("the process at the other end has gone")

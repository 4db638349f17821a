"""Work on pixels that one process orders and another one does: a socket and a thread for each of as many at a time.

The thread that orders waits as if it did the work itself, so that lines, priorities, deadlines and the measure of what
there is to do are those of a single process. Nothing here passes through an event loop, on either side.
"""

import socket
import threading
from collections.abc import Callable, Sequence
from typing import Any

from server.errors import ServerError
from server.frontends.framing import LENGTH, frame, unpack
from server.frontends.peer import PeerLostError, public
from server.host import lower_priority

Do = Callable[[str, tuple[Any, ...]], Any]


class Lines:
    """The end that orders."""

    def __init__(self, ends: Sequence[socket.socket]) -> None:
        """Order over sockets that are ours from now on, one piece of work at a time over each."""
        self._lock = threading.Lock()
        self._idle = list(ends)
        self._closed = False

    def ask(self, name: str, *arguments: object) -> Any:  # noqa: ANN401 - what the other side gives
        """Have something done, and wait for it; blocks.

        Raises:
            ServerError: What the other side raised.
            PeerLostError: It has gone.
        """
        order = frame((name, arguments))
        with self._lock:
            if self._closed:
                raise PeerLostError("the process at the other end has gone")
            end = self._idle.pop()  # there are as many as threads that ask
        try:
            end.sendall(order)
            sound, found = unpack(_receive(end))
        except (OSError, EOFError) as error:
            end.close()
            raise PeerLostError("the process at the other end has gone") from error
        with self._lock:
            if self._closed:
                end.close()
            else:
                self._idle.append(end)
        if sound:
            return found
        raise found

    def close(self) -> None:
        """Order no more; work that has begun ends."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for end in idle:
            end.close()


def work(end: socket.socket, do: Do, niceness: int = 0) -> threading.Thread:
    """Do what is ordered over a socket, in a thread of its own, until the other side hangs up.

    Args:
        end: Of the socket.
        do: What is ordered, by name and with its arguments.
        niceness: By which the thread gives way to the others.
    """
    thread = threading.Thread(target=_work, args=(end, do, niceness), name="host", daemon=True)
    thread.start()
    return thread


def _work(end: socket.socket, do: Do, niceness: int) -> None:
    lower_priority(niceness)
    with end:
        while True:
            try:
                name, arguments = unpack(_receive(end))
            except (OSError, EOFError):
                return
            try:
                answer = (True, do(name, arguments))
            except ServerError as error:
                answer = (False, error.with_traceback(None))
            except BaseException as error:  # noqa: BLE001 - as in every pool: who waits must learn of it
                answer = (False, public(error))
            del arguments
            try:
                content = frame(answer)
            except Exception as error:  # noqa: BLE001 - an answer that cannot cross must not end the line
                content = frame((False, public(error)))
            try:
                end.sendall(content)
            except OSError:
                return
            del answer, content


def _receive(end: socket.socket) -> bytes:
    (size,) = LENGTH.unpack(_exactly(end, LENGTH.size))
    return _exactly(end, size)


def _exactly(end: socket.socket, size: int) -> bytes:
    received = end.recv(size, socket.MSG_WAITALL)
    while len(received) < size:
        more = end.recv(size - len(received))
        if not more:
            raise EOFError("the other side has hung up")
        received += more
    return received

"""Small messages in a stream of bytes: each a pickle behind its length.

Both ends are processes of ours, joined by sockets that nobody else has. What comes from outside stays in the front end
that received it. Rules of this module: no I/O.
"""

import pickle
import struct
from collections.abc import Iterator
from typing import Any

LENGTH = struct.Struct("<I")


def frame(message: object) -> bytes:
    """A message as it travels."""
    data = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    return LENGTH.pack(len(data)) + data


def unpack(data: bytes) -> Any:  # noqa: ANN401 - whatever was sent
    """A message, without its length."""
    return pickle.loads(data)  # noqa: S301 - see above


class Deframer:
    """Cuts what arrives into messages."""

    def __init__(self) -> None:
        self._received = bytearray()

    def feed(self, data: bytes) -> Iterator[Any]:
        """The messages that are whole now."""
        self._received += data
        start = 0
        try:
            while len(self._received) - start >= LENGTH.size:
                (size,) = LENGTH.unpack_from(self._received, start)
                end = start + LENGTH.size + size
                if len(self._received) < end:
                    break
                message = bytes(self._received[start + LENGTH.size : end])
                start = end
                yield unpack(message)
        finally:
            del self._received[:start]

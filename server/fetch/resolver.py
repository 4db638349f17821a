"""Names to addresses, once per connection, in threads of their own."""

import asyncio
import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address
from typing import Protocol

from server.errors import UrlFetchFailedError
from server.fetch.addresses import Address

_TEMPORARY = (socket.EAI_AGAIN, socket.EAI_FAIL)


class Resolver(Protocol):
    """Where addresses of names come from."""

    async def resolve(self, host: str, port: int) -> Sequence[Address]:
        """All addresses of a name, the one to try first before the others; none if there is no such name.

        Raises:
            UrlFetchFailedError: It cannot be said now.
        """
        ...

    def close(self) -> None:
        """Begin no more lookups."""
        ...


class SystemResolver:
    """The resolver of the operating system, its hosts file and search domains included.

    A lookup cannot be cancelled. That is why the threads are few and serve nothing else: a server of names that never
    answers holds up other fetches, and nothing but fetches.
    """

    def __init__(self, threads: int) -> None:
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="resolver")

    async def resolve(self, host: str, port: int) -> Sequence[Address]:
        """As `Resolver.resolve`."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, _look_up, host, port)

    def close(self) -> None:
        """Begin no more lookups; those that have begun run on."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _look_up(host: str, port: int) -> Sequence[Address]:
    try:
        # As bytes: a string would go through Python's own, older IDNA.
        found = socket.getaddrinfo(host.encode(), port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    except socket.gaierror as error:
        if error.errno in _TEMPORARY:
            raise UrlFetchFailedError("the name of the host cannot be resolved now") from error
        return ()
    return tuple(dict.fromkeys(ip_address(entry[4][0]) for entry in found))

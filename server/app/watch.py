"""Files that may change while the server runs: read again and again, and used when they are new."""

import asyncio
from collections.abc import Iterable
from typing import Generic, Protocol, TypeVar

C = TypeVar("C")


class Watched(Protocol, Generic[C]):
    """Something made of files."""

    def read(self) -> C:
        """What the files hold now, problems included; blocks, and raises nothing."""
        ...

    def take(self, content: C) -> None:
        """Use it, if it is new and whole; in the event loop."""
        ...


async def watch(things: Iterable[Watched[C]], interval_s: float) -> None:
    """Keep things in step with their files, until cancelled.

    Contents are compared, not times of change: a volume that Kubernetes swaps, a restored backup and two writes within
    one tick of the clock are all seen.
    """
    while True:
        await asyncio.sleep(interval_s)
        for thing in things:
            thing.take(await asyncio.to_thread(thing.read))

"""Places of fetches: never more than the limits, first come first served, none lost."""

import asyncio
import random
from collections import Counter

import pytest

from server.errors import OverloadedError
from server.fetch.places import Errand, PlaceLimits, Places
from server.observability.metrics import Metrics
from tests.support.backends import counted, turn_loop


class Fetches:
    """Tasks that hold a place until they are told to leave."""

    def __init__(self, limits: PlaceLimits) -> None:
        self.metrics = Metrics()
        self.places = Places(limits, self.metrics)
        self.inside: list[str] = []
        self._leave: dict[str, asyncio.Event] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def begin(self, name: str, host: str = "a", client: str = "") -> None:
        self._leave[name] = asyncio.Event()
        self.tasks[name] = asyncio.create_task(self._hold(name, Errand(host, client)))
        await turn_loop()

    async def _hold(self, name: str, errand: Errand) -> None:
        async with self.places.take(errand):
            self.inside.append(name)
            try:
                await self._leave[name].wait()
            finally:
                self.inside.remove(name)

    async def end(self, name: str) -> None:
        self._leave[name].set()
        await self.tasks.pop(name)
        await turn_loop()

    async def cancel(self, name: str) -> None:
        self.tasks[name].cancel()
        await asyncio.gather(self.tasks.pop(name), return_exceptions=True)
        await turn_loop()

    async def end_all(self) -> None:
        while self.tasks:
            await self.cancel(next(iter(self.tasks)))


async def test_the_total_is_kept_and_the_first_in_line_goes_first():
    fetches = Fetches(PlaceLimits(total=2, per_host=9))
    for name, host in (("one", "a"), ("two", "b"), ("three", "c"), ("four", "d")):
        await fetches.begin(name, host)
    assert fetches.inside == ["one", "two"]
    assert (fetches.places.running, fetches.places.waiting) == (2, 2)
    await fetches.end("two")
    assert fetches.inside == ["one", "three"]
    await fetches.end("one")
    assert fetches.inside == ["three", "four"]
    await fetches.end_all()
    assert fetches.places.running == 0


async def test_a_slow_host_holds_up_itself_only():
    fetches = Fetches(PlaceLimits(total=3, per_host=1))
    for name, host in (("slow", "a"), ("behind it", "a"), ("other", "b")):
        await fetches.begin(name, host)
    assert fetches.inside == ["slow", "other"]
    await fetches.end("other")
    assert fetches.inside == ["slow"]
    await fetches.end("slow")
    assert fetches.inside == ["behind it"]
    await fetches.end_all()


async def test_one_client_cannot_take_all_places_and_nobody_in_particular_can():
    fetches = Fetches(PlaceLimits(total=4, per_host=9, per_client=2))
    for number in range(3):
        await fetches.begin(f"greedy {number}", client="greedy")
    await fetches.begin("modest", client="modest")
    assert fetches.inside == ["greedy 0", "greedy 1", "modest"]
    await fetches.end_all()
    for number in range(4):
        await fetches.begin(f"anyone {number}")
    assert len(fetches.inside) == 4
    await fetches.end_all()


async def test_a_full_line_is_refused_with_an_advice_and_counted():
    fetches = Fetches(PlaceLimits(total=1, waiting=1))
    await fetches.begin("inside")
    await fetches.begin("waiting")
    with pytest.raises(OverloadedError, match="1 images are being fetched and 1 wait") as caught:
        async with fetches.places.take(Errand("b")):
            pass
    assert caught.value.retry_after_s == 2  # two are ahead, and a fetch is taken for a second until one was measured
    assert counted(fetches.metrics, "birefnet_refusals_total", reason="fetches") == 1
    await fetches.cancel("waiting")
    await fetches.begin("in its place", "b")
    await fetches.end("inside")
    assert fetches.inside == ["in its place"]
    await fetches.end_all()


async def test_a_place_given_to_somebody_who_leaves_in_the_same_turn_is_not_lost():
    fetches = Fetches(PlaceLimits(total=1))
    await fetches.begin("inside")
    await fetches.begin("leaving")
    await fetches.begin("staying")
    fetches._leave["inside"].set()
    await fetches.tasks.pop("inside")  # the place is given now, and its new owner has not run yet
    fetches.tasks["leaving"].cancel()
    await asyncio.gather(fetches.tasks.pop("leaving"), return_exceptions=True)
    await turn_loop()
    assert fetches.inside == ["staying"]
    await fetches.end_all()
    assert fetches.places.running == 0


@pytest.mark.parametrize("seed", range(8))
async def test_no_walk_breaks_a_limit_or_leaves_a_place_empty(seed: int):
    draw = random.Random(seed)  # noqa: S311 - a walk, no secret
    limits = PlaceLimits(total=4, per_host=2, per_client=3, waiting=1000)
    fetches = Fetches(limits)
    errands: dict[str, Errand] = {}
    for step in range(300):
        known = list(fetches.tasks)
        choice = draw.random()
        if choice < 0.5 or not known:
            name, host, client = str(step), draw.choice("abc"), draw.choice(["", "x", "y"])
            errands[name] = Errand(host, client)
            await fetches.begin(name, host, client)
        elif choice < 0.8 and fetches.inside:
            await fetches.end(draw.choice(fetches.inside))
        else:
            await fetches.cancel(draw.choice(known))
        hosts = Counter(errands[name].host for name in fetches.inside)
        clients = Counter(errands[name].client for name in fetches.inside)
        assert len(fetches.inside) == fetches.places.running <= limits.total
        assert max(hosts.values(), default=0) <= limits.per_host
        assert max(clients["x"], clients["y"]) <= limits.per_client
        waiting = [errands[name] for name in fetches.tasks if name not in fetches.inside]
        assert len(waiting) == fetches.places.waiting
        if len(fetches.inside) < limits.total:
            assert all(
                hosts[errand.host] == limits.per_host or (errand.client and clients[errand.client] == limits.per_client)
                for errand in waiting
            )
    await fetches.end_all()
    assert (fetches.places.running, fetches.places.waiting) == (0, 0)

"""Shared memory: extents that never overlap, slots that are waited for in turn, arrays that both sides see."""

import asyncio
import itertools
import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.errors import CancelledByClientError
from server.frontends.arena import Arena, Extents, Slots, Where, create_memory, lay_out


@given(st.lists(st.one_of(st.integers(1, 40), st.none()), max_size=60))
def test_extents_are_disjoint_and_what_is_given_back_is_whole_again(steps):
    """A number takes so many bytes, None gives the oldest back."""
    extents = Extents(100)
    taken: list[tuple[int, int]] = []
    for size in steps:
        if size is None:
            if taken:
                extents.give(*taken.pop(0))
            continue
        offset = extents.take(size)
        if offset is not None:
            assert offset >= 0
            assert offset + size <= 100
            assert all(offset + size <= other or other + length <= offset for other, length in taken)
            taken.append((offset, size))
        assert extents.free == 100 - sum(length for _, length in taken)
    for offset, size in taken:
        extents.give(offset, size)
    assert extents.take(100) == 0


def test_the_lowest_place_is_taken_so_that_memory_is_used_again():
    extents = Extents(100)
    first, second = extents.take(30), extents.take(30)
    extents.give(0, 30)
    assert (first, second, extents.take(20), extents.take(60)) == (0, 30, 0, None)


def arena_of(size: int) -> Arena:
    descriptor = create_memory(size)
    try:
        return Arena(descriptor, size)
    finally:
        os.close(descriptor)


def test_both_mappings_of_a_memory_see_the_same_arrays():
    descriptor = create_memory(1 << 16)
    here, there = Arena(descriptor, 1 << 16), Arena(descriptor, 1 << 16)
    os.close(descriptor)
    places = lay_out(128, [np.zeros((3, 5, 3), np.uint8), np.zeros(4, np.float32), np.zeros((2, 2), np.float32)])
    assert [place.offset % 64 for place in places] == [0, 0, 0]
    assert all(first.end <= second.offset for first, second in itertools.pairwise(places))
    values = np.arange(4, dtype=np.float32).reshape(2, 2)
    here.array(places[2])[:] = values
    assert (there.array(places[2]) == values).all()
    assert there.array(Where(128, (3, 5, 3), "|u1")).sum() == 0


async def test_who_finds_no_room_waits_behind_who_came_before():
    slots, entered = Slots(arena_of(1 << 12)), []

    async def use(name: str, size: int, leave: asyncio.Event) -> None:
        async with slots.slot(size):
            entered.append(name)
            await leave.wait()

    leaves = [asyncio.Event() for _ in range(4)]
    tasks = [asyncio.create_task(use("large", 3000, leaves[0]))]
    await turns()
    tasks.append(asyncio.create_task(use("larger", 4000, leaves[1])))
    tasks.append(asyncio.create_task(use("small", 64, leaves[2])))  # there is room, but it is not its turn
    await turns()
    assert entered == ["large"]
    leaves[0].set()
    await turns()
    assert entered == ["large", "larger", "small"]
    for leave in leaves:
        leave.set()
    await asyncio.gather(*tasks)
    assert slots.used == 0


async def test_who_is_cancelled_while_waiting_holds_up_nobody():
    slots, leave = Slots(arena_of(1 << 12)), asyncio.Event()

    async def use(size: int) -> None:
        async with slots.slot(size):
            await leave.wait()

    first = asyncio.create_task(use(4096))
    await turns()
    waiting, next_one = asyncio.create_task(use(4096)), asyncio.create_task(use(64))
    await turns()
    waiting.cancel()
    leave.set()
    await asyncio.gather(first, next_one)
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert slots.used == 0


async def test_a_slot_is_not_given_on_while_a_thread_works_in_it():
    slots = Slots(arena_of(1 << 12))
    async with slots.slot(4096) as slot:
        working = slot.used()
        await asyncio.to_thread(working.__enter__)
    assert slots.used == 4096
    await asyncio.to_thread(working.__exit__, None, None, None)
    assert slots.used == 0
    async with asyncio.timeout(10), slots.slot(4096):
        pass


async def test_a_thread_that_comes_too_late_does_not_get_another_requests_slot():
    slots = Slots(arena_of(1 << 12))
    async with slots.slot(4096) as late:
        pass
    async with slots.slot(4096):
        with pytest.raises(CancelledByClientError), late.used():
            pytest.fail("wrote into memory of another request")
        assert slots.used == 4096
    assert slots.used == 0


def test_what_is_free_is_not_given_back_again():
    extents = Extents(100)
    for size in (30, 30, 40):
        extents.take(size)
    extents.give(30, 30)
    for offset, size in ((30, 30), (20, 20), (50, 20), (0, 100)):
        with pytest.raises(RuntimeError, match="that were free"):
            extents.give(offset, size)
    assert extents.free == 30


async def test_what_can_never_fit_is_an_error_at_once():
    with pytest.raises(ValueError, match="at most 4096 bytes, found 4160"):
        async with Slots(arena_of(1 << 12)).slot(4097):
            pass


async def turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)

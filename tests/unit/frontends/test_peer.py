"""Messages between processes: whole again however they are cut, answered, cancelled, in order, and ended."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.errors import OverloadedError, ServerError
from server.frontends.framing import Deframer, frame
from server.frontends.peer import Handler, Peer, PeerLostError, connect


@given(st.lists(st.binary(max_size=50), max_size=8), st.lists(st.integers(1, 40), min_size=1))
def test_messages_are_whole_again_however_they_are_cut(messages, cuts):
    stream, deframer = b"".join(map(frame, messages)), Deframer()
    found: list[bytes] = []
    while stream:
        cut = cuts[len(stream) % len(cuts)]
        found += deframer.feed(stream[:cut])
        stream = stream[cut:]
    assert found == messages


@asynccontextmanager
async def pair(here: dict[str, Handler], there: dict[str, Handler]) -> AsyncIterator[tuple[Peer, Peer]]:
    ends = socket.socketpair()
    peers = [await connect(handlers, end) for handlers, end in zip((here, there), ends, strict=True)]
    try:
        yield peers[0], peers[1]
    finally:
        for peer in peers:
            peer.close()
            await peer.lost


async def test_calls_are_answered_by_values_and_by_errors_as_they_were_raised():
    def refuse() -> None:
        error = OverloadedError("full", retry_after_s=7)
        error.reason = "requests"
        raise error

    async def add(first: int, second: int) -> int:
        await asyncio.sleep(0)
        return first + second

    async with pair({}, {"add": add, "refuse": refuse, "negate": lambda value: -value}) as (peer, _):
        assert await asyncio.gather(*(peer.call("add", n, 1) for n in range(5))) == [1, 2, 3, 4, 5]
        assert await peer.call("negate", 3) == -3
        with pytest.raises(OverloadedError, match="full") as caught:
            await peer.call("refuse")
    assert (caught.value.retry_after_s, caught.value.reason, caught.value.detail) == (7, "requests", "full")


async def test_a_bug_of_the_other_side_is_an_error_without_its_text(caplog):
    async def fail() -> None:
        raise KeyError("secret")

    async with pair({}, {"fail": fail}) as (peer, _):
        with pytest.raises(ServerError, match=r"unexpected error \(KeyError\)") as caught:
            await peer.call("fail")
    assert "secret" not in caught.value.detail
    assert "secret" in caplog.text


async def test_what_is_cancelled_here_is_cancelled_there():
    began, ended = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with pair({}, {"work": work}) as (peer, _):
        call = asyncio.create_task(peer.call("work"))
        await began.wait()
        call.cancel()
        async with asyncio.timeout(10):
            await ended.wait()
        with pytest.raises(asyncio.CancelledError):
            await call


async def test_a_note_is_taken_after_the_call_that_was_sent_before_it_and_a_bad_one_stops_nothing():
    heard: list[Any] = []

    def fail() -> None:
        raise ValueError("bad")

    there: dict[str, Handler] = {"enter": lambda number: heard.append(number), "left": heard.append, "fail": fail}
    async with pair({}, there) as (peer, _):
        peer.note("fail")
        entering = asyncio.create_task(peer.call("enter", 1))
        await asyncio.sleep(0)
        peer.note("left", -1)
        await entering
        await peer.call("enter", 2)
    assert heard == [1, -1, 2]


async def test_when_one_side_goes_the_other_s_calls_fail_and_its_own_work_is_cancelled():
    cancelled = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async with pair({}, {"work": work}) as (here, there):
        call = asyncio.create_task(here.call("work"))
        await asyncio.sleep(0)
        there_call = asyncio.create_task(there.call("nothing"))
        await asyncio.sleep(0)
        here.close()
        for each in (call, there_call):
            with pytest.raises((PeerLostError, ServerError)):
                await each
        async with asyncio.timeout(10):
            await there.lost
        with pytest.raises(PeerLostError):
            await here.call("work")

"""What an account has left is asked of the engine process, and left out where that does not answer."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from server.access.accounts import Account, Allowance
from server.frontends import service
from server.frontends.peer import Handler, Peer, connect
from server.frontends.service import DistantAllowances

LEFT = Allowance(limit=5, remaining=3, reset_s=24)


def limited() -> Account:
    account = Account("lab", lambda: 0.0)
    account.limit_to(5)
    return account


@asynccontextmanager
async def engine_that(answer: Handler) -> AsyncIterator[tuple[Peer, Peer]]:
    """Both ends."""
    ends = socket.socketpair()
    here, there = await connect({}, ends[0]), await connect({"allowance": answer}, ends[1])
    try:
        yield here, there
    finally:
        for peer in (here, there):
            peer.close()
            await peer.lost


async def test_it_is_what_the_engine_process_says_of_that_account():
    async with engine_that({"lab": LEFT}.get) as (peer, _):
        assert await DistantAllowances(peer)(limited()) == LEFT


async def test_of_an_account_without_a_limit_nobody_is_asked():
    def fail(name: str) -> None:
        raise AssertionError(name)

    async with engine_that(fail) as (peer, _):
        assert await DistantAllowances(peer)(Account("shop", lambda: 0.0)) is None


async def test_an_engine_process_that_hangs_holds_no_answer_back(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(service, "_ALLOWANCE_S", 0.0)
    asked = asyncio.Event()

    async def hang(name: str) -> None:
        asked.set()
        await asyncio.Event().wait()

    async with engine_that(hang) as (peer, _):
        assert await DistantAllowances(peer)(limited()) is None
        await asked.wait()


async def test_neither_does_one_that_has_gone_or_fails(caplog: pytest.LogCaptureFixture):
    def fail(name: str) -> None:
        raise KeyError(name)

    async with engine_that(fail) as (peer, there):
        assert await DistantAllowances(peer)(limited()) is None
        assert "unexpected error" in caplog.text
        there.close()
        await peer.lost
        assert await DistantAllowances(peer)(limited()) is None

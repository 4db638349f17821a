"""Work that one side orders and the other does: values, errors, many at a time, and an end on either side."""

import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from server.errors import CorruptImageError, ServerError
from server.frontends.lines import Lines, work
from server.frontends.peer import PeerLostError


def lines_to(do, count: int = 1) -> tuple[Lines, list[threading.Thread]]:
    pairs = [socket.socketpair() for _ in range(count)]
    return Lines([here for here, _ in pairs]), [work(there, do) for _, there in pairs]


def test_what_is_ordered_is_done_and_errors_come_back_as_they_were_raised():
    def do(name, arguments):
        if name == "refuse":
            raise CorruptImageError("truncated")
        if name == "fail":
            raise KeyError("x")
        if name == "mute":
            return lambda: None  # which cannot cross
        return name, arguments

    lines, threads = lines_to(do)
    assert lines.ask("prepare", 1, b"x" * 300_000) == ("prepare", (1, b"x" * 300_000))
    with pytest.raises(CorruptImageError, match="truncated"):
        lines.ask("refuse")
    with pytest.raises(ServerError, match=r"an unexpected error \(KeyError\); the server's log has it"):
        lines.ask("fail")
    with pytest.raises(ServerError, match="an unexpected error"):
        lines.ask("mute")
    assert lines.ask("again") == ("again", ())
    lines.close()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()


def test_as_many_are_under_way_as_there_are_lines():
    barrier = threading.Barrier(3)
    lines, _ = lines_to(lambda name, arguments: barrier.wait(10) >= 0, count=3)
    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(lambda _: lines.ask("meet"), range(3))) == [True] * 3
    lines.close()


def test_who_has_gone_is_an_error_and_not_a_wait():
    here, there = socket.socketpair()
    lines = Lines([here])
    threading.Timer(0, there.close).start()
    with pytest.raises(PeerLostError):
        lines.ask("prepare")
    lines.close()
    with pytest.raises(PeerLostError):
        lines.ask("prepare")

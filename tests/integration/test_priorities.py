"""However busy the host is with pixels, the event loop goes first: threads that compute have a lower priority."""

import os
import sys
import threading

import pytest

from server.app import composition
from server.host import lower_priority
from server.settings import Settings
from tests.support.clients import marked_png, running_server

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has priorities of threads")


def niceness(thread: int | None = None) -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id() if thread is None else thread)


def test_a_thread_and_those_that_it_starts_give_way_and_no_others():
    found = []

    def child() -> None:
        found.append(niceness())

    def parent() -> None:
        lower_priority(3)
        found.append(niceness())
        run(child)

    before = niceness()
    run(parent)
    assert found == [min(19, before + 3)] * 2
    assert niceness() == before


def test_nothing_is_below_the_lowest():
    found = []

    def work() -> None:
        lower_priority(19)
        lower_priority(19)
        found.append(niceness())

    run(work)
    assert found == [19]


def run(work) -> None:
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


async def test_the_threads_for_pixels_and_for_headers_are_told_apart():
    async with running_server(compute_niceness=7) as server:
        assert (await server.post(marked_png(1))).status_code == 200
        found = {thread.name.partition("_")[0]: niceness(thread.native_id) for thread in threading.enumerate()}
    assert found["host"] == min(19, found["header"] + 7)
    assert found["header"] == niceness()


def test_devices_that_compute_on_the_host_give_way():
    found = []

    def work() -> None:
        composition._backend_maker(Settings(backend="fake", compute_niceness=7), 0)()
        found.append(niceness())

    run(work)
    assert found == [min(19, niceness() + 7)]

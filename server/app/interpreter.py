"""What a serving process does to its interpreter, whichever part of the server it is."""

import asyncio
import gc
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from server.observability.logs import configure_logging
from server.settings import Settings

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
"""What a server is told to end by. A terminal or a service manager may send them to all of its processes."""


def begin_logging(settings: Settings) -> None:
    """Write our log, and of what libraries say only what operators need."""
    configure_logging(settings.log_format, settings.log_level)
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # it warns of every broken upload, which we answer
    logging.getLogger("PIL").setLevel(logging.INFO)  # below that it writes the metadata of uploads


def freeze_heap() -> None:
    """Have the garbage collector pass over what the start has made: modules, mostly, which live as long as the process.

    Looking through their 80,000 objects takes 70 ms, and the event loop would stand still for it again and again.
    """
    gc.collect()
    gc.freeze()


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Of the fastest event loop that there is; None is Python's own."""
    try:
        import uvloop
    except ImportError:  # not on Windows
        return None
    return uvloop.new_event_loop


@contextmanager
def stop_signals_blocked() -> Iterator[None]:
    """A process that is started meanwhile hears no `STOP_SIGNALS` until it wants to; this one hears them afterwards."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def ignore_stop_signals() -> None:
    """Leave them to the process that has started this one, also those that have come and were blocked."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)


def leave_threads_behind(code: int) -> None:
    """End the process now if the interpreter would wait, at its exit, for a thread that is still busy."""
    main = threading.main_thread()
    if any(thread is not main and not thread.daemon for thread in threading.enumerate()):
        end_now(code)


def end_now(code: int) -> None:
    """End the process, whatever its threads are at."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)

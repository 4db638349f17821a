"""The thread of a device: what is taken back holds nothing, whatever the device is busy with."""

import gc
import threading
import weakref
from functools import partial

from server.backends.base import Backend
from server.backends.fake import FakeBackend
from server.engine.worker import DeviceThread
from tests.support.backends import PATIENCE_S


class Held(bytearray):
    """That one can ask whether it is still there."""


def use(held: Held, backend: Backend) -> int:
    return len(held)


def test_a_job_that_is_taken_back_lets_go_of_what_it_holds_before_the_device_is_free():
    thread, go = DeviceThread(FakeBackend, "device"), threading.Event()
    thread.start().result(PATIENCE_S)
    busy = thread.post(lambda backend: go.wait(PATIENCE_S))
    held = Held(1)
    seen = weakref.ref(held)
    assert thread.post(partial(use, held)).cancel()
    del held
    gc.collect()
    assert seen() is None
    go.set()
    assert busy.result(PATIENCE_S)
    thread.stop()
    assert thread.join(PATIENCE_S)


def test_what_a_job_gave_lives_no_longer_than_who_waited_for_it():
    thread = DeviceThread(FakeBackend, "device")
    thread.start().result(PATIENCE_S)
    gc.disable()  # nothing may hang on a cycle
    try:
        seen = weakref.ref(thread.post(lambda backend: Held(1)).result(PATIENCE_S))
        thread.post(lambda backend: None).result(PATIENCE_S)  # the thread itself has gone on
        assert seen() is None
    finally:
        gc.enable()
    thread.stop()
    assert thread.join(PATIENCE_S)

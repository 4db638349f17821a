"""What a front end says of an engine process that says nothing any more."""

import pytest

from server.frontends.heard import BEAT_S, DEAD_AFTER_S, UNREADY_AFTER_S, Heard
from server.frontends.orders import State
from tests.support.clock import FakeClock

READY = State(None, live=True, models=({"name": "main"},))


def test_what_was_told_holds_as_long_as_it_is_told_again():
    clock = FakeClock()
    heard = Heard(READY, clock)
    for _ in range(100):
        clock.advance(BEAT_S)
        assert (heard.unready_reason, heard.live, heard.silent) == (None, True, False)
        heard.take(READY)


def test_silence_is_not_ready_then_not_live_until_it_ends():
    clock = FakeClock()
    heard = Heard(READY, clock)
    clock.advance(UNREADY_AFTER_S - 0.01)
    assert (heard.unready_reason, heard.silent) == (None, False)
    clock.advance(0.01)
    assert heard.unready_reason == "the engine process has said nothing for 5 s"
    assert (heard.live, heard.silent) == (True, True)
    clock.advance(DEAD_AFTER_S - UNREADY_AFTER_S - 0.01)
    assert heard.live
    clock.advance(0.01)
    assert not heard.live
    heard.take(READY)
    assert (heard.unready_reason, heard.live, heard.silent) == (None, True, False)


@pytest.mark.parametrize("live", [True, False])
def test_what_is_said_is_believed_before_silence_is(live):
    clock = FakeClock()
    heard = Heard(READY, clock)
    heard.take(State("the device is lost", live=live, models=()))
    assert (heard.unready_reason, heard.live, heard.models) == ("the device is lost", live, ())


def test_a_beat_or_two_may_be_missed():
    assert 3 * BEAT_S <= UNREADY_AFTER_S < DEAD_AFTER_S

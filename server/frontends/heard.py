"""What a front end knows of the engine process, and for how long it may believe it.

An engine process that has ended is noticed by the socket that goes with it. One that hangs says nothing any more: what
it said last must not answer for it.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from server.frontends.orders import State

BEAT_S = 1.0  # in which the engine process says how it is, whether or not that has changed
UNREADY_AFTER_S = 5.0  # of silence: some missed beats, and no pause that a busy machine makes
DEAD_AFTER_S = 15.0


class Heard:
    """The last state that was told, as old as it is."""

    def __init__(self, state: State, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin with what is true before anything is told."""
        self._state = state
        self._clock = clock
        self._at = clock()

    def take(self, state: State) -> None:
        """It has been told now."""
        self._state = state
        self._at = self._clock()

    @property
    def silent(self) -> bool:
        """Whether nothing was told for so long that nobody should be sent here."""
        return self._clock() - self._at >= UNREADY_AFTER_S

    @property
    def unready_reason(self) -> str | None:
        """Why no request should be sent here; None when requests are welcome."""
        if self.silent:
            return f"the engine process has said nothing for {self._clock() - self._at:.0f} s"
        return self._state.unready_reason

    @property
    def live(self) -> bool:
        """False when only a new process helps."""
        return self._state.live and self._clock() - self._at < DEAD_AFTER_S

    @property
    def models(self) -> Sequence[Mapping[str, Any]]:
        """What `/models` lists."""
        return self._state.models

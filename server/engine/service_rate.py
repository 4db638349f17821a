"""How fast the server answers, as measured.

Rules of this module: standard library only, no clock (`now` is an argument).
"""

import math

_MEMORY_S = 30.0  # of busy time after which an observation counts for a third


class ServiceRate:
    """Requests and megapixels finished per second of having work, the last half minute of it weighted most.

    Idle time does not count: the rate says what the server can do, not what it was asked for. `now` is an argument.
    """

    def __init__(self, memory_s: float = _MEMORY_S) -> None:
        self._memory_s = memory_s
        self._busy_s = self._requests = self._megapixels = 0.0
        self._since: float | None = None
        self.finished = 0

    def begin(self, now: float) -> None:
        """The first request has come into an empty server."""
        self._since = now

    def finish(self, megapixels: float, now: float) -> None:
        """A request was answered."""
        self._advance(now)
        self._requests += 1
        self._megapixels += megapixels
        self.finished += 1

    def end(self, now: float) -> None:
        """The last request has left."""
        self._advance(now)
        self._since = None

    @property
    def requests_per_s(self) -> float | None:
        """None until something was measured."""
        return self._requests / self._busy_s if self._requests and self._busy_s > 0 else None

    @property
    def megapixels_per_s(self) -> float | None:
        """None until something was measured."""
        return self._megapixels / self._busy_s if self._megapixels and self._busy_s > 0 else None

    def _advance(self, now: float) -> None:
        if self._since is None:
            return
        kept = math.exp(-(now - self._since) / self._memory_s)
        self._busy_s = self._busy_s * kept + self._memory_s * (1 - kept)
        self._requests *= kept
        self._megapixels *= kept
        self._since = now

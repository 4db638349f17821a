"""Running time: what a budget counts."""

_STALL = 6.0
_MEMORY = 0.9


class Pace:
    """Counts the time of steps but not stalls: a stopped process, or a machine that slept, spends one long step.

    A step counts as at most six ordinary ones, an ordinary one being the running mean of what was counted.
    """

    def __init__(self) -> None:
        self._ordinary: float | None = None

    def counted(self, seconds: float) -> float:
        """How much of a step of `seconds` counts."""
        if self._ordinary is None:
            self._ordinary = seconds
            return seconds
        seconds = min(seconds, _STALL * self._ordinary)
        self._ordinary = _MEMORY * self._ordinary + (1 - _MEMORY) * seconds
        return seconds

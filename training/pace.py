"""Running time: what a budget counts."""

_STALL = 6.0
_MEMORY = 0.9


class Pace:
    """Counts the time of steps but not stalls: a stopped process, or a machine that slept, spends one long step.

    A step counts as at most six ordinary ones, an ordinary one being the running mean of what was counted.

    Attributes:
        ordinary: Seconds of an ordinary step; None before the first.
    """

    def __init__(self) -> None:
        self.ordinary: float | None = None

    def counted(self, seconds: float) -> float:
        """How much of a step of `seconds` counts."""
        if self.ordinary is None:
            self.ordinary = seconds
            return seconds
        seconds = min(seconds, _STALL * self.ordinary)
        self.ordinary = _MEMORY * self.ordinary + (1 - _MEMORY) * seconds
        return seconds

"""A clock that moves only when a test says so."""


class FakeClock:
    """Stands in for `time.monotonic`: call it for the time, `advance` it to let time pass. Any thread may read it."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        assert seconds >= 0, "a monotonic clock does not go back"
        self.now += seconds

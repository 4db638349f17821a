"""A token bucket of megapixels: how much a client may use now, and when it may use more.

Rules of this module: pure, no clock. `now` is an argument, in monotonic seconds.
"""

# Of an image: one pixel. Rounding must not refuse a client that waited exactly as long as it was told to.
_SLACK_MEGAPIXELS = 1e-6


class TokenBucket:
    """Holds the megapixels of one minute and is refilled continuously.

    What is larger than the bucket may be taken when the bucket is full, and leaves a debt, so that the mean rate holds
    for images of any size and none is refused for ever.
    """

    def __init__(self, per_minute: float, now: float) -> None:
        """A full one.

        Args:
            per_minute: Megapixels that it holds, and that flow into it every minute; positive.
            now: Monotonic seconds.
        """
        if not per_minute > 0:
            raise ValueError(f"per_minute: expected a positive number of megapixels, found {per_minute}")
        self._per_minute = self._level = per_minute
        self._then = now

    @property
    def per_minute(self) -> float:
        """Megapixels that it holds at most."""
        return self._per_minute

    def level(self, now: float) -> float:
        """Megapixels in it; negative while in debt."""
        self._refill(now)
        return self._level

    def wait_s(self, megapixels: float, now: float) -> float:
        """Seconds until so much may be taken; 0 when it may be now."""
        needed = min(megapixels, self._per_minute) - _SLACK_MEGAPIXELS
        return max(0.0, needed - self.level(now)) * 60 / self._per_minute

    def full_s(self, now: float) -> float:
        """Seconds until it is full."""
        return (self._per_minute - self.level(now)) * 60 / self._per_minute

    def take(self, megapixels: float, now: float) -> None:
        """Take so much out, whether it is there or not: `wait_s` says whether it may be."""
        self._refill(now)
        self._level -= megapixels

    def give_back(self, megapixels: float, now: float) -> None:
        """Put back what was taken; what no longer fits is lost, as the refill in the meantime would have been."""
        self._refill(now)
        self._level = min(self._per_minute, self._level + megapixels)

    def resize(self, per_minute: float, now: float) -> None:
        """Change its size and its inflow; what is missing from it stays missing, so that nobody gains by a reload."""
        self._refill(now)
        self._level += per_minute - self._per_minute
        self._per_minute = per_minute

    def _refill(self, now: float) -> None:
        elapsed = max(0.0, now - self._then)
        self._level = min(self._per_minute, self._level + elapsed * self._per_minute / 60)
        self._then = max(self._then, now)

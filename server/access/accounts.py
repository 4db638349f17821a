"""An account: one name in the file of keys, and what its requests may use."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from server.access.bucket import TokenBucket
from server.errors import (
    CancelledByClientError,
    DeadlineExceededError,
    RateLimitedError,
    RequestError,
    UnauthenticatedError,
)

_CLIENTS_OWN = (RequestError, DeadlineExceededError, CancelledByClientError)


@dataclass(frozen=True, slots=True)
class Allowance:
    """What an account has left, in whole numbers as headers carry them.

    Attributes:
        limit: Megapixels per minute.
        remaining: Megapixels that may be used at once now; never more than there are, never negative.
        reset_s: Seconds until all of the limit may be used again.
    """

    limit: int
    remaining: int
    reset_s: int

    def as_headers(self) -> dict[str, str]:
        """As HTTP headers and as gRPC metadata, names in lower case."""
        return {
            "x-ratelimit-limit": str(self.limit),
            "x-ratelimit-remaining": str(self.remaining),
            "x-ratelimit-reset": str(self.reset_s),
        }


class Account:
    """One client of the server, whichever of its keys it shows.

    Attributes:
        name: As in the file of keys; the only thing about a key that may be logged.
        withdrawn: True once no key of the file leads here any more; requests that are still on their way are refused.
    """

    def __init__(self, name: str, clock: Callable[[], float]) -> None:
        self.name = name
        self.withdrawn = False
        self._clock = clock
        self._bucket: TokenBucket | None = None

    def __repr__(self) -> str:
        return f"Account({self.name!r})"

    def limit_to(self, megapixels_per_minute: float | None) -> None:
        """Set the rate limit; None takes it away. What was used already stays used."""
        if megapixels_per_minute is None:
            self._bucket = None
        elif self._bucket is None:
            self._bucket = TokenBucket(megapixels_per_minute, self._clock())
        else:
            self._bucket.resize(megapixels_per_minute, self._clock())

    @property
    def allowance(self) -> Allowance | None:
        """What is left now; None without a limit."""
        if (bucket := self._bucket) is None:
            return None
        now = self._clock()
        remaining = max(0, math.floor(bucket.level(now)))
        return Allowance(math.floor(bucket.per_minute), remaining, math.ceil(bucket.full_s(now)))

    def check(self, megapixels: float) -> None:
        """Say whether an image may be taken; takes nothing.

        Raises:
            UnauthenticatedError: The keys of this account were withdrawn.
            RateLimitedError: It has used up its minute; after `retry_after_s` this image is taken, one second earlier
                it is not.
        """
        if self.withdrawn:
            raise UnauthenticatedError("the API key was withdrawn")
        if (bucket := self._bucket) is None:
            return
        now = self._clock()
        wait_s = bucket.wait_s(megapixels, now)
        if wait_s > 0:
            detail = (
                f"at most {bucket.per_minute:g} megapixels a minute are taken with this key, "
                f"{max(0.0, bucket.level(now)):.3g} are left now"
            )
            if megapixels:  # 0 stands for an image that is not known yet
                detail += f", and this image has {megapixels:.3g}"
            raise RateLimitedError(detail, retry_after_s=max(1, math.ceil(wait_s)))

    @contextmanager
    def spend(self, megapixels: float) -> Iterator[None]:
        """Use so much for what happens in the context; given back where that fails by no fault of the client's.

        A request that is damaged, late or abandoned by its client has cost work, and stays spent.
        """
        bucket = self._bucket
        if bucket is None:
            yield
            return
        bucket.take(megapixels, self._clock())
        try:
            yield
        except _CLIENTS_OWN:
            raise
        except Exception:
            bucket.give_back(megapixels, self._clock())
            raise

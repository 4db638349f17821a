"""Whether a request that is to come in can be answered in time.

Rules of this module: no clock, no state; the numbers are arguments.
"""

import math
from dataclasses import dataclass

from server.errors import DeadlineExceededError


@dataclass(frozen=True, slots=True)
class Outlook:
    """What is expected of a request at the door.

    Attributes:
        left_s: Until its deadline.
        ahead: Requests that go before it.
        wait_s: Seconds that they take.
        own_s: Seconds that any request takes from then on.
        extra_s: Seconds that refinement takes on top, for this one.
    """

    left_s: float
    ahead: int
    wait_s: float
    own_s: float = 0.0
    extra_s: float = 0.0

    def judge(self) -> DeadlineExceededError | None:
        """The refusal where it would be late.

        `Retry-After` stands in it only where waiting helps: what takes longer by itself than its client allows will be
        late another time, too.
        """
        alone_s = self.own_s + self.extra_s
        if 0 < self.left_s >= self.wait_s + alone_s:
            return None
        left = f"only {max(self.left_s, 0):.1f} s are left"
        if 0 < self.left_s < alone_s:
            of_it = f", of which refinement takes {self.extra_s:.1f} s" if self.extra_s else ""
            return DeadlineExceededError(
                f"answering takes about {alone_s:.1f} s, whoever is ahead{of_it}, but {left}: expected a longer timeout"
            )
        own = f", answering takes {alone_s:.1f} s more" if alone_s else ""
        detail = f"{self.ahead} requests are ahead and take about {self.wait_s:.1f} s{own}, but {left}"
        return DeadlineExceededError(detail, retry_after_s=max(1, math.ceil(self.wait_s)))

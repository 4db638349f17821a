"""How far two models were apart on the images that both have answered: what is asked, and the figures so far.

Rules of this module: pure, no clock and no array.
"""

import hashlib
from collections import Counter
from dataclasses import dataclass
from typing import Any

from matting.difference import Difference
from server.observability.metrics import SHADOW_OUTCOMES


@dataclass(frozen=True, slots=True)
class ShadowPlan:
    """Whose requests are shadowed, by what.

    Attributes:
        model: Name of the model that answers.
        shadow: Name of the one that answers again.
        share: Of the requests for `model`, 0 to 1.
        threshold: An image whose mean difference is above it counts as different.
    """

    model: str
    shadow: str
    share: float
    threshold: float = 0.01


@dataclass(slots=True)
class Figures:
    """Sums over the images that one pair of artifacts has answered.

    Attributes:
        ids: Of the artifact that answered the client, and of the shadow.
        images: Compared.
        mean: Sum of their mean differences.
        band_images: Of them, those with a boundary band in either matte.
        band_mean: Sum of their mean differences in it.
        different: Images whose mean difference is above the threshold.
        largest: Of any pixel of any image.
        worst: The largest mean difference, and the id of the request that had it.
    """

    ids: tuple[str, str]
    images: int = 0
    mean: float = 0.0
    band_images: int = 0
    band_mean: float = 0.0
    different: int = 0
    largest: float = 0.0
    worst: tuple[float, str] = (-1.0, "")

    def add(self, found: Difference, request_id: str, threshold: float) -> None:
        """Take one image in."""
        self.images += 1
        self.mean += found.mean
        self.different += found.mean > threshold
        if found.band is not None:
            self.band_images += 1
            self.band_mean += found.band
        self.largest = max(self.largest, found.largest)
        if found.mean > self.worst[0]:
            self.worst = (found.mean, request_id)

    def as_json(self) -> dict[str, Any]:
        """As `GET /admin/shadow` gives them: means, not sums."""
        return {
            "model": self.ids[0],
            "shadow": self.ids[1],
            "images": self.images,
            "mean": self.mean / self.images,
            "band_images": self.band_images,
            "band_mean": self.band_mean / self.band_images if self.band_images else None,
            "largest": self.largest,
            "share_above_threshold": self.different / self.images,
            "worst": {"request_id": self.worst[1], "mean": self.worst[0]},
        }


class Study:
    """One plan and its figures.

    Attributes:
        plan: What is compared.
        samples: What became of the requests that were chosen, by `SHADOW_OUTCOMES`.
    """

    def __init__(self, plan: ShadowPlan) -> None:
        self.plan = plan
        self.samples: Counter[str] = Counter()
        self._drawn = 0
        self._figures: Figures | None = None

    def draw(self) -> bool:
        """Whether the next request is a sample: pseudo-random, the same sequence for every study.

        By a hash of its number: every n-th would fall in step with traffic that repeats itself, and request ids are
        chosen by clients.
        """
        self._drawn += 1
        digest = hashlib.blake2b(str(self._drawn).encode(), digest_size=8).digest()
        return int.from_bytes(digest) < self.plan.share * 2**64

    def add(self, found: Difference, ids: tuple[str, str], request_id: str) -> None:
        """Take a comparison in. Another artifact under one of the two names begins anew."""
        if self._figures is None or self._figures.ids != ids:
            self._figures = Figures(ids)
        self._figures.add(found, request_id, self.plan.threshold)

    def report(self) -> dict[str, Any]:
        """The plan and its figures, as JSON types."""
        return {
            "model": self.plan.model,
            "shadow": self.plan.shadow,
            "share": self.plan.share,
            "threshold": self.plan.threshold,
            "samples": {outcome: self.samples[outcome] for outcome in SHADOW_OUTCOMES},
            "difference": self._figures.as_json() if self._figures is not None else None,
        }

"""What one model's requests may take: by number, megapixels, memory and share; honest advice; exact counts."""

import contextlib
import heapq
import itertools
import random
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from server.engine.admission import Admission, AdmissionLimits, Entrant
from server.engine.quotas import ModelLimits, ModelLimitsError, Quotas, parse_model_limits
from server.errors import OverloadedError
from server.observability.metrics import REFUSALS, Metrics
from tests.support.backends import counted
from tests.support.clock import FakeClock

MIB = 1 << 20


class Rig:
    def __init__(self, **limits) -> None:
        self.clock, self.metrics = FakeClock(), Metrics()
        admission = Admission(AdmissionLimits(**limits), self.metrics, clock=self.clock)
        self.quotas = Quotas(admission, self.metrics, self.clock)

    @contextlib.contextmanager
    def inside(self, requests: int, limits: ModelLimits, megapixels: float = 1.0, memory: int = MIB) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for _ in range(requests):
                stack.enter_context(self.quotas.enter("m", limits, Entrant(megapixels, memory)))
            yield

    def refusal(
        self, limits: ModelLimits, megapixels: float = 1.0, memory: int = MIB, client: int | None = None
    ) -> OverloadedError:
        entrant = Entrant(megapixels, memory, fingerprint=client)
        with pytest.raises(OverloadedError) as caught, self.quotas.enter("m", limits, entrant):
            pass
        assert caught.value.reason is not None
        return caught.value

    def refusals(self) -> dict[str, int]:
        found = {reason: int(counted(self.metrics, "birefnet_refusals_total", reason=reason)) for reason in REFUSALS}
        return {reason: count for reason, count in found.items() if count}


def test_a_model_without_limits_takes_all_that_the_door_lets_in():
    rig = Rig(max_requests=3, max_megapixels=3, max_memory_bytes=3 * MIB)
    with rig.inside(3, ModelLimits()):
        assert rig.quotas.inside("m") == {"requests": 3, "megapixels": 3, "memory_mib": 3}
    assert rig.quotas.inside("m") == {"requests": 0, "megapixels": 0, "memory_mib": 0}
    assert rig.refusals() == {}


def test_requests_of_one_model_are_counted_apart_from_those_of_others():
    rig, limits = Rig(), ModelLimits(max_requests=2)
    with rig.inside(2, limits):
        assert "model m: at most 2 requests" in rig.refusal(limits).detail
        with rig.quotas.enter("other", limits, Entrant(1, MIB)):
            pass
    with rig.inside(2, limits):
        pass
    assert rig.refusals() == {"model_requests": 1}


def test_megapixels_of_one_model_but_one_image_always_comes_in():
    rig, limits = Rig(), ModelLimits(max_megapixels=10)
    with rig.inside(1, limits, megapixels=50):
        assert "at most 10 megapixels" in rig.refusal(limits, 0.1).detail
    with rig.inside(2, limits, megapixels=4):
        assert "8 are inside, and this image has 2.5" in rig.refusal(limits, 2.5).detail
        with rig.inside(1, limits, megapixels=2):
            pass
    assert rig.refusals() == {"model_megapixels": 2}


def test_a_share_is_of_each_limit_of_the_server():
    share = ModelLimits(share=0.5)
    rig = Rig(max_requests=5, max_megapixels=20, max_memory_bytes=100 * MIB)
    with rig.inside(2, share):
        assert "at most 2 requests" in rig.refusal(share).detail, "half of five, rounded down"
    with rig.inside(1, share, megapixels=9):
        assert "at most 10 megapixels" in rig.refusal(share, 2).detail
    with rig.inside(1, share, memory=40 * MIB):
        assert "at most 50 MiB" in rig.refusal(share, memory=11 * MIB).detail
        with rig.inside(1, share, memory=10 * MIB):
            pass
    assert rig.refusals() == {"model_requests": 1, "model_megapixels": 1, "model_memory": 1}


def test_the_smallest_share_is_one_request():
    rig, limits = Rig(max_requests=4), ModelLimits(share=0.01)
    with rig.inside(1, limits, megapixels=300):
        rig.refusal(limits)


def test_the_advice_is_the_models_own_pace_and_every_refused_one_has_its_turn():
    rig, limits = Rig(), ModelLimits(max_requests=4)
    for _ in range(10):
        with rig.inside(1, limits):
            rig.clock.advance(2)
    with rig.inside(4, limits):
        advice = [rig.refusal(limits, client=client).retry_after_s or 0 for client in range(6)]
    assert advice[0] == 2
    assert all(later - earlier in (2, 3) for earlier, later in itertools.pairwise(advice)), "two seconds each, or more"


def _leave(visit: contextlib.AbstractContextManager[object]) -> None:
    visit.__exit__(None, None, None)


def rush(limits: ModelLimits, newcomers_per_s: float, seconds: float) -> list[bool]:
    """Requests of a second each; half of those refused come back when told, once: whether each was let in."""
    rig, rng, order = Rig(), random.Random(1), itertools.count()  # noqa: S311 - arrivals, not secrets
    welcome: list[bool] = []
    events: list[tuple[float, int, Callable[[], None]]] = []

    def at(when: float, event: Callable[[], None]) -> None:
        heapq.heappush(events, (when, next(order), event))

    def arrive(client: int, *, returns: bool) -> None:
        visit = rig.quotas.enter("m", limits, Entrant(1.0, MIB, fingerprint=client))
        try:
            visit.__enter__()
        except OverloadedError as error:
            if returns:
                welcome.append(False)
            elif rng.random() < 0.5:
                late = rng.uniform(0.001, 0.02)
                at(rig.clock.now + (error.retry_after_s or 0) + late, partial(arrive, client, returns=True))
            return
        if returns:
            welcome.append(True)
        at(rig.clock.now + 1.0, partial(_leave, visit))

    when = 0.0
    for client in itertools.count():
        when += rng.expovariate(newcomers_per_s)
        if when > seconds:
            break
        at(rig.clock.now + when, partial(arrive, client, returns=False))
    while events:
        when, _, event = heapq.heappop(events)
        rig.clock.advance(max(0.0, when - rig.clock.now))
        event()
    return welcome


@pytest.mark.parametrize(("most", "share"), [(4, 0.8), (8, 0.9), (12, 0.9)])
def test_at_three_times_the_speed_of_a_model_who_obeys_is_let_in(most, share):
    """Of four places one is held, and it can be taken when the next one comes."""
    welcome = rush(ModelLimits(max_requests=most), 3.0 * most, 100.0)
    assert len(welcome) > 100
    assert sum(welcome) / len(welcome) >= share


def test_before_the_first_answer_the_pace_is_that_of_the_server():
    rig, limits = Rig(), ModelLimits(max_requests=1)
    with rig.inside(1, limits):
        assert rig.refusal(limits).retry_after_s == 1


def test_a_name_that_is_forgotten_begins_anew_while_its_requests_leave():
    rig, limits = Rig(), ModelLimits(max_requests=1)
    with rig.inside(1, limits):
        rig.quotas.forget("m")
        with rig.inside(1, limits):
            assert rig.quotas.inside("m")["requests"] == 1
    assert rig.quotas.inside("m")["requests"] == 0


def test_a_check_refuses_who_would_be_and_takes_nothing():
    rig, limits = Rig(), ModelLimits(max_requests=1)
    rig.quotas.check("m", limits, Entrant(0.0))
    with rig.inside(1, limits), pytest.raises(OverloadedError):
        rig.quotas.check("m", limits, Entrant(0.0))
    assert Counter(rig.refusals()) == {"model_requests": 1}


def test_limits_are_read():
    text = "a:b/c max_requests=3 max_megapixels=7.5 max_batch=2 timeout_s=20 share=0.25"
    assert parse_model_limits(text) == ("a:b/c", ModelLimits(3, 7.5, 2, 20, 0.25))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "m",
        "m share",
        "m share=",
        "m share=2",
        "m share=0",
        "m max_requests=1.5",
        "m max_batch=0",
        "m timeout_s=-1",
        "m timeout_s=inf",
        "m share=0.5 share=0.5",
        "m queue=3",
    ],
)
def test_what_are_no_limits(text):
    with pytest.raises(ModelLimitsError, match="expected"):
        parse_model_limits(text)

"""The door and the rate limits of accounts: counted once, no place in the line, and paid for only once inside."""

import pytest

from server.access import Account
from server.engine.admission import Admission, AdmissionLimits, Entrant
from server.errors import DrainingError, InferenceError, OverloadedError, RateLimitedError, UnauthenticatedError
from server.observability.metrics import REFUSALS, Metrics
from tests.support.backends import counted
from tests.support.clock import FakeClock


class Door:
    """An admission and an account of 10 megapixels a minute on one fake clock."""

    def __init__(self, **limits) -> None:
        self.clock, self.metrics = FakeClock(), Metrics()
        self.admission = Admission(AdmissionLimits(**limits), self.metrics, clock=self.clock)
        self.account = Account("shop", self.clock)
        self.account.limit_to(10)

    @property
    def left(self) -> int:
        assert self.account.allowance is not None
        return self.account.allowance.remaining

    def enter(self, megapixels: float, account: Account | None = None, **claim):
        return self.admission.enter(Entrant(megapixels, account=account or self.account, **claim))

    def refusals(self) -> dict[str, int]:
        found = {reason: int(counted(self.metrics, "birefnet_refusals_total", reason=reason)) for reason in REFUSALS}
        return {reason: count for reason, count in found.items() if count}


def test_an_account_pays_when_it_comes_in_and_is_refused_when_it_has_used_up_its_minute():
    door = Door()
    with door.enter(8):
        assert door.left == 2
        with pytest.raises(RateLimitedError) as caught, door.enter(5):
            pass
        with door.enter(2):
            assert door.left == 0
    assert caught.value.retry_after_s == 18
    assert door.refusals() == {"rate_limit": 1}
    assert door.admission.inside == 0


def test_who_would_be_refused_with_any_image_can_be_told_before_it_is_fetched():
    door = Door()
    door.admission.check(Entrant(0.0, account=door.account))
    with door.enter(10), door.enter(0):
        door.admission.check(Entrant(0.0, account=door.account))  # a small enough image could still come in
    door.account.limit_to(5)  # 5 in debt
    with pytest.raises(RateLimitedError, match=r"0 are left now$") as caught:
        door.admission.check(Entrant(0.0, account=door.account))
    assert caught.value.retry_after_s == 60
    assert door.left == 0
    door.account.withdrawn = True
    with pytest.raises(UnauthenticatedError):
        door.admission.check(Entrant(0.0, account=door.account))
    assert door.refusals() == {"rate_limit": 1}
    assert door.admission.inside == 0


def test_what_the_door_refuses_for_another_reason_costs_nothing():
    door = Door(max_requests=1)
    other = Account("lab", door.clock)
    with door.enter(1, other), pytest.raises(OverloadedError), door.enter(5):
        pass
    assert door.left == 10
    assert door.refusals() == {"requests": 1}


def test_who_is_over_its_limit_takes_no_place_in_the_line_of_the_others():
    door = Door(max_requests=1)
    other = Account("lab", door.clock)
    with door.enter(10):
        for _ in range(50):
            with pytest.raises(RateLimitedError), door.enter(1):
                pass
        with pytest.raises(OverloadedError) as caught, door.enter(1, other):
            pass
    assert caught.value.retry_after_s == 1
    assert door.refusals() == {"rate_limit": 50, "requests": 1}


def test_failures_of_the_server_and_dropped_work_are_given_back():
    door = Door()
    with pytest.raises(InferenceError), door.enter(6):
        raise InferenceError("the device")
    assert door.left == 10
    assert door.admission.inside == 0


def test_a_withdrawn_account_is_refused_at_the_door():
    door = Door()
    door.account.withdrawn = True
    with pytest.raises(UnauthenticatedError), door.enter(1):
        pass
    assert door.refusals() == {}


async def test_draining_comes_before_the_rate_limit():
    door = Door()
    await door.admission.drain()
    with pytest.raises(DrainingError), door.enter(100):
        pass
    assert door.left == 10

"""How the scenario of overload judges what became of its requests."""

import pytest

from benchmarks import overloads
from benchmarks.traffic import ABANDON, FRESH, MALFORMED, RETURN, Exchange


def exchange(kind: str, outcome: str, reason: str = "") -> Exchange:
    return Exchange(kind, "rest", 0.0, 0.0, 1.0, outcome, reason)


def test_welcome_is_who_was_answered():
    returned = [exchange(RETURN, "ok"), exchange(RETURN, "overloaded", "requests"), exchange(RETURN, "lost: closed")]
    assert overloads._welcome_percent([*returned, exchange(RETURN, "deadline-exceeded")]) == 25
    assert overloads._welcome_percent([exchange(FRESH, "ok")]) == 0, "nobody came back: nothing is shown"


@pytest.mark.parametrize(
    ("kind", "outcome", "reason", "other"),
    [
        (FRESH, "ok", "", False),
        (FRESH, "overloaded", "requests", False),
        (RETURN, "deadline-exceeded", "", False),  # counted as late
        (RETURN, "lost: closed", "", False),  # counted as lost
        (FRESH, "internal", "", True),
        (FRESH, "left", "", True),
        (FRESH, "not-an-image", "", True),
        (ABANDON, "left", "", False),
        (ABANDON, "inference-failed", "", True),
        (MALFORMED, "not-an-image", "", False),
        (MALFORMED, "overloaded", "requests", False),
        (MALFORMED, "ok", "", True),
    ],
)
def test_every_outcome_is_due_or_counted(kind, outcome, reason, other):
    assert overloads._is_other(exchange(kind, outcome, reason)) == other


def test_where_no_client_left_counts_agree_exactly():
    assert overloads._compared({"requests": 3}, {"requests": 3}, left=0)["miscounted"] == 0
    for counted in (2, 4):
        assert overloads._compared({"requests": counted}, {"requests": 3}, left=0)["miscounted"] == 1

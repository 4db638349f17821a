"""How a key is shown, and what needs one."""

import pytest

from server.access import Gate, KeyRing
from server.access.keys import make_key, write_row
from server.errors import UnauthenticatedError

KEY, LAB = make_key(), make_key()


@pytest.fixture
def gate(tmp_path):
    path = tmp_path / "keys"
    path.write_text(write_row("shop", KEY) + "\n" + write_row("lab", LAB))
    return Gate(KeyRing(path), frozenset({"metrics"}))


@pytest.mark.parametrize(
    "headers",
    [
        [("authorization", f"Bearer {KEY}")],
        [("authorization", f"bEARER   {KEY} ")],
        [("x-api-key", KEY)],
        [("x-api-key", KEY), ("authorization", f"Bearer {KEY}")],
        [("authorization", "Basic dXNlcjpwYXNz"), ("x-api-key", KEY)],
        [("cookie", "x-api-key=1"), ("x-api-key", KEY)],
    ],
)
def test_ways_to_show_a_key(gate, headers):
    account = gate.admit("service", [(name, value.encode()) for name, value in headers])
    assert account.name == "shop"


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ([], "found none"),
        ([("authorization", KEY)], "found none"),
        ([("authorization", "Basic abc")], "found none"),
        ([("authorization", "Bearer")], "one that is not"),
        ([("x-api-key", "")], "one that is not"),
        ([("x-api-key", KEY[:-1])], "one that is not"),
        ([("x-api-key", "\xff")], "one that is not"),
        ([("x-api-key", KEY), ("x-api-key", LAB)], "2 different ones"),
        ([("x-api-key", KEY), ("authorization", f"Bearer {KEY}x")], "2 different ones"),
    ],
)
def test_everything_else_is_refused_and_not_quoted(gate, headers, message):
    with pytest.raises(UnauthenticatedError, match=message) as caught:
        gate.admit("service", [(name, value.encode("latin-1")) for name, value in headers])
    assert KEY[:-1] not in str(caught.value)


def test_what_needs_no_key(gate):
    assert gate.admit("probes", []) is None
    assert gate.admit("metrics", []) is None
    for area in ("docs", "models", "reflection", "service"):
        with pytest.raises(UnauthenticatedError):
            gate.admit(area, [])


def test_without_keys_nobody_is_asked():
    assert Gate().admit("service", []) is None
    assert Gate().admit("service", [("x-api-key", b"whatever")]) is None

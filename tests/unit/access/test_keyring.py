"""Keys and their accounts while the file changes."""

import hmac
import logging

import pytest

from server.access import KeyRing, KeysError
from server.access.accounts import Account, Allowance
from server.access.keys import make_key, write_row
from server.errors import (
    CorruptImageError,
    DeadlineExceededError,
    InferenceError,
    RateLimitedError,
    UnauthenticatedError,
)
from tests.support.clock import FakeClock

OLD, NEW, LAB = make_key(), make_key(), make_key()


class Ring:
    """A ring on a file that a test can write."""

    def __init__(self, path, *rows: str, limit: float | None = None) -> None:
        self.clock, self.path = FakeClock(), path
        self.write(*rows)
        self.keys = KeyRing(path, limit, self.clock)

    def write(self, *rows: str) -> None:
        self.path.write_text("\n".join(rows))

    def reload(self) -> None:
        self.keys.take(self.keys.read())

    def account(self, key: str) -> Account:
        account = self.keys.find(key.encode())
        assert account is not None
        return account


@pytest.fixture
def path(tmp_path):
    return tmp_path / "keys"


def test_keys_of_one_name_share_an_account_and_others_do_not(path):
    ring = Ring(path, write_row("shop", OLD), write_row("shop", NEW), write_row("lab", LAB))
    assert ring.account(OLD) is ring.account(NEW)
    assert ring.account(LAB).name == "lab"
    assert [ring.keys.find(text) for text in (b"", b"x", OLD.encode()[:-1], OLD.encode() + b" ")] == [None] * 4


def test_every_row_is_compared_whatever_the_key_is(path, monkeypatch):
    ring = Ring(path, write_row("shop", OLD), write_row("lab", LAB))
    compared: list[bytes] = []
    compare = hmac.compare_digest

    def spy(known: bytes, digest: bytes) -> bool:
        compared.append(known)
        return compare(known, digest)

    monkeypatch.setattr(hmac, "compare_digest", spy)
    for key in (OLD, LAB, NEW):
        ring.keys.find(key.encode())
    assert len(compared) == 6


def test_a_rotation_needs_no_restart_and_keeps_what_was_used(path):
    ring = Ring(path, write_row("shop", OLD, 10))
    account = ring.account(OLD)
    with account.spend(7):
        pass
    ring.write(write_row("shop", OLD, 10), write_row("shop", NEW, 10))
    ring.reload()
    assert ring.account(OLD) is ring.account(NEW) is account
    ring.write(write_row("shop", NEW, 20))
    ring.reload()
    assert ring.keys.find(OLD.encode()) is None
    assert ring.account(NEW).allowance == Allowance(limit=20, remaining=13, reset_s=21)
    assert not account.withdrawn


def test_a_withdrawn_account_is_refused_even_where_its_requests_are_already_on_the_way(path):
    ring = Ring(path, write_row("shop", OLD), write_row("lab", LAB))
    account = ring.account(OLD)
    ring.write(write_row("lab", LAB))
    ring.reload()
    with pytest.raises(UnauthenticatedError, match="withdrawn"):
        account.check(1)
    assert ring.keys.find(OLD.encode()) is None


@pytest.mark.parametrize("broken", ["", "shop " + NEW, "shop sha256:12", None, "\xff", "#" * (1 << 20) + "##"])
def test_a_broken_file_keeps_the_old_keys_and_is_logged_once_without_its_content(path, broken, caplog):
    ring = Ring(path, write_row("shop", OLD))
    if broken is None:
        path.unlink()
    else:
        path.write_bytes(broken.encode("latin-1"))
    with caplog.at_level(logging.INFO):
        ring.reload()
        ring.reload()
    assert ring.account(OLD).name == "shop"
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "the API keys stay as they were" in caplog.text
    assert NEW not in caplog.text
    ring.write(write_row("shop", NEW))
    ring.reload()
    assert ring.account(NEW).name == "shop"


@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe"])
def test_a_server_does_not_start_with_a_file_that_cannot_be_used(path, content):
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(KeysError, match=str(path)):
        KeyRing(path)


def test_a_limit_may_come_go_and_be_the_servers(path):
    ring = Ring(path, write_row("shop", OLD), write_row("lab", LAB, 5), limit=100)
    assert ring.account(OLD).allowance == Allowance(100, 100, 0)
    assert ring.account(LAB).allowance == Allowance(5, 5, 0)
    unlimited = Ring(path, write_row("shop", OLD))
    assert unlimited.account(OLD).allowance is None
    with unlimited.account(OLD).spend(10**6):
        pass
    unlimited.account(OLD).check(10**6)


def test_a_refusal_says_exactly_when_to_come_back(path):
    ring = Ring(path, write_row("shop", OLD, 60))
    account = ring.account(OLD)
    with account.spend(50):
        pass
    with pytest.raises(
        RateLimitedError, match=r"at most 60 megapixels a minute .* 10 are left now.* has 12\.5"
    ) as caught:
        account.check(12.5)
    assert caught.value.retry_after_s == 3
    ring.clock.advance(2)
    with pytest.raises(RateLimitedError):
        account.check(12.5)
    ring.clock.advance(1)
    account.check(12.5)
    assert account.allowance == Allowance(60, 13, 47)


@pytest.mark.parametrize(
    ("failure", "left"),
    [
        (InferenceError("the device"), 10),
        (ZeroDivisionError(), 10),
        (CorruptImageError("the image"), 4),
        (DeadlineExceededError("late"), 4),
        (KeyboardInterrupt(), 4),
    ],
)
def test_only_what_fails_by_the_servers_fault_is_given_back(path, failure, left):
    account = Ring(path, write_row("shop", OLD, 10)).account(OLD)
    with pytest.raises(type(failure)), account.spend(6):
        raise failure
    assert account.allowance is not None
    assert account.allowance.remaining == left


def test_an_account_shows_its_name_and_nothing_else(path):
    assert repr(Ring(path, write_row("shop", OLD)).account(OLD)) == "Account('shop')"

"""API keys and the file that lists their hashes.

A key is 256 random bits, so one SHA-256 is the right hash: slow hashes (bcrypt, argon2) make up for what a password
lacks in entropy, and would cost every request tens of milliseconds here. The file holds nothing that a key could be
guessed from. Nothing read from it is ever quoted in a message: what stands in the wrong place may be a key.
"""

import hashlib
import math
import re
import secrets
from dataclasses import dataclass, field

PREFIX = "brf_"
"""Every key that is made here begins with it, so that scanners for leaked secrets can find one."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_HASH = re.compile(r"sha256:([0-9a-fA-F]{64})")
_FORM = "NAME sha256:<64 hexadecimal digits> [megapixels per minute]"


class KeysError(ValueError):
    """The file of keys cannot be used; the message says which line and why, and quotes nothing from it."""


@dataclass(frozen=True, slots=True)
class KeyRow:
    """One line of the file.

    Attributes:
        name: Of the account; several rows may share it, and then share one rate limit.
        digest: SHA-256 of the key, 32 bytes.
        megapixels_per_minute: Rate limit of the account; None takes the server's.
    """

    name: str
    digest: bytes = field(repr=False)
    megapixels_per_minute: float | None = None


def make_key() -> str:
    """A new key: 256 bits from the operating system."""
    return PREFIX + secrets.token_urlsafe(32)


def hash_key(key: bytes) -> bytes:
    """What is stored of a key."""
    return hashlib.sha256(key).digest()


def write_row(name: str, key: str, megapixels_per_minute: float | None = None) -> str:
    """The line of the file for a key.

    Raises:
        KeysError: The name or the limit is not one that the file can hold.
    """
    limit = "" if megapixels_per_minute is None else f" {megapixels_per_minute:g}"
    row = f"{name} sha256:{hash_key(key.encode()).hex()}{limit}"
    parse_keys(row)
    return row


def parse_keys(text: str) -> tuple[KeyRow, ...]:
    """Read a file of keys: one row per line, `#` begins a comment.

    Raises:
        KeysError: A line is no row, a key occurs twice, the rows of one name disagree on its limit, or there are none.
    """
    rows: list[KeyRow] = []
    for number, line in enumerate(text.splitlines(), 1):
        if words := line.partition("#")[0].split():
            row = _parse_row(words, number)
            _check_against(row, rows, number)
            rows.append(row)
    if not rows:
        raise KeysError(f"expected at least one line {_FORM}, found none")
    return tuple(rows)


def _parse_row(words: list[str], number: int) -> KeyRow:
    if any(word.startswith(PREFIX) for word in words):
        raise KeysError(f"line {number}: expected the hash of a key, found a key itself: it is spent, make a new one")
    digest = _HASH.fullmatch(words[1]) if len(words) in (2, 3) else None
    if digest is None or _NAME.fullmatch(words[0]) is None:
        raise KeysError(
            f"line {number}: expected {_FORM}, found something else (not shown, for it may be a key); "
            "`birefnet-server key NAME` makes a line"
        )
    limit = None if len(words) == 2 else _parse_limit(words[2], number)
    return KeyRow(words[0], bytes.fromhex(digest[1]), limit)


def _parse_limit(word: str, number: int) -> float:
    try:
        limit = float(word)
    except ValueError:
        limit = math.nan
    if not 0 < limit < math.inf:
        raise KeysError(f"line {number}: expected a positive number of megapixels per minute in the third place")
    return limit


def _check_against(row: KeyRow, rows: list[KeyRow], number: int) -> None:
    if any(other.digest == row.digest for other in rows):
        raise KeysError(f"line {number}: expected every key once, found one a second time")
    if any(other.name == row.name and other.megapixels_per_minute != row.megapixels_per_minute for other in rows):
        raise KeysError(f"line {number}: expected the same limit on all lines of one name, found another")

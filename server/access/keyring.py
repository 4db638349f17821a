"""The keys that open the server now, and the file that they come from."""

import hmac
import logging
import time
from collections.abc import Callable
from pathlib import Path

from server.access.accounts import Account
from server.access.keys import KeysError, hash_key, parse_keys

_log = logging.getLogger(__name__)

_MAX_FILE_BYTES = 1 << 20  # some ten thousand keys


class KeyRing:
    """Finds the account of a key. The file may change at any time; one that is broken changes nothing."""

    def __init__(
        self,
        path: Path,
        megapixels_per_minute: float | None = None,
        clock: Callable[[], float] = time.monotonic,
        content: bytes | None = None,
    ) -> None:
        """Read the file.

        Args:
            path: Of the file, in the form that `parse_keys` reads.
            megapixels_per_minute: Rate limit of accounts whose rows give none; None is no limit.
            clock: Monotonic seconds, for the rate limits.
            content: What another process has found in the file; then it is not read here.

        Raises:
            KeysError: The file cannot be read, or is not what it should be.
        """
        self._path = path
        self._default_limit = megapixels_per_minute
        self._clock = clock
        self._accounts: dict[str, Account] = {}
        self._rows: tuple[tuple[bytes, Account], ...] = ()
        self._seen: bytes | str = ""
        found = self.read() if content is None else content
        if isinstance(found, str):
            raise KeysError(found)
        self._seen = found
        self._use(found)

    @property
    def content(self) -> bytes:
        """Of the file, as it holds now: the last that was not broken."""
        return self._content

    def account(self, name: str) -> Account | None:
        """The account of a name that some key of the file belongs to."""
        return self._accounts.get(name)

    def read(self) -> bytes | str:
        """What the file holds now, or why it cannot be read. Blocks: not for the event loop."""
        try:
            with self._path.open("rb") as stream:
                content = stream.read(_MAX_FILE_BYTES + 1)
        except OSError as error:
            return f"{self._path}: expected a readable file of API keys, found: {error.strerror}"
        if len(content) > _MAX_FILE_BYTES:
            return f"{self._path}: expected at most {_MAX_FILE_BYTES} bytes of API keys, found more"
        return content

    def take(self, content: bytes | str) -> None:
        """Use what `read` gave, if it is new. If it is broken, the log says so once, and the old keys stay."""
        if content == self._seen:
            return
        self._seen = content
        try:
            if isinstance(content, str):
                raise KeysError(content)  # noqa: TRY301 - one place that logs
            self._use(content)
        except KeysError as error:
            _log.error("the API keys stay as they were: %s", error)
        else:
            _log.info("API keys read anew", extra={"keys": len(self._rows), "accounts": len(self._accounts)})

    def find(self, key: bytes) -> Account | None:
        """The account that a key belongs to. Takes the same time for every key, right or wrong."""
        digest = hash_key(key)
        found = None
        for known, account in self._rows:
            if hmac.compare_digest(known, digest):
                found = account
        return found

    def _use(self, content: bytes) -> None:
        """Replace all rows at once; accounts that stay keep what they have used."""
        try:
            rows = parse_keys(content.decode())
        except UnicodeDecodeError as error:
            raise KeysError(f"{self._path}: expected text in UTF-8, found other bytes") from error
        except KeysError as error:
            raise KeysError(f"{self._path}: {error}") from None
        accounts = {row.name: self._accounts.get(row.name) or Account(row.name, self._clock) for row in rows}
        for row in rows:
            limit = row.megapixels_per_minute
            accounts[row.name].limit_to(self._default_limit if limit is None else limit)
        for name in self._accounts.keys() - accounts.keys():
            self._accounts[name].withdrawn = True
        self._content = content
        self._accounts = accounts
        self._rows = tuple((row.digest, accounts[row.name]) for row in rows)

"""What needs a key, and how a client shows one; the same over both transports."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from server.access.accounts import Account
from server.access.keyring import KeyRing
from server.errors import UnauthenticatedError

Area = Literal["probes", "docs", "metrics", "models", "reflection", "service", "admin"]
"""Parts of both interfaces, as far as access is concerned. `probes` never need a key, `service` always does, and
`admin` needs one of its own."""

AUTHORIZATION, API_KEY = "authorization", "x-api-key"
CHALLENGE = {"www-authenticate": 'Bearer realm="birefnet-server"'}
"""Goes with every refusal for want of a key, as header and as metadata."""

_HOW = "send it as `Authorization: Bearer KEY` or as `X-Api-Key: KEY`"


@dataclass(frozen=True, slots=True)
class Gate:
    """Lets requests through by their keys.

    Attributes:
        keys: That open it; None where none are asked for.
        open_areas: That need no key.
        asks_certificates: Whether clients need a certificate, for everything but probes.
        admin_keys: That open `admin`, and nothing else; None where there is no such area, and it is `service`.
    """

    keys: KeyRing | None = None
    open_areas: frozenset[str] = frozenset()
    asks_certificates: bool = False
    admin_keys: KeyRing | None = None

    def admit(self, area: Area, headers: Iterable[tuple[str, bytes]], *, certified: bool = False) -> Account | None:
        """The account of a request; None where no key is asked for.

        Args:
            area: What is asked for.
            headers: Of the request; names in lower case.
            certified: Whether the client has shown a certificate, and TLS has verified it.

        Raises:
            UnauthenticatedError: There is no certificate or no key where one is needed, there are several different
                keys, or it is not known.
        """
        if self.asks_certificates and not certified and area != "probes":
            raise UnauthenticatedError("expected a client certificate, found a connection without one")
        is_admin = area == "admin" and self.admin_keys is not None
        keys = self.admin_keys if is_admin else self.keys
        if keys is None or area == "probes" or area in self.open_areas:
            return None
        offered = set(_offered(headers))
        if not offered:
            raise UnauthenticatedError(f"expected an API key, found none; {_HOW}")
        if len(offered) > 1:
            raise UnauthenticatedError(f"expected one API key, found {len(offered)} different ones; {_HOW}")
        account = keys.find(offered.pop())
        if account is None:
            kind = "a key of an administrator" if is_admin else "an API key that is known here"
            raise UnauthenticatedError(f"expected {kind}, found one that is not")
        return account


def _offered(headers: Iterable[tuple[str, bytes]]) -> Iterable[bytes]:
    for name, value in headers:
        if name == API_KEY:
            yield value.strip()
        elif name == AUTHORIZATION:
            scheme, _, key = value.strip().partition(b" ")
            if scheme.lower() == b"bearer":  # others, such as Basic, are for a proxy in front
                yield key.strip()

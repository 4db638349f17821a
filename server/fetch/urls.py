"""URLs, read once and strictly: what is checked is what is connected to.

Parsers that disagree are how filters are passed, so there is one, it accepts fewer spellings than browsers do, and what
it returns is all that the connection ever sees. Messages never quote more than the scheme or the port: a URL may carry
secrets.

Rules of this module: pure; no socket, no name resolution.
"""

import re
from dataclasses import dataclass, field
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Literal, cast
from urllib.parse import quote, urljoin

import idna

from server.errors import UrlNotAllowedError
from server.fetch.addresses import Address

MAX_CHARACTERS = 4096
"""Of a URL; signed ones have up to about 2000."""

Scheme = Literal["http", "https"]

_PORTS: dict[Scheme, int] = {"http": 80, "https": 443}
_PARTS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?#]*)([^#]*)(?:#.*)?")  # RFC 3986, appendix B
_BRACKETED = re.compile(r"\[([0-9A-Fa-f:.]+)\](?::([0-9]{1,5}))?")
_NAMED = re.compile(r"([^:\[\]]+)(?::([0-9]{1,5}))?")
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMERIC = re.compile(r"[0-9]+|0x[0-9a-f]*")  # of a last label: what resolvers read as a number (WHATWG URL, 3.5)
_TARGET_SAFE = "%/:?=&~+!$,;'()*@[]-._"  # all else in a target is percent-encoded, and what is encoded stays so


@dataclass(frozen=True, slots=True)
class RemoteUrl:
    """Where an image is.

    Attributes:
        scheme: `http` or `https`.
        host: A name in ASCII and lower case without a final dot, or the canonical text of an address, unbracketed.
        port: 1 to 65535.
        target: Path and query as they are sent; may be secret.
    """

    scheme: Scheme
    host: str
    port: int
    target: str = field(repr=False)

    @property
    def address(self) -> Address | None:
        """The host, where it is an address and not a name."""
        if ":" in self.host:
            return IPv6Address(self.host)
        return IPv4Address(self.host) if self.host.rpartition(".")[2].isdecimal() else None

    @property
    def authority(self) -> str:
        """Value of the Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    def join(self, location: str) -> "RemoteUrl":
        """Where a redirect leads.

        Args:
            location: Absolute or relative to this.

        Raises:
            UrlNotAllowedError: As `parse_url`; also if it leads from https to http.
        """
        _check_characters(location)
        try:
            joined = urljoin(f"{self.scheme}://{self.authority}{self.target}", location)
        except ValueError as error:
            raise UrlNotAllowedError("expected a URL, found something else") from error
        url = parse_url(joined)
        if self.scheme == "https" and url.scheme == "http":
            raise UrlNotAllowedError("expected https after https, found a redirect to http")
        return url


def parse_url(text: str) -> RemoteUrl:
    """Read an absolute URL; its fragment is dropped.

    Raises:
        UrlNotAllowedError: It is none, or is spelled in a way that others might read differently; or it has another
            scheme than http and https, or credentials.
    """
    _check_characters(text)
    found = _PARTS.fullmatch(text)
    if found is None:
        raise UrlNotAllowedError("expected an absolute URL such as https://example.com/photo.jpg, found something else")
    written, authority, target = found.groups()
    scheme = written.lower()
    if scheme not in _PORTS:
        raise UrlNotAllowedError(f"expected the scheme http or https, found {scheme[:20]}")
    scheme = cast("Scheme", scheme)
    if "@" in authority:
        raise UrlNotAllowedError("expected a URL without user name and password, found one with")
    host, port = _read_authority(authority)
    if not target.startswith("/"):
        target = f"/{target}"
    return RemoteUrl(scheme, host, _PORTS[scheme] if port is None else port, quote(target, safe=_TARGET_SAFE))


def _check_characters(text: str) -> None:
    if not 0 < len(text) <= MAX_CHARACTERS:
        raise UrlNotAllowedError(f"expected a URL of 1 to {MAX_CHARACTERS} characters, found {len(text)}")
    if any(letter <= " " or letter in "\\\x7f" or letter.isspace() or not letter.isprintable() for letter in text):
        raise UrlNotAllowedError("expected a URL without spaces, control characters and backslashes, found one of them")


def _read_authority(text: str) -> tuple[str, int | None]:
    if found := _BRACKETED.fullmatch(text):
        try:
            host = str(IPv6Address(found[1]))
        except AddressValueError as error:
            raise UrlNotAllowedError("expected an IPv6 address in brackets, found something else") from error
    elif found := _NAMED.fullmatch(text):
        host = _read_name(found[1])
    else:
        raise UrlNotAllowedError("expected a host, or a host and a port, found something else")
    port = None if found[2] is None else int(found[2])
    if port is not None and not 1 <= port <= 65535:
        raise UrlNotAllowedError(f"expected a port from 1 to 65535, found {port}")
    return host, port


def _read_name(text: str) -> str:
    """A name, or an IPv4 address in its one canonical spelling."""
    if not text.isascii():
        try:
            text = idna.encode(text, uts46=True).decode()
        except UnicodeError as error:
            raise UrlNotAllowedError("expected an international host name, found one that IDNA forbids") from error
    # What follows sees the result of that mapping, which makes dots and digits of other characters.
    name = text.lower().removesuffix(".")
    labels = name.split(".")
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise UrlNotAllowedError("expected a host name of letters, digits, hyphens and dots, found something else")
    if _NUMERIC.fullmatch(labels[-1]):
        try:
            return str(IPv4Address(name))
        except AddressValueError as error:
            raise UrlNotAllowedError("expected an IPv4 address as four decimal numbers, found another form") from error
    return name

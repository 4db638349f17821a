"""The whole of a fetch: read the URL, check every address, connect to what was checked, and the same for redirects."""

import asyncio
import logging
import ssl
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import certifi

from server.errors import (
    CancelledByClientError,
    DeadlineExceededError,
    ServerError,
    UrlFetchFailedError,
    UrlNotAllowedError,
    UrlTimeoutError,
    UrlTooLargeError,
)
from server.fetch.addresses import Address, AddressPolicy
from server.fetch.exchange import ExchangeOptions, Redirect, get
from server.fetch.places import Errand, PlaceLimits, Places
from server.fetch.resolver import Resolver, SystemResolver
from server.fetch.urls import RemoteUrl, parse_url
from server.observability.metrics import Metrics, package_version

_log = logging.getLogger(__name__)

MAX_REDIRECTS = 5
_OF_THE_URL = (UrlNotAllowedError, UrlFetchFailedError, UrlTooLargeError, UrlTimeoutError)


@dataclass(frozen=True, slots=True)
class FetchLimits:
    """What may be fetched.

    Attributes:
        max_bytes: Of one image.
        timeout_s: For one image, from the lookup of the name to the last byte, waiting and redirects included.
        ports: That a URL may name; 0 stands for every port.
        places: How many fetches at once.
        addresses: Where to.
        ca_file: Certificates of authorities, in PEM, trusted beside the usual ones.
    """

    max_bytes: int = 64 << 20
    timeout_s: float = 20.0
    ports: tuple[int, ...] = (80, 443)
    places: PlaceLimits = field(default_factory=PlaceLimits)
    addresses: AddressPolicy = field(default_factory=AddressPolicy)
    ca_file: Path | None = None


class Fetcher:
    """Fetches images, each over a connection of its own."""

    def __init__(self, limits: FetchLimits, metrics: Metrics, resolver: Resolver | None = None) -> None:
        """Connect to nothing yet.

        Args:
            limits: What may be fetched.
            metrics: Where fetches are counted and timed.
            resolver: Instead of the operating system's.

        Raises:
            OSError: The file of certificates cannot be read, or holds none.
        """
        self.places = Places(limits.places, metrics)
        self._limits = limits
        self._metrics = metrics
        self._resolver = resolver if resolver is not None else SystemResolver(limits.places.total)
        tls = ssl.create_default_context(cafile=certifi.where())
        if limits.ca_file is not None:
            try:
                tls.load_verify_locations(limits.ca_file)
            except OSError as error:
                reason = error.strerror or "something else"
                raise OSError(
                    f"url_ca_file: expected certificates in PEM in {limits.ca_file}, found: {reason}"
                ) from error
        self._options = ExchangeOptions(limits.max_bytes, tls, f"birefnet-server/{package_version()}")

    async def fetch(
        self, text: str, timeout_s: float, client: str = "", count: Callable[[int], None] = lambda _: None
    ) -> bytes:
        """The whole body of what a URL names. Cancelling the caller closes the connection.

        Args:
            text: The URL as the client wrote it.
            timeout_s: What is left of the request's own time.
            client: Who asks, for the limit per client; empty is nobody in particular.
            count: Is told of the bytes of each piece before it is kept; what it raises ends the fetch.

        Raises:
            UrlNotAllowedError: The URL, an address of its host, or a redirect is none that may be fetched.
            UrlFetchFailedError: There was no whole answer with the status 200.
            UrlTooLargeError: There are more bytes than the limit.
            UrlTimeoutError: It took longer than the limit of fetches.
            DeadlineExceededError: It took longer than the request may take.
            OverloadedError: Too many fetches wait. And what `count` raises.
        """
        started, outcome, size = time.monotonic(), CancelledByClientError.code, 0
        try:
            body = await self._fetch_in_time(text, timeout_s, client, count)
            outcome, size = "ok", len(body)
        except ServerError as error:
            outcome = error.code
            raise
        finally:
            seconds = time.monotonic() - started
            self._metrics.fetches.labels(outcome).inc()
            self._metrics.fetch_seconds.observe(seconds)
            self._metrics.fetch_bytes.inc(size)
            # Neither path nor query: both may be secret.
            fields = {"host": _host_of(text), "outcome": outcome, "bytes": size, "duration_s": round(seconds, 4)}
            _log.info("image fetched" if outcome == "ok" else "image not fetched", extra=fields)
        return body

    def close(self) -> None:
        """Begin no more lookups of names."""
        self._resolver.close()

    async def _fetch_in_time(self, text: str, timeout_s: float, client: str, count: Callable[[int], None]) -> bytes:
        limit_s = self._limits.timeout_s
        try:
            async with asyncio.timeout(min(timeout_s, limit_s)):
                return await self._follow(text, client, count)
        except TimeoutError as error:
            if timeout_s <= limit_s:
                raise DeadlineExceededError("the deadline passed while the image was being fetched") from error
            raise UrlTimeoutError(f"image_url: expected the whole image within {limit_s:g} s") from error

    async def _follow(self, text: str, client: str, count: Callable[[int], None]) -> bytes:
        hop = 0
        try:
            url = parse_url(text)
            while not isinstance(found := await self._get(url, client, count), bytes):
                if hop == MAX_REDIRECTS:
                    raise UrlFetchFailedError("expected no further redirect, found one")
                hop += 1
                url = url.join(found.location)
        except _OF_THE_URL as error:
            where = f"image_url, redirect {hop}" if hop else "image_url"
            raise type(error)(f"{where}: {error.detail}") from error
        return found

    async def _get(self, url: RemoteUrl, client: str, count: Callable[[int], None]) -> bytes | Redirect:
        ports = self._limits.ports
        if url.port not in ports and 0 not in ports:
            raise UrlNotAllowedError(f"expected the port {' or '.join(map(str, ports))}, found {url.port}")
        async with self.places.take(Errand(url.host, client)):
            return await get(url, await self._find_addresses(url), self._options, count)

    async def _find_addresses(self, url: RemoteUrl) -> Sequence[Address]:
        """Every address of the host, each of them checked."""
        written = url.address
        addresses = (written,) if written is not None else await self._resolver.resolve(url.host, url.port)
        # One answer for names that do not exist and for those of our own network: the difference would be a map of it.
        if not addresses or not all(map(self._limits.addresses.permits, addresses)):
            raise UrlNotAllowedError(
                "expected a host with public addresses and no others, found one that is not public"
            )
        return addresses


def _host_of(text: str) -> str:
    try:
        return parse_url(text).host
    except UrlNotAllowedError:
        return ""

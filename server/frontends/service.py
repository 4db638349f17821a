"""What stands behind the transports of a front end: the engine process, and the desk with their uploads."""

import asyncio
import hashlib
import itertools
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from typing import Any

from server.access.accounts import Account, Allowance
from server.engine.quotas import ModelLimits
from server.errors import ServerError
from server.frontends.desk import Desk
from server.frontends.orders import Order
from server.frontends.peer import Peer
from server.pipeline.header import ImageHeader, ImageLimits, check_upload, read_header
from server.pipeline.pipeline import no_urls
from server.pipeline.request import END_BYTES, SegmentOptions, SegmentRequest, SegmentResult
from server.pipeline.study import ShadowPlan

_ALLOWANCE_S = 1.0  # to learn what an account has left


class DistantPipeline:
    """`server.api.service.Segmenter`, whose uploads stay here."""

    def __init__(self, peer: Peer, desk: Desk, limits: ImageLimits, secret: bytes) -> None:
        """Order from the engine process.

        Args:
            peer: That is it.
            desk: Where uploads are held.
            limits: Of uploads.
            secret: See `Greeting`.
        """
        self._peer = peer
        self._desk = desk
        self._limits = limits
        self._secret = secret
        self._headers = ThreadPoolExecutor(1, thread_name_prefix="header")

    async def segment(self, request: SegmentRequest) -> SegmentResult:
        """As `server.pipeline.pipeline.Pipeline.segment`."""
        began = time.monotonic()
        image, options, account, name = request.image, request.options, request.account, request.request_id
        del request
        if not isinstance(image, bytes):
            raise no_urls()
        check_upload(image, self._limits)
        known_by = self._fingerprint(image, options, account.name if account is not None else None)
        size, handle = len(image), self._desk.hold(image, options)
        try:
            header = await self._read_header(handle, image)
            del image
            if options.timeout_s is not None:
                options = replace(options, timeout_s=max(0.0, options.timeout_s - (time.monotonic() - began)))
            payer = account.name if account is not None else None
            order = Order(handle, size, header, options, payer, name, known_by)
            found: SegmentResult = await self._peer.call("segment", order)
            return replace(found, body=self._desk.take_answer(handle))
        finally:
            self._desk.drop(handle)

    async def _read_header(self, handle: int, image: bytes) -> ImageHeader | ServerError:
        """What it says, or what is wrong with it, which is told to who is let in."""
        loop = asyncio.get_running_loop()
        try:
            header = await loop.run_in_executor(self._headers, read_header, image, self._limits)
        except ServerError as error:
            return error.with_traceback(None)
        self._desk.describe(handle, header)
        return header

    def _fingerprint(self, image: bytes, options: SegmentOptions, account: str | None) -> int:
        """As `server.pipeline.request.fingerprint`, but the same in every front end."""
        digest = hashlib.blake2b(key=self._secret, digest_size=8)
        facts = (len(image), replace(options, timeout_s=None), account)
        for part in (repr(facts).encode("utf-8", "backslashreplace"), image[:END_BYTES], image[-END_BYTES:]):
            digest.update(part)
        return int.from_bytes(digest.digest(), "little")


class DistantAllowances:
    """`server.api.service.Allowances`: what accounts have left is counted in the engine process."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer

    async def __call__(self, account: Account) -> Allowance | None:
        """Ask at the very moment, because the other front ends spend of it, too."""
        if account.allowance is None:  # without a limit; one that there is is told with a bucket that stays full here
            return None
        try:
            async with asyncio.timeout(_ALLOWANCE_S):
                found: Allowance | None = await self._peer.call("allowance", account.name)
        except (TimeoutError, ServerError):
            return None  # an answer without this is better than none
        return found


class DistantEntrance:
    """`server.api.service.Entrance`: the gate of the engine process, and what counts there until it is over here."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self._numbers = itertools.count()

    @asynccontextmanager
    async def receive(self, announced: int = 0) -> AsyncIterator["DistantArriving"]:
        number = next(self._numbers)
        try:
            await self._peer.call("receive", number, announced)
            yield DistantArriving(self._peer, number, announced)
        finally:
            self._peer.note("left", number)

    @asynccontextmanager
    async def stream(self) -> AsyncIterator[None]:
        number = next(self._numbers)
        try:
            await self._peer.call("stream", number)
            yield
        finally:
            self._peer.note("left", number)

    @contextmanager
    def hold(self, size: int) -> Iterator[None]:
        """Count bytes of an answer that is being written while the context is open."""
        number = next(self._numbers)
        self._peer.note("hold", number, size)
        try:
            yield
        finally:
            self._peer.note("left", number)


class DistantArriving:
    """`server.api.service.Arriving`; what was announced needs no further word."""

    def __init__(self, peer: Peer, number: int, announced: int) -> None:
        self._peer = peer
        self._number = number
        self._granted = announced
        self._arrived = 0
        self._told = 0

    async def reserve(self, most: int) -> None:
        await self._peer.call("reserve", self._number, most)
        self._granted = most

    async def add(self, size: int) -> None:
        self._arrived += size
        if self._arrived > self._granted:
            more, self._told = self._arrived - self._told, self._arrived
            await self._peer.call("add", self._number, more)


class DistantMetrics:
    """`server.api.service.Counting`: one page for all processes."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer

    def count_request(self, transport: str, outcome: str, seconds: float) -> None:
        self._peer.note("count", transport, outcome, seconds)

    async def page(self) -> tuple[bytes, str]:
        body, content_type = await self._peer.call("page")
        return body, content_type


class DistantAdmin:
    """`server.api.service.Admin`, in the engine process."""

    def __init__(self, peer: Peer) -> None:
        self._ask: Callable[..., Any] = lambda name, *arguments: peer.call("admin", name, arguments)

    async def models(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = await self._ask("models")
        return found

    async def put_model(self, name: str, directory: str, limits: ModelLimits | None) -> Mapping[str, Any]:
        found: Mapping[str, Any] = await self._ask("put_model", name, directory, limits)
        return found

    async def remove_model(self, name: str) -> Mapping[str, Any]:
        found: Mapping[str, Any] = await self._ask("remove_model", name)
        return found

    async def make_default(self, name: str) -> None:
        await self._ask("make_default", name)

    async def begin_shadow(self, plan: ShadowPlan | None) -> None:
        await self._ask("begin_shadow", plan)

    async def shadow_report(self) -> dict[str, Any] | None:
        found: dict[str, Any] | None = await self._ask("shadow_report")
        return found

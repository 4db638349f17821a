"""One front end, as the engine process sees it: what it asks for, and what is to be taken back when it has gone."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from server.access import Account, KeyRing
from server.access.accounts import Allowance
from server.api.service import Admin, Segmenter
from server.engine.admission import Admission
from server.engine.uploads import Arrival, Uploads
from server.errors import InvalidOptionError, UnauthenticatedError
from server.frontends.arena import Slots
from server.frontends.held import HeldImage
from server.frontends.lines import Lines
from server.frontends.orders import Order
from server.frontends.peer import Handler
from server.observability.logs import request_id
from server.observability.metrics import Metrics
from server.pipeline.request import SegmentRequest, SegmentResult


@dataclass(frozen=True, slots=True)
class Behind:
    """What front ends ask for.

    Attributes:
        pipeline: Answers requests.
        metrics: Of the whole server.
        uploads: The gate that is passed before a body is read.
        admission: Where answers count until they are read.
        admin: What administrators may do; None where there are none.
        keys: By which the accounts are known; None where no key is asked for.
        changed: Called when administrators have changed something, before they are told.
    """

    pipeline: Segmenter
    metrics: Metrics
    uploads: Uploads
    admission: Admission
    admin: Admin | None
    keys: KeyRing | None
    changed: Callable[[], None]


class Guest:
    """Answers one front end. All of its methods belong to the event loop."""

    def __init__(self, behind: Behind, lines: Lines, slots: Slots) -> None:
        self._behind = behind
        self._lines = lines
        self._slots = slots
        self._open: dict[int, ExitStack] = {}  # what is counted for it, by numbers of its own
        self._arrivals: dict[int, Arrival] = {}

    def handlers(self) -> Mapping[str, Handler]:
        """By name, for its `Peer`."""
        return {
            "receive": self._receive,
            "reserve": self._reserve,
            "add": self._add,
            "stream": self._stream,
            "hold": self._hold,
            "left": self._left,
            "count": self._behind.metrics.count_request,
            "page": self._behind.metrics.render,
            "segment": self._segment,
            "allowance": self._allowance,
            "admin": self._administrate,
        }

    def gone(self) -> None:
        """It has ended: take back all that was counted for it."""
        self._lines.close()
        for number in list(self._open):
            self._left(number)

    # At once, so that what it says next, that it has left, comes after.
    def _receive(self, number: int, announced: int) -> None:
        with ExitStack() as stack:
            self._arrivals[number] = stack.enter_context(self._behind.uploads.receive(announced))
            self._open[number] = stack.pop_all()

    async def _reserve(self, number: int, most: int) -> None:
        await self._arrivals[number].reserve(most)

    def _add(self, number: int, size: int) -> None:
        self._arrivals[number].add(size)

    def _stream(self, number: int) -> None:
        with ExitStack() as stack:
            stack.enter_context(self._behind.uploads.stream())
            self._open[number] = stack.pop_all()

    def _hold(self, number: int, size: int) -> None:
        stack = self._open[number] = ExitStack()
        stack.enter_context(self._behind.admission.hold(size))

    def _left(self, number: int) -> None:
        self._arrivals.pop(number, None)
        if (stack := self._open.pop(number, None)) is not None:
            stack.close()

    async def _segment(self, order: Order) -> SegmentResult:
        request_id.set(order.request_id)
        account = self._account(order.account)
        image = HeldImage(order, self._lines, self._slots)
        request = SegmentRequest(image, order.options, order.request_id, account, order.fingerprint)
        del image
        return await self._behind.pipeline.segment(request)

    def _allowance(self, name: str) -> Allowance | None:
        account = self._behind.keys.account(name) if self._behind.keys is not None else None
        return account.allowance if account is not None else None

    def _account(self, name: str | None) -> Account | None:
        if name is None:
            return None
        account = self._behind.keys.account(name) if self._behind.keys is not None else None
        if account is None:
            raise UnauthenticatedError("the API key was withdrawn")
        return account

    async def _administrate(self, name: str, arguments: tuple[Any, ...]) -> Any:  # noqa: ANN401 - by method
        if self._behind.admin is None:
            raise RuntimeError("This is a bug: there is no administration")
        if name == "begin_shadow" and arguments != (None,):
            raise InvalidOptionError("models are compared by a server with frontends=1, which holds the uploads itself")
        try:
            return await getattr(self._behind.admin, name)(*arguments)
        finally:
            self._behind.changed()

"""A fetcher whose names the test resolves, and what must fail with it."""

from collections.abc import Sequence
from ipaddress import ip_address, ip_network

import pytest

from server.errors import ServerError
from server.fetch.addresses import Address, AddressPolicy
from server.fetch.fetcher import Fetcher, FetchLimits
from server.observability.metrics import Metrics
from tests.support.backends import PATIENCE_S
from tests.support.clients import until
from tests.support.origin import Origin

BODY = bytes(range(256)) * 8
PUBLIC = "93.184.215.14"  # never connected to: only answers that must be refused name it
LOCAL = AddressPolicy(allow=(ip_network("127.0.0.1/32"),))


class Names:
    """A resolver with one list of addresses per question, the last of which holds for all further ones."""

    def __init__(self, **answers: Sequence[Sequence[str]]) -> None:
        self.answers = {name.replace("_", "."): [list(answer) for answer in many] for name, many in answers.items()}
        self.asked: list[str] = []

    async def resolve(self, host: str, port: int) -> Sequence[Address]:
        assert port > 0
        self.asked.append(host)
        many = self.answers.get(host, [[]])
        return [ip_address(text) for text in (many.pop(0) if len(many) > 1 else many[0])]

    def close(self) -> None:
        pass


def make_fetcher(names: Names | None = None, metrics: Metrics | None = None, **limits) -> Fetcher:
    given = {"max_bytes": 10_000, "ports": (0,), "addresses": LOCAL, **limits}
    return Fetcher(FetchLimits(**given), metrics or Metrics(), names or Names())


async def fail(origin: Origin, kind: type[ServerError], path: str = "/image", **limits) -> str:
    """Fetch what must fail in this way; the detail. The connection must be closed by then."""
    with pytest.raises(kind) as caught:
        await make_fetcher(**limits).fetch(origin.url(path), PATIENCE_S)
    assert type(caught.value) is kind
    await until(lambda: origin.closed == origin.opened)
    return caught.value.detail

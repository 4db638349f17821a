"""Three real servers behind nginx, under load over both transports: one is killed, one drained, one added.

One of the three answers slowly, so that it certainly has requests inside when something happens to it. The verdict is
an account: what every client was told, request by request, against the proxy's log of where each of them went.
"""

import signal
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.fleet import CLIENTS, GRPC_CLIENTS, Load
from tests.support.images import noise, png
from tests.support.processes import PATIENCE_S, LiveServer, live_server
from tests.support.proxy import Passage, find_nginx, nginx

pytestmark = [
    pytest.mark.fleet,
    pytest.mark.skipif(find_nginx() is None, reason="nginx is not here; `make test-fleet` unpacks it on Debian"),
]

FLAGS = ("--backend", "fake", "--refiner", "none", "--max-batch", "4", "--drain-delay-s", "3")
QUICK, SLOW = (*FLAGS, "--fake-latency-s", "0.02"), (*FLAGS, "--fake-latency-s", "2")
IMAGE = png(noise(320, 320))  # more than gRPC keeps of a call for its repetition, unless it is told to


def port(address: str) -> int:
    return int(address.rsplit(":", 1)[1])


def fetch(server: LiveServer, path: str) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(server.http + path, timeout=PATIENCE_S) as response:  # noqa: S310
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def metric(server: LiveServer, name: str, **labels: str) -> float:
    families = text_string_to_metric_families(fetch(server, "/metrics")[1].decode())
    samples = [sample for family in families for sample in family.samples if sample.name == name]
    return sum(sample.value for sample in samples if labels.items() <= sample.labels.items())


def wait_until_inside(server: LiveServer, count: int) -> None:
    """Until so many requests are within this process at once: it is slow, and all clients end up in it."""
    deadline = time.monotonic() + PATIENCE_S
    while (found := metric(server, "birefnet_requests_inside")) != count:
        assert time.monotonic() < deadline, f"{found:g} of {count} requests are inside"
        time.sleep(0.02)


def wait_until_answering(server: LiveServer) -> None:
    """Until this process has answered something over each transport."""
    deadline = time.monotonic() + PATIENCE_S
    while not all(metric(server, "birefnet_requests_total", transport=kind, outcome="ok") for kind in ("rest", "grpc")):
        assert time.monotonic() < deadline, "nothing is sent to it"
        time.sleep(0.02)


class Fleet:
    """The servers, and a proxy that knows which of them are ready: what the endpoints of a Service are in a cluster."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._servers, self._proxy = ExitStack(), ExitStack()
        self._all: list[LiveServer] = []
        self.routed: list[LiveServer] = []

    def start(self, *kinds: tuple[str, ...]) -> None:
        self.routed = [self._start(kind) for kind in kinds]
        for server in self.routed:
            server.wait_for("ready")
        quickest = self.routed[-1]
        request = urllib.request.Request(quickest.http + "/segment", data=IMAGE)  # noqa: S310
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as response:  # noqa: S310
            self.expected = response.read()
        self.proxy = self._proxy.enter_context(nginx(self._folder / "nginx", *self._ports()))

    def load(self, target: str | None = None) -> Load:
        return Load(self.proxy.http, target or f"127.0.0.1:{self.proxy.grpc}", IMAGE, self.expected)

    def add(self, kind: tuple[str, ...]) -> LiveServer:
        server = self._start(kind)
        server.wait_for("ready")
        self.routed.append(server)
        self.proxy.route(*self._ports())
        return server

    def remove(self, server: LiveServer) -> None:
        """Send it nothing more."""
        self.routed.remove(server)
        self.proxy.route(*self._ports())

    def passages(self) -> list[Passage]:
        """Where every request went; the proxy has ended then."""
        self._proxy.close()
        return self.proxy.passages()

    def close(self) -> None:
        self._proxy.close()
        self._servers.close()

    def _start(self, kind: tuple[str, ...]) -> LiveServer:
        return self._servers.enter_context(live_server(*kind, ready=False))

    def _ports(self) -> tuple[list[int], list[int]]:
        return [port(server.http) for server in self.routed], [port(server.grpc) for server in self.routed]


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    found = Fleet(tmp_path)
    try:
        yield found
    finally:
        found.close()


def test_load_is_spread_over_all_servers_and_both_transports(fleet: Fleet):
    fleet.start(QUICK, QUICK, QUICK)
    with fleet.load() as load:
        for server in fleet.routed:
            wait_until_answering(server)
    load.ledger.check()
    assert not load.ledger.told, "nobody was sent away"
    passages = fleet.passages()
    assert {passage.request_id for passage in passages} == load.ledger.sent
    assert {(len(passage.attempts), passage.status) for passage in passages} == {(1, 200)}


def test_killing_one_loses_what_is_inside_it_alone_and_the_retry_that_clients_are_told_of_answers_that(fleet: Fleet):
    fleet.start(SLOW, QUICK, QUICK)
    victim = fleet.routed[0]
    with fleet.load() as load:
        wait_until_inside(victim, CLIENTS)
        victim.signal(signal.SIGKILL)
        victim.wait()
        # The endpoints still name it: what is sent there meanwhile reaches nobody, and goes to another at once.
        load.ledger.wait_for_more(20)
        fleet.remove(victim)
        load.ledger.wait_for_more(20)
    load.ledger.check()
    places = {port(victim.http), port(victim.grpc)}
    passages = fleet.passages()
    lost = [passage for passage in passages if passage.attempts[-1][1] == 502]
    assert {passage.attempts[-1][0] for passage in lost} <= places, "what is lost was inside the killed process"
    ids = [passage.request_id for passage in lost]
    assert len(set(ids)) == len(ids), "and was lost once"
    assert {name.partition("-")[0] for name in ids} == {"rest", "grpc"}
    # HTTP clients are told by the answer; a gRPC channel repeats by itself: the proxy has seen the call a second time.
    assert load.ledger.told == {name: ["unavailable"] for name in ids if name.startswith("rest")}
    again = [passage.request_id for passage in passages if passage.status == 200 and passage.request_id in ids]
    assert sorted(again) == sorted(ids), "every one of them was answered by another process"
    unreached = [passage for passage in passages if len(passage.attempts) > 1]
    assert {attempt for passage in unreached for attempt in passage.attempts[:-1]} <= {(place, 502) for place in places}
    assert {passage.status for passage in unreached} <= {200}


def test_draining_one_loses_nothing(fleet: Fleet):
    fleet.start(SLOW, QUICK, QUICK)
    leaving = fleet.routed[0]
    with fleet.load() as load:
        wait_until_inside(leaving, CLIENTS)
        leaving.signal()
        began = leaving.wait_for("SIGTERM")
        assert fetch(leaving, "/readyz")[0] == 503  # what the kubelet asks
        fleet.remove(leaving)
        assert leaving.wait() == 0
        load.ledger.wait_for_more(20)
    load.ledger.check()
    drained = next(record for record in leaving.wait_for_records() if record["message"] == "drained")
    assert began["inside"] > 0
    assert drained["lost"] == 0
    # The delay outlasts the time until nothing is sent there; on a machine that is slower still, clients are told.
    told = {code for codes in load.ledger.told.values() for code in codes}
    assert told <= {"draining"}
    places = {port(leaving.http), port(leaving.grpc)}
    ends = {attempt[1] for passage in fleet.passages() for attempt in passage.attempts if attempt[0] in places}
    assert ends <= {200} | ({503} if told else set()), "whoever was inside was answered by it"


def test_one_that_is_added_takes_its_share(fleet: Fleet):
    fleet.start(QUICK, QUICK, QUICK)
    with fleet.load() as load:
        load.ledger.wait_for_more(10)
        newcomer = fleet.add(QUICK)
        wait_until_answering(newcomer)
    load.ledger.check()
    assert not load.ledger.told


def test_grpc_clients_that_balance_themselves_survive_a_kill_and_a_drain(fleet: Fleet):
    """gRPC without a proxy: round_robin over the addresses that a headless Service would give."""
    fleet.start(SLOW, QUICK, QUICK)
    killed, drained, stays = fleet.routed
    addresses = ",".join(f"127.0.0.1:{port(server.grpc)}" for server in fleet.routed)
    with fleet.load(f"ipv4:{addresses}") as load:
        wait_until_inside(killed, CLIENTS)
        killed.signal(signal.SIGKILL)
        killed.wait()
        fleet.remove(killed)
        load.ledger.wait_for_more(20)
        drained.signal()
        drained.wait_for("SIGTERM")
        fleet.remove(drained)
        assert drained.wait() == 0
        load.ledger.wait_for_more(20)
        assert metric(stays, "birefnet_requests_total", transport="grpc", outcome="ok") > GRPC_CLIENTS
    load.ledger.check()
    told = load.ledger.told.values()
    assert {code for codes in told for code in codes} <= {"unavailable", "draining"}

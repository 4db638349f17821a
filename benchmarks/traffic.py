"""A load generator that is no bottleneck: prebuilt requests over raw sockets and gRPC, in a process of its own.

`python -m benchmarks.traffic` reads a `Plan` as JSON from standard input and writes what became of every request as
JSON to standard output, together with what the generator itself took: its processor time, and how late it was. An
open-loop plan sends at the times of a Poisson process whatever the server does, and latencies count from the time at
which a request was to be sent: a server that stalls cannot hide it (no coordinated omission).
"""

import asyncio
import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.wire import GrpcClient, HttpClient, Reply, Template

FRESH, RETURN, MALFORMED, ABANDON = "fresh", "return", "malformed", "abandon"


@dataclass(frozen=True, slots=True)
class Plan:
    """What to send.

    Attributes:
        http_port: Of the server, on this machine.
        grpc_port: Of the server, on this machine.
        image: JPEG file that every request sends, each with a comment of its own.
        options: Of `/segment`, by name.
        rate: Requests per second of a Poisson process; 0 has `clients` send their next when the last is answered.
        clients: Of a closed loop.
        seconds: For which new ones are sent; what is under way is waited for.
        grpc_share: Of requests that go over gRPC.
        abandon_share: Of clients that leave `abandon_s` after they have sent.
        abandon_s: See there.
        malformed_share: Of uploads that are no image.
        obey_share: Of refused clients that come back, once, when they were told.
        patience_s: Whoever is told more than that does not come back.
        seed: Of all chances.
    """

    http_port: int
    grpc_port: int
    image: str
    options: dict[str, str] = field(default_factory=dict)
    rate: float = 0.0
    clients: int = 1
    seconds: float = 1.0
    grpc_share: float = 0.0
    abandon_share: float = 0.0
    abandon_s: float = 0.1
    malformed_share: float = 0.0
    obey_share: float = 0.0
    patience_s: float = 300.0
    seed: int = 1


@dataclass(frozen=True, slots=True)
class Exchange:
    """What became of one request.

    Attributes:
        kind: `fresh`, `return`, `malformed` or `abandon`.
        transport: `rest` or `grpc`.
        intended_s: When it was to be sent, from the start of the plan.
        sent_s: When it was.
        ended_s: When its answer was there, or its client left.
        outcome: `ok`, `left`, a public error code, or `lost: …` where there was no whole answer.
        reason: Of a refusal, by the server's word.
        retry_after_s: That came with it.
    """

    kind: str
    transport: str
    intended_s: float
    sent_s: float
    ended_s: float
    outcome: str
    reason: str = ""
    retry_after_s: int | None = None

    @property
    def latency_s(self) -> float:
        """As a client with a calendar sees it."""
        return self.ended_s - self.intended_s


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a plan.

    Attributes:
        exchanges: Every request.
        cpu_share: Processor time of the generator per second, of one core.
        lag_p99_s: How late it sent, where 99 of 100 were less so.
        wall_s: From the first until all is answered.
    """

    exchanges: list[Exchange]
    cpu_share: float
    lag_p99_s: float
    wall_s: float


def run_plan(plan: Plan) -> Outcome:
    """Carry out a plan in a process of its own.

    Raises:
        CalledProcessError: The generator failed; its trace is on standard error.
    """
    command = [sys.executable, "-m", "benchmarks.traffic"]
    done = subprocess.run(
        command, input=json.dumps(asdict(plan)), stdout=subprocess.PIPE, check=True, text=True, cwd=_ROOT
    )
    found = json.loads(done.stdout)
    return Outcome([Exchange(*row) for row in found.pop("exchanges")], **found)


_ROOT = Path(__file__).parents[1]


class _Traffic:
    """A plan on its way."""

    def __init__(self, plan: Plan) -> None:
        template = Template(plan.image, plan.options)
        self._plan = plan
        self._http = HttpClient("127.0.0.1", plan.http_port, template)
        self._grpc = GrpcClient(f"127.0.0.1:{plan.grpc_port}", template)
        self._random = random.Random(plan.seed)  # noqa: S311 - arrivals, not secrets
        self._started = time.perf_counter()
        self._number = plan.seed * 1_000_000  # no two plans on one server send the same
        self.exchanges: list[Exchange] = []

    def now(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self._started

    async def run(self) -> None:
        """Until everything is answered."""
        self._started = time.perf_counter()
        if self._plan.rate:
            await self._open_loop()
        else:
            await asyncio.gather(*(self._client() for _ in range(self._plan.clients)))
        await self._http.close()
        await self._grpc.close()

    async def _open_loop(self) -> None:
        async with asyncio.TaskGroup() as group:
            for intended in self._arrivals():
                ahead = intended - self.now()
                if ahead > 0:
                    await asyncio.sleep(ahead)
                group.create_task(self._exchange(intended))

    def _arrivals(self) -> Iterator[float]:
        at = self._random.expovariate(self._plan.rate)
        while at < self._plan.seconds:
            yield at
            at += self._random.expovariate(self._plan.rate)

    async def _client(self) -> None:
        while self.now() < self._plan.seconds:
            await self._exchange(self.now())

    async def _exchange(self, intended: float) -> None:
        plan, chance = self._plan, self._random.random()
        kind = FRESH
        if chance < plan.malformed_share:
            kind = MALFORMED
        elif chance < plan.malformed_share + plan.abandon_share:
            kind = ABANDON
        self._number += 1
        number, over_grpc = self._number, self._random.random() < plan.grpc_share
        refused = await self._send(kind, intended, number, over_grpc=over_grpc)
        if refused is not None and kind == FRESH and self._random.random() < plan.obey_share:
            seconds = refused.retry_after_s or 0
            if seconds > plan.patience_s:
                return
            again = refused.ended_s + seconds
            await asyncio.sleep(again - self.now())
            await self._send(RETURN, again, number, over_grpc=over_grpc)

    async def _send(self, kind: str, intended: float, number: int, *, over_grpc: bool) -> Exchange | None:
        """One request; what it was answered if it was refused."""
        client = self._grpc if over_grpc else self._http
        sent = self.now()
        leave = self._plan.abandon_s if kind == ABANDON else None
        reply: Reply = await client.send(number, malformed=kind == MALFORMED, leave=leave)
        transport = "grpc" if over_grpc else "rest"
        exchange = Exchange(
            kind, transport, intended, sent, self.now(), reply.outcome, reply.reason, reply.retry_after_s
        )
        self.exchanges.append(exchange)
        return exchange if exchange.reason else None


def main() -> None:
    """Read a plan, carry it out, say what became of it."""
    import uvloop

    plan = Plan(**json.load(sys.stdin))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        found = runner.run(_carry_out(plan))
    json.dump(found, sys.stdout)


async def _carry_out(plan: Plan) -> dict[str, Any]:
    traffic = _Traffic(plan)
    cpu, wall = time.process_time(), time.perf_counter()
    await traffic.run()
    wall_s = time.perf_counter() - wall
    lags = sorted(exchange.sent_s - exchange.intended_s for exchange in traffic.exchanges)
    return {
        "exchanges": [list(asdict(exchange).values()) for exchange in traffic.exchanges],
        "cpu_share": (time.process_time() - cpu) / wall_s,
        "lag_p99_s": lags[int(0.99 * len(lags))] if lags else 0.0,
        "wall_s": wall_s,
    }


if __name__ == "__main__":
    main()

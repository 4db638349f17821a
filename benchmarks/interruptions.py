"""Clients that leave, and a process that is told to: what becomes of everyone else."""

import asyncio
import itertools
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.load import quantile
from benchmarks.scenario import Report, Scale, at_least, at_most, plan_for, spread, write_image
from benchmarks.traffic import Plan
from benchmarks.vitals import metrics
from benchmarks.wire import GrpcClient, HttpClient, Reply, Template
from tests.support.processes import PATIENCE_S, LiveServer, live_server

LEAVING = 24
_BATCH_S = 0.3
_SMALL = 256  # pixels of the side of images whose size does not matter
_CALM = 3  # requests one after the other, for what one takes
_LATE = 20  # that come after the signal
_GONE = {
    f"lost: {error}"
    for error in ("ConnectionRefusedError", "ConnectionResetError", "BrokenPipeError", "UNAVAILABLE", "CANCELLED")
}
"""What is said to who comes at the very end. CANCELLED is gRPC's own word for a call that its server has not begun."""


def abandoned(folder: Path, scale: Scale) -> Report:
    """24 clients leave; the one that comes then waits for what is on the device already, and for nobody else."""
    flags = ("--backend", "fake", "--max-batch", "4", "--fake-latency-s", str(_BATCH_S))
    image = write_image(folder, _SMALL)
    with live_server(*flags) as live:
        waits = {
            transport: asyncio.run(_leave(live, plan_for(live, image), transport, scale.abandoned))
            for transport in ("rest", "grpc")
        }
        dropped = metrics(live)["birefnet_dropped_total{reason=cancelled}"]
    left = 2 * scale.abandoned * LEAVING
    # Of each crowd a batch is on the device when it leaves, and perhaps another one before the last of it has left.
    criteria = (
        *(
            at_most(f"wait behind {LEAVING} who left, {transport}", 1e3 * _BATCH_S, 1e3 * max(found), "ms")
            for transport, found in waits.items()
        ),
        at_least("their work that was dropped unbegun", left - 2 * scale.abandoned * 2 * 4, dropped, "requests"),
    )
    waited = {transport: spread([1e3 * each for each in found]) for transport, found in waits.items()}
    return Report("abandoned", flags, criteria, {"left": left, "dropped": dropped, "waited_ms": waited})


async def _leave(live: LiveServer, plan: Plan, transport: str, repetitions: int) -> list[float]:
    """Seconds that the next client waits beyond what a request takes in an idle server, each time."""
    template = Template(plan.image, {})
    http = HttpClient("127.0.0.1", plan.http_port, template)
    rpc = GrpcClient(f"127.0.0.1:{plan.grpc_port}", template)
    client: HttpClient | GrpcClient = http if transport == "rest" else rpc
    numbers = itertools.count()

    async def timed() -> float:
        began = time.perf_counter()
        reply = await client.send(next(numbers))
        if reply.outcome != "ok":
            raise RuntimeError(f"expected an answer, found {reply}")
        return time.perf_counter() - began

    await timed()
    calm = min([await timed() for _ in range(_CALM)])
    waits = []
    for _ in range(repetitions):
        leave = asyncio.Event()
        crowd = [asyncio.ensure_future(client.send(next(numbers), leave=leave)) for _ in range(LEAVING)]
        await _until_taken(live, LEAVING, crowd)
        leave.set()
        await asyncio.gather(*crowd)
        waits.append(await timed() - calm)
    await http.close()
    await rpc.close()
    return waits


def drain(folder: Path, scale: Scale) -> Report:
    """SIGTERM with hundreds inside, again and again: every one of them is answered, over both transports."""
    limits = ("--max-requests", str(2 * scale.accepted), "--max-uploads", str(2 * scale.accepted))
    flags = ("--backend", "fake", "--max-batch", "8", "--fake-latency-s", "0.02", *limits)
    image = write_image(folder, _SMALL)
    accepted = lost = inside = unclear = 0
    codes, seconds = set(), []
    for repetition in range(scale.drains):
        with live_server(*flags) as live:
            ended = asyncio.run(_terminate(live, plan_for(live, image, seed=repetition + 1), scale.accepted))
            replies, late, signalled = ended
            codes.add(live.wait())
            seconds.append(time.monotonic() - signalled)
            inside += live.wait_for("SIGTERM")["inside"]
        accepted += sum(not reply.reason for reply in replies)
        lost += sum(reply.outcome != "ok" and not reply.reason for reply in replies)
        unclear += sum(not _is_clear(reply) for reply in late)
    criteria = (
        at_least("accepted requests, over both transports", scale.drains * scale.accepted, accepted, "requests"),
        at_most("accepted requests that were lost", 0, lost, "requests"),
        at_most("exit codes other than 0", 0, len(codes - {0}), "codes"),
        at_most("who came after the signal and was answered wrongly", 0, unclear, "requests"),
    )
    figures = {
        "repetitions": scale.drains,
        "inside_at_the_signal": inside,
        "seconds_to_drain": {"median": round(quantile(seconds, 0.5), 2), "max": round(max(seconds), 2)},
    }
    return Report("drain", flags, criteria, figures)


async def _terminate(live: LiveServer, plan: Plan, count: int) -> tuple[list[Reply], list[Reply], float]:
    """Fill a server, end it, and ask for some more; what the first and the late ones were told, and when it began."""
    template = Template(plan.image, {})
    http = HttpClient("127.0.0.1", plan.http_port, template)
    rpc = GrpcClient(f"127.0.0.1:{plan.grpc_port}", template)
    await asyncio.gather(http.connect(count // 2 + _LATE // 2), rpc.connect())
    numbers = range(count)
    asked = [asyncio.ensure_future((rpc if number % 2 else http).send(number)) for number in numbers]
    await _until_taken(live, count, asked)
    signalled = time.monotonic()
    live.signal(signal.SIGTERM)
    await asyncio.to_thread(live.wait_for, "SIGTERM")
    late = [asyncio.ensure_future((rpc if number % 2 else http).send(count + number)) for number in range(_LATE)]
    replies = list(await asyncio.gather(*asked))
    last = list(await asyncio.gather(*late))
    await http.close()
    await rpc.close()
    return replies, last, signalled


async def _until_taken(live: LiveServer, count: int, asked: Sequence["asyncio.Future[Reply]"]) -> None:
    """Until all that were asked are inside, or answered."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        answered = sum(each.done() for each in asked)  # first: who is answered by now is not inside then
        if answered + (await asyncio.to_thread(metrics, live))["birefnet_requests_inside"] >= count:
            return
        await asyncio.sleep(0.02)
    raise TimeoutError(f"{count} requests were not taken within {PATIENCE_S:g} s")


def _is_clear(reply: Reply) -> bool:
    """Answered, refused with a time, or the connection is gone: nothing was begun, and another process takes it."""
    return reply.outcome == "ok" or reply.retry_after_s is not None or reply.outcome in _GONE

"""A server whose host is full, not its device: what it says of itself, and what it tells clients."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.scenario import Report, Scale, at_least, at_most, plan_for, write_image
from benchmarks.traffic import Plan
from benchmarks.vitals import metrics
from benchmarks.wire import HttpClient, Reply, Template
from tests.support.processes import LiveServer, live_server

FLAGS = ("--backend", "fake", "--png-level", "9", "--max-requests", "16")
_INSIDE, _SENT = 16, 24
_KNOWN = 4  # requests from which it learns what they take


def encoding(folder: Path, scale: Scale) -> Report:
    """Large cutouts at the hardest level of PNG: encoding is nearly all there is to do."""
    image = write_image(folder, scale.heavy_side)
    with live_server(*FLAGS) as live:
        found = asyncio.run(_fill(live, plan_for(live, image, options={"output": "cutout"})))
    told = [reply.retry_after_s or 0 for reply in found.refused]
    off = abs(found.pressure_s - found.took_s) / found.took_s
    criteria = (
        at_most("pressure, off from the seconds that it took to get through", 40, 100 * off, "%"),
        at_most("backlog of the device", found.host_s, found.device_s, "s"),
        at_least("refusals that say when to come back", len(found.refused), sum(map(bool, told)), "requests"),
        at_least("who came back as told and was let in", 90, found.welcome_percent, "%"),
    )
    figures = {
        "pressure_s": round(found.pressure_s, 2),
        "took_s": round(found.took_s, 2),
        "refused": len(found.refused),
        "retry_after_s": sorted(told),
    }
    return Report("encoding", FLAGS, criteria, figures)


@dataclass
class _Found:
    """What was seen of a full server."""

    pressure_s: float = 0.0
    host_s: float = 0.0
    device_s: float = 0.0
    took_s: float = 0.0
    refused: Sequence[Reply] = ()
    welcome_percent: float = 100.0


async def _fill(live: LiveServer, plan: Plan) -> _Found:
    client = HttpClient("127.0.0.1", plan.http_port, Template(plan.image, plan.options))
    for number in range(_KNOWN):
        await client.send(number)
    await client.connect(_SENT)
    found = _Found()
    asked = [asyncio.ensure_future(_send_until_answered(client, 100 + number)) for number in range(_SENT)]
    while (seen := await asyncio.to_thread(metrics, live))["birefnet_requests_inside"] < _INSIDE:  # noqa: ASYNC110 - another process has no event here
        await asyncio.sleep(0.01)
    began = time.perf_counter()
    found.pressure_s = seen["birefnet_pressure"]
    found.host_s = seen["birefnet_backlog_seconds{part=host}"]
    found.device_s = seen["birefnet_backlog_seconds{part=device}"]
    answers = await asyncio.gather(*asked)
    found.took_s = max(at for first, _, at in answers if not first.reason) - began
    found.refused = [first for first, _, _ in answers if first.reason]
    again = [second for _, second, _ in answers if second is not None]
    found.welcome_percent = 100 * sum(reply.outcome == "ok" for reply in again) / max(1, len(again))
    await client.close()
    return found


async def _send_until_answered(client: HttpClient, number: int) -> tuple[Reply, Reply | None, float]:
    """What was said at first, what was said to who came back as told, and when the first answer was there."""
    first = await client.send(number)
    at = time.perf_counter()
    if not first.reason:
        return first, None, at
    await asyncio.sleep(first.retry_after_s or 0)
    return first, await client.send(number), at

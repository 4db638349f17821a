"""Several processes in front of one engine: what a client sees is one server, whichever of them it reaches.

The front ends are real processes; the engine's runs in the test, so that its device can be held at a gate.
"""

import asyncio
import os
import select
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from protos.matting.v1 import matting_pb2 as pb
from server.app import fleet
from server.app.fleet import Fleet
from tests.support import clients
from tests.support.backends import PATIENCE_S, DeviceScript, counted
from tests.support.clients import STARTING_S, RunningServer, marked_png, running_server, until
from tests.support.images import disc, png
from tests.support.processes import LiveServer, live_server

FLAGS = ("--backend", "fake", "--refiner", "none", "--frontends", "2")
ALONE = {"Connection": "close"}
MANY = 60  # connections, that certainly do not all reach one of two front ends


@pytest.fixture(autouse=True)
def two_front_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(clients.DEFAULTS, "frontends", 2)


def fleet_of(server: RunningServer) -> Fleet:
    found = server.process._transports
    assert isinstance(found, Fleet)
    return found


def inside_of(server: RunningServer) -> list[int]:
    """Requests of each front end that the engine process works on."""
    return [len(member.peer._working) for member in fleet_of(server)._members.values()]


async def post_alone(server: RunningServer, image: bytes, **options: str) -> httpx.Response:
    """Over a connection of its own, so that the kernel chooses anew which front end takes it."""
    return await server.http.post("/segment", content=image, params=options, headers=ALONE)


async def fill(server: RunningServer, most: int) -> "list[asyncio.Task[httpx.Response]]":
    """Requests inside, some of each front end."""
    tasks: list[asyncio.Task[httpx.Response]] = []
    while not tasks or min(inside_of(server)) < 1 or len(tasks) < most // 2:
        assert len(tasks) < most, "one of the front ends takes nothing"
        tasks.append(asyncio.create_task(post_alone(server, marked_png(len(tasks)))))
        await server.wait_until_inside(len(tasks))
    return tasks


CASES: Sequence[dict[str, str]] = (
    {},
    {"depth": "16"},
    {"format": "npy"},
    {"output": "cutout", "format": "webp", "foreground": "original"},
    {"output": "composite", "background": "102030"},
    {"output": "trimap"},
    {"refine": "on"},
    {"refine": "on", "crop": "auto", "output": "cutout"},
)


async def test_answers_are_those_of_a_single_process_to_the_byte():
    alpha = disc(700, 900).alpha  # of which the fake device, that gives luminance, makes a matte with one edge
    image = png(np.repeat(np.rint(alpha[..., None] * 255).astype(np.uint8), 3, axis=2))

    async def ask(server: RunningServer) -> list[tuple[Any, ...]]:
        found: list[tuple[Any, ...]] = []
        for options in CASES:
            answer = await server.post(image, **options)
            assert answer.status_code == 200, answer.text
            found.append((answer.content, answer.headers.get("x-refine"), answer.headers["x-artifact"]))
        wrong = [await server.post(image[:length], output="cutout") for length in (0, 4, 500)]
        wrong += [await server.post(image, model="none"), await server.post(image, output="cutout", format="jpeg")]
        found += [(each.status_code, each.json()["code"], each.json()["detail"]) for each in wrong]
        message = await server.call(image)
        return [*found, (message.image, message.model, message.batch_size)]

    async with running_server(frontends=1) as single:
        expected = await ask(single)
    async with running_server() as server:
        assert await ask(server) == expected
        assert counted(server.metrics, "birefnet_refine_tiles_total") > 0
        stages = ("queue", "decode", "infer", "refine", "encode")
        assert all(counted(server.metrics, "birefnet_stage_seconds_count", stage=stage) for stage in stages)
    assert any(refined is not None and "tiles=0" not in refined for _, refined, _ in expected[6:8])


async def test_limits_and_counts_are_of_all_together():
    script = DeviceScript(gated=True)
    async with running_server(script, max_requests=MANY) as server:
        inside = await fill(server, MANY)
        while len(inside) < MANY:
            inside.append(asyncio.create_task(post_alone(server, marked_png(len(inside)))))
        await server.wait_until_inside(MANY)
        refused = await asyncio.gather(*(post_alone(server, marked_png(100 + n)) for n in range(20)))
        assert {(each.status_code, each.json()["reason"]) for each in refused} == {(429, "requests")}
        assert all(int(each.headers["retry-after"]) >= 1 for each in refused)
        script.open()
        assert {each.status_code for each in await asyncio.gather(*inside)} == {200}
        page = (await server.http.get("/metrics")).text.splitlines()
        assert f'birefnet_requests_total{{outcome="ok",transport="rest"}} {MANY}.0' in page
        assert 'birefnet_requests_total{outcome="overloaded",transport="rest"} 20.0' in page
        assert 'birefnet_refusals_total{reason="requests"} 20.0' in page
        assert "birefnet_requests_inside 0.0" in page
        assert sum(line.startswith("birefnet_frontend_resident_bytes{") for line in page) == 2
        assert counted(server.metrics, "birefnet_requests_total", outcome="ok", transport="rest") == MANY
    assert sum(len(batch) for batch in script.batches) == MANY


async def test_a_front_end_that_is_killed_takes_its_own_requests_along_and_no_others():
    script = DeviceScript(gated=True)
    async with running_server(script) as server:
        tasks = await fill(server, MANY)
        killed, left = fleet_of(server)._members.values()
        lost, kept = len(killed.peer._working), len(left.peer._working)
        killed.process.kill()
        await server.wait_until_inside(kept)
        await until(lambda: slots_of(killed).used == 0)
        assert slots_of(left).used > 0
        script.open()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert sum(isinstance(answer, httpx.TransportError) for answer in answers) == lost
        assert sum(isinstance(answer, httpx.Response) and answer.status_code == 200 for answer in answers) == kept
        await until(lambda: sum(member.listens for member in fleet_of(server)._members.values()) == 2, STARTING_S)
        assert killed not in fleet_of(server)._members.values()
        assert counted(server.metrics, "birefnet_frontend_ends_total") == 1
        left.process.kill()
        await until(lambda: left not in fleet_of(server)._members.values())
        assert (await post_alone(server, marked_png(7))).status_code == 200, "by the one that was started since"
        assert server.process.parts.uploads.number == 0
    assert await server.task == 0


async def test_a_front_end_that_is_being_started_when_the_server_ends_is_not_left_behind(monkeypatch):
    async def hang(*_: object) -> None:
        begun.set()
        await asyncio.Event().wait()

    begun = asyncio.Event()
    async with running_server() as server:
        monkeypatch.setattr(fleet, "connect", hang)
        before = set(children_of(os.getpid()))
        next(iter(fleet_of(server)._members.values())).process.kill()
        await asyncio.wait_for(begun.wait(), PATIENCE_S)
        (started,) = set(children_of(os.getpid())) - before
    assert started not in children_of(os.getpid())


def slots_of(member: Any) -> Any:
    return member.guest._slots


async def test_an_upload_that_a_killed_front_end_was_reading_is_counted_no_more():
    async with running_server(max_uploads=1) as server:
        _, writer = await asyncio.open_connection("127.0.0.1", server.process.port)
        writer.write(b"POST /segment HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n")
        await until(lambda: server.process.parts.uploads.number == 1)
        (member,) = (each for each in fleet_of(server)._members.values() if each.guest._open)
        member.process.kill()
        await until(lambda: server.process.parts.uploads.number == 0)
        writer.close()


async def test_who_finds_no_shared_memory_waits_and_is_answered(monkeypatch):
    monkeypatch.setattr(fleet, "_LEAST_ARENA", 1 << 20)
    script = DeviceScript(gated=True)
    slot = 512 * 512 * 7 + 512
    async with running_server(script, max_memory_inside_mib=5, max_requests=MANY) as server:
        tasks = [asyncio.create_task(post_alone(server, marked_png(n))) for n in range(20)]
        await server.wait_until_inside(20)
        await script.arrival()
        await until(lambda: all(slots_of(member).used > 0 for member in fleet_of(server)._members.values()))
        for member in fleet_of(server)._members.values():
            assert slots_of(member).used <= 2 * (slot + 64), "there is room for two in five mebibytes"
        assert server.metrics.queue_depth <= 4
        script.open()
        assert {each.status_code for each in await asyncio.gather(*tasks)} == {200}
        assert [slots_of(member).used for member in fleet_of(server)._members.values()] == [0, 0]


async def test_what_administrators_change_holds_in_every_front_end_when_they_are_told(tmp_path):
    from server.access.keys import make_key, write_row
    from tests.support.backends import fake_artifact_with_self_test

    key = make_key()
    (tmp_path / "models").mkdir()
    (tmp_path / "admins").write_text(write_row("root", key))
    for number, name in enumerate(("main", "second"), 242):
        fake_artifact_with_self_test(tmp_path / "models" / name, number)
        (tmp_path / "models" / f"{name}-source").rename(tmp_path / f"{name}-source")
    (tmp_path / "models" / "second").rename(tmp_path / "models" / "staged")
    (tmp_path / "models" / "later").mkdir()
    (tmp_path / "models" / "staged").rename(tmp_path / "models" / "later" / "second")
    files = {"models_dir": tmp_path / "models", "admin_keys_file": tmp_path / "admins"}
    script = DeviceScript(free={242, 243})
    async with running_server(script, backend="ort", refiner="none", **files) as server:
        headers = {"Authorization": f"Bearer {key}"}
        put = await server.http.put("/admin/models/extra", json={"directory": "later/second"}, headers=headers)
        listed = await asyncio.gather(*(get_alone(server, "/models") for _ in range(30)))
        assert put.status_code == 201, put.text
        assert [[model["name"] for model in each.json()["models"]] for each in listed] == [["main", "extra"]] * 30
        assert (await server.post(marked_png(5), model="extra")).status_code == 200
        states = (await server.http.get("/admin/models", headers=headers)).json()["models"]
        assert [row["name"] for row in states] == ["main", "extra"]
        shadow = {"model": "main", "shadow": "extra", "share": 1.0}
        assert (await server.http.put("/admin/shadow", json=shadow, headers=headers)).status_code == 422
        assert (await server.http.delete("/admin/models/extra", headers=headers)).status_code == 200
        listed = await asyncio.gather(*(get_alone(server, "/models") for _ in range(30)))
        assert {len(each.json()["models"]) for each in listed} == {1}


async def test_what_an_account_has_left_is_told_by_every_front_end_in_every_answer(tmp_path):
    """Whether or not the request has got to the engine process, and wherever the account has spent it."""
    from server.access.keys import make_key, write_row

    key = make_key()
    (tmp_path / "keys").write_text(write_row("lab", key, megapixels_per_minute=2))
    async with running_server(api_keys_file=tmp_path / "keys") as server:
        headers = {"Authorization": f"Bearer {key}"}
        for _ in range(2):
            answer = await server.http.post("/segment", content=marked_png(5, (1000, 1000)), headers=headers)
            assert answer.status_code == 200
        found = []
        for _ in range(20):
            found.append(await server.http.get("/models", headers=ALONE | headers))
            found.append(await server.http.post("/segment", content=b"no image", headers=ALONE | headers))
            found.append(await server.http.post("/segment", headers=ALONE | headers))
        assert {each.status_code for each in found} == {200, 415, 400}
        # One megapixel flows in within 30 seconds; less than a few of them have passed.
        left = {(each.headers["x-ratelimit-limit"], each.headers["x-ratelimit-remaining"]) for each in found}
        assert left == {("2", "0")}
        call = server.stub.Segment(pb.SegmentRequest(image=b"no image"), metadata=(("x-api-key", key),))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert ("x-ratelimit-remaining", "0") in tuple(caught.value.trailing_metadata() or ())


async def get_alone(server: RunningServer, path: str) -> httpx.Response:
    return await server.http.get(path, headers=ALONE)


def children_of(parent: int) -> list[int]:
    stats = {path: path.read_text() for path in Path("/proc").glob("[0-9]*/stat")}
    return [int(path.parent.name) for path, stat in stats.items() if int(stat.rpartition(")")[2].split()[1]) == parent]


@pytest.mark.parametrize(("signals", "code"), [((signal.SIGKILL,), -9), ((signal.SIGTERM, signal.SIGTERM), 143)])
def test_without_the_engine_process_no_front_end_lives(signals, code):
    with live_server(*FLAGS, "--drain-delay-s", "60") as live:
        children = children_of(live.process.pid)
        assert len(children) == 2
        watched = [os.pidfd_open(pid) for pid in children]
        for number in signals:
            live.signal(number)
            if len(signals) > 1 and number == signals[0]:
                live.wait_for("SIGTERM: not ready any more")
        assert live.wait() == code
        for descriptor in watched:
            ready, _, _ = select.select([descriptor], [], [], PATIENCE_S)
            assert ready, "a front end lives on"
            os.close(descriptor)


def starting_front_ends(live: LiveServer) -> list[int]:
    """As soon as there are two."""
    deadline = time.monotonic() + PATIENCE_S
    while len(children := children_of(live.process.pid)) < 2:
        assert live.process.poll() is None, live.wait_for_records()
        assert time.monotonic() < deadline, "no front end is started"
    return children


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_front_ends_that_are_just_starting_leave_signals_to_the_engine_process(number):
    with live_server(*FLAGS, listening=False) as live:
        for pid in starting_front_ends(live):
            os.kill(pid, number)
        live.wait_for("ready")
        live.signal(number)
        assert live.wait() == 0
        assert not [each for each in live.wait_for_records() if each.get("level") in ("ERROR", "CRITICAL")]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_front_ends_start_ends_them_all_and_is_no_failure(number):
    with live_server(*FLAGS, listening=False) as live:
        children = starting_front_ends(live)
        watched = [os.pidfd_open(pid) for pid in children]
        for pid in (*children, live.process.pid):
            os.kill(pid, number)
        assert live.wait() == 0
        for descriptor in watched:
            ready, _, _ = select.select([descriptor], [], [], PATIENCE_S)
            assert ready, "a front end lives on"
            os.close(descriptor)
        assert not [each for each in live.wait_for_records() if each.get("level") in ("ERROR", "CRITICAL")]


def wait_for_status(live: LiveServer, path: str, wanted: int) -> None:
    """Until a probe has that answer, whichever of two front ends is asked: over connections of their own."""
    deadline, in_a_row = time.monotonic() + PATIENCE_S, 0
    while in_a_row < 20:
        found = httpx.get(live.http + path, headers=ALONE, timeout=PATIENCE_S).status_code
        in_a_row = in_a_row + 1 if found == wanted else 0
        assert time.monotonic() < deadline, f"{path} still answers {found}"


def wait_for_health(live: LiveServer, wanted: int) -> None:
    with grpc.insecure_channel(live.grpc) as channel:
        deadline, stub = time.monotonic() + PATIENCE_S, health_pb2_grpc.HealthStub(channel)
        while stub.Check(health_pb2.HealthCheckRequest(), timeout=PATIENCE_S).status != wanted:
            assert time.monotonic() < deadline, "health still says something else"


@pytest.mark.parametrize("path", ["/readyz", pytest.param("/livez", marks=pytest.mark.slow)])
def test_an_engine_process_that_hangs_fails_the_probes_of_its_front_ends(path):
    with live_server(*FLAGS) as live:
        wait_for_status(live, path, 200)
        live.signal(signal.SIGSTOP)
        try:
            wait_for_status(live, path, 503)
            wait_for_health(live, health_pb2.HealthCheckResponse.NOT_SERVING)
        finally:
            live.signal(signal.SIGCONT)
        wait_for_status(live, path, 200)
        wait_for_health(live, health_pb2.HealthCheckResponse.SERVING)
        assert "the engine process has said nothing" in live.wait_for("not ready any more: the engine")["message"]
        live.signal()
        assert live.wait() == 0


def test_a_signal_to_the_whole_group_drains_like_one_to_the_engine_process():
    with live_server(*FLAGS) as live:
        for pid in (*children_of(live.process.pid), live.process.pid):
            os.kill(pid, signal.SIGINT)
        assert live.wait() == 0
        assert live.wait_for_records()[-1]["message"] == "drained"

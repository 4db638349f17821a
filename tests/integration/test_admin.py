"""Models are added, exchanged, removed, limited and compared over HTTP, behind keys, while both transports serve."""

import asyncio
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from protos.matting.v1 import matting_pb2 as pb
from server.access.keys import make_key, write_row
from server.app import open_pipeline
from server.app.lifecycle import serve
from server.backends.fake import FakeOptions
from server.pipeline.request import SegmentRequest
from server.settings import Settings
from tests.support.backends import DeviceScript, counted, fake_artifact_with_self_test
from tests.support.clients import RunningServer, marked_png, running_server, trailing, until

ADMIN, SHOP, WRONG = make_key(), make_key(), make_key()
FREE = {0, 240, 241, 242, 243}
ROUTES = [
    ("GET", "models"),
    ("PUT", "models/extra"),
    ("DELETE", "models/extra"),
    ("PUT", "default"),
    ("GET", "shadow"),
    ("PUT", "shadow"),
    ("DELETE", "shadow"),
    ("GET", "nothing"),
]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder of models (`main` is served, the others are not until they are added) and both files of keys."""
    staged = tmp_path / "models" / "staged"
    staged.mkdir(parents=True)
    for number, name in enumerate(("second", "third"), 240):
        fake_artifact_with_self_test(staged / name, number)
    fake_artifact_with_self_test(staged / "wrong", 242, offset=0.5)
    fake_artifact_with_self_test(tmp_path / "models" / "main", 243)
    (tmp_path / "models" / "main-source").rename(tmp_path / "source")
    (tmp_path / "admins").write_text(write_row("root", ADMIN))
    (tmp_path / "keys").write_text(write_row("shop", SHOP))
    return tmp_path


class Console:
    """An administrator's client."""

    def __init__(self, server: RunningServer) -> None:
        self.server = server

    async def __call__(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, key: str | None = ADMIN
    ) -> httpx.Response:
        headers = {"Authorization": f"Bearer {key}"} if key is not None else {}
        return await self.server.http.request(method, f"/admin/{path}", json=body, headers=headers)

    async def states(self) -> list[tuple[str, str]]:
        models = (await self("GET", "models")).json()["models"]
        return [(row["name"], row["state"]) for row in models]


@asynccontextmanager
async def admin_server(
    place: Path, script: DeviceScript | None = None, **settings: Any
) -> AsyncIterator[tuple[RunningServer, Console]]:
    script = script if script is not None else DeviceScript()
    script.free = FREE
    files = {"models_dir": place / "models", "admin_keys_file": place / "admins"}
    chosen = {"backend": "ort", "refiner": "none", **files, **settings}
    async with running_server(script, options=FakeOptions(max_batch=1), **chosen) as server:
        yield server, Console(server)


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_without_keys_of_administrators_there_is_no_such_path(method, path, place):
    for settings, status in (({}, 404), ({"api_keys_file": place / "keys"}, 401)):
        async with running_server(**settings) as server:
            response = await Console(server)(method, path, key=None)
            assert response.status_code == status
            if status == 401:
                assert (await Console(server)(method, path, key=SHOP)).status_code == 404


async def test_only_a_key_of_an_administrator_opens_it_and_it_opens_nothing_else(place):
    async with admin_server(place, api_keys_file=place / "keys") as (server, console):
        for method, path in ROUTES:
            for key in (None, WRONG, SHOP):
                response = await console(method, path, key=key)
                assert (response.status_code, response.json()["code"]) == (401, "unauthenticated"), (method, path, key)
        assert (await console("GET", "models")).status_code == 200
        assert (await console("GET", "nothing")).status_code == 404
        as_admin = {"Authorization": f"Bearer {ADMIN}"}
        refused = await server.http.post("/segment", content=marked_png(1), headers=as_admin)
        assert refused.status_code == 401
        (place / "admins").write_text(write_row("other", WRONG))
        await until_async(lambda: console("GET", "models"), 401)
        assert (await console("GET", "models", key=WRONG)).status_code == 200


async def until_async(ask: Any, status: int) -> None:
    """Until the server answers so: it reads its files again every second."""
    async with asyncio.timeout(10):
        while (await ask()).status_code != status:  # noqa: ASYNC110 - a file has no event
            await asyncio.sleep(0.05)


async def test_a_model_is_added_used_on_both_transports_and_removed(place):
    async with admin_server(place) as (server, console):
        assert await console.states() == [("main", "warm")]
        added = await console("PUT", "models/team/extra", {"directory": "staged/second", "limits": {"max_requests": 3}})
        again = await console("PUT", "models/team/extra", {"directory": "staged/second"})
        listed = (await server.http.get("/models")).json()["models"]
        rest = await server.post(marked_png(5), model="team/extra")
        message = await server.call(marked_png(6), model="team/extra")
        removed = await console("DELETE", "models/team/extra")
        gone = await server.post(marked_png(5), model="team/extra")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await server.call(marked_png(5), model="team/extra")
    artifact = added.json()["model"]["artifact"]
    assert (added.status_code, added.json()["done"]) == (201, "added")
    assert added.json()["model"]["directory"] == "staged/second"
    assert (again.status_code, again.json()["done"]) == (200, "unchanged")
    assert [model["name"] for model in listed] == ["main", "team/extra"]
    assert listed[1]["limits"]["max_requests"] == 3
    assert (rest.headers["x-model"], rest.headers["x-artifact"]) == ("team/extra", artifact)
    assert (message.model, message.artifact) == ("team/extra", artifact)
    assert (removed.status_code, removed.json()["done"]) == (200, "removed")
    assert (gone.status_code, gone.json()["code"]) == (404, "unknown-model")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_a_replacement_under_requests_on_both_transports_loses_none(place):
    script = DeviceScript(gated=True)
    async with admin_server(place, script) as (server, console):
        (before,) = (await console("GET", "models")).json()["models"]
        stream = server.stub.SegmentStream()
        early = [asyncio.create_task(server.post(marked_png(mark))) for mark in (1, 2, 3)]
        calls = [asyncio.create_task(server.call(marked_png(mark))) for mark in (4, 5, 6)]
        for mark in (7, 8):
            await stream.write(pb.SegmentRequest(image=marked_png(mark), id=str(mark)))
        await server.wait_until_waiting(7)
        replacing = asyncio.create_task(console("PUT", "models/main", {"directory": "staged/second"}))
        while not replacing.done():
            assert (await server.http.get("/readyz")).status_code == 200
            assert (await server.http.get("/livez")).status_code == 200
            script.let_pass()
            await script.arrival()
        assert ("main", "draining") in await console.states()
        script.open()
        late = await server.post(marked_png(9))
        answers, messages = await asyncio.gather(*early), await asyncio.gather(*calls)
        streamed = [(await stream.read()).answer for _ in (7, 8)]
        await stream.done_writing()
        new = replacing.result().json()["model"]["artifact"]
        await until(lambda: set(server.process.parts.engine.precisions) == {new})
        assert await console.states() == [("main", "warm")]
        shown = server.metrics.render()[0].decode()
    old = before["artifact"]
    assert replacing.result().json()["done"] == "replaced"
    assert [(answer.status_code, answer.headers["x-artifact"]) for answer in answers] == [(200, old)] * 3
    assert [message.artifact for message in (*messages, *streamed)] == [old] * 5
    assert late.headers["x-artifact"] == new
    assert f'model="{new}"' in shown
    assert f'model="{old}"' not in shown


async def test_what_cannot_be_done_is_said_and_changes_nothing(place):
    async with admin_server(place) as (server, console):
        before = (await server.post(marked_png(1))).headers["x-artifact"]
        expected = {
            ("PUT", "models/main", '{"directory": "staged/wrong"}'): (422, "model-refused", "self-test of main"),
            ("PUT", "models/main", '{"directory": "staged/none"}'): (422, "model-refused", "no such directory"),
            ("PUT", "models/main", '{"directory": "../source"}'): (422, "invalid-option", "in models_dir"),
            ("PUT", "models/main", '{"directory": "/etc"}'): (422, "invalid-option", "in models_dir"),
            ("PUT", "models/main", "{}"): (422, "invalid-option", "directory: Field required"),
            ("PUT", "models/main", "[1"): (422, "invalid-option", "body: Invalid JSON"),
            ("PUT", "models/main", '{"directory": "a", "x": 1}'): (422, "invalid-option", "x: Extra inputs"),
            ("PUT", "models/main", '{"directory": "a", "limits": {"share": 2}}'): (
                422,
                "invalid-option",
                "limits.share",
            ),
            ("PUT", "models/main", '{"directory": "a", "limits": {"max_batch": "2"}}'): (
                422,
                "invalid-option",
                "integer",
            ),
            ("PUT", "models/a%20b", '{"directory": "staged/second"}'): (422, "invalid-option", "model name"),
            ("PUT", "models/main", '"' + "a" * 70_000 + '"'): (413, "body-too-large", "at most 65536 bytes"),
            ("DELETE", "models/main", ""): (409, "conflict", "make another one the default first"),
            ("DELETE", "models/other", ""): (404, "unknown-model", "expected one of the models main"),
            ("PUT", "default", '{"model": "other"}'): (404, "unknown-model", "found 'other'"),
            ("PUT", "shadow", '{"model": "main", "shadow": "main", "share": 1}'): (422, "invalid-option", "two models"),
            ("PUT", "shadow", '{"model": "main", "shadow": "b", "share": 1}'): (404, "unknown-model", "found 'b'"),
            ("PUT", "shadow", '{"model": "main", "shadow": "b", "share": 1.5}'): (422, "invalid-option", "share"),
            ("POST", "models/main", ""): (405, "method-not-allowed", ""),
        }
        for (method, path, body), (status, code, text) in expected.items():
            headers = {"Authorization": f"Bearer {ADMIN}"}
            response = await server.http.request(method, f"/admin/{path}", content=body, headers=headers)
            problem = response.json()
            assert (response.status_code, problem["code"]) == (status, code), problem
            assert text in problem["detail"], problem
            assert str(place) not in response.text
        assert (await server.post(marked_png(1))).headers["x-artifact"] == before
        failed = [row for row in (await console("GET", "models")).json()["models"] if row["state"] == "failed"]
        assert [row["name"] for row in failed] == ["main"]
        assert (await server.http.get("/readyz")).status_code == 200


async def test_two_changes_of_one_name_at_once_conflict(place):
    script = DeviceScript(gated=True)
    async with admin_server(place, script) as (server, console):
        held = asyncio.create_task(server.post(marked_png(1)))
        await script.arrival()
        first = asyncio.create_task(console("PUT", "models/extra", {"directory": "staged/second"}))
        while ("extra", "loading") not in await console.states():
            pass
        second = await console("PUT", "models/extra", {"directory": "staged/third"})
        script.open()
        assert (second.status_code, second.json()["code"]) == (409, "conflict")
        assert (await first).status_code == 201
        assert (await held).status_code == 200


async def test_no_change_is_made_while_the_server_shuts_down(place):
    script = DeviceScript(gated=True)
    async with admin_server(place, script) as (server, console):
        held = asyncio.create_task(server.post(marked_png(1)))
        await script.arrival()
        server.process.take_signal(signal.SIGTERM)
        await until(lambda: server.process.parts.admission.draining)
        refused = await console("PUT", "models/extra", {"directory": "staged/second"})
        script.open()
        assert (await held).status_code == 200
        assert await server.task == 0
    assert (refused.status_code, refused.json()["code"]) == (503, "not-ready")
    assert "shutting down" in refused.json()["detail"]


async def test_a_change_that_is_under_way_does_not_keep_the_server_from_shutting_down(place):
    script = DeviceScript(gated=True)
    async with admin_server(place, script) as (server, console):
        held = asyncio.create_task(server.post(marked_png(1)))
        await script.arrival()
        changing = asyncio.create_task(console("PUT", "models/extra", {"directory": "staged/second"}))
        while ("extra", "loading") not in await console.states():
            pass
        server.process.take_signal(signal.SIGTERM)
        await until(lambda: server.process.parts.admission.draining)
        script.open()
        assert (await held).status_code == 200
        assert await server.task == 0
        await asyncio.gather(changing, return_exceptions=True)


async def test_one_models_limits_are_its_own_and_every_refusal_is_counted(place):
    script = DeviceScript(gated=True)
    async with admin_server(place, script) as (server, console):
        body = {"directory": "staged/second", "limits": {"max_requests": 2, "timeout_s": 20}}
        assert (await console("PUT", "models/extra", body)).status_code == 201
        inside = [asyncio.create_task(server.post(marked_png(mark), model="extra")) for mark in (1, 2)]
        await server.wait_until_inside(2)
        refused = [await server.post(marked_png(9), model="extra") for _ in range(3)]
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await server.call(marked_png(9), model="extra")
        other = asyncio.create_task(server.post(marked_png(3)))
        await server.wait_until_inside(3)
        (row,) = [row for row in (await console("GET", "models")).json()["models"] if row["name"] == "extra"]
        script.open()
        assert [(await task).status_code for task in (*inside, other)] == [200] * 3
        assert counted(server.metrics, "birefnet_refusals_total", reason="model_requests") == 4
        total = counted(server.metrics, "birefnet_requests_total", transport="rest", outcome="overloaded")
        assert total == 3
    assert [(answer.status_code, answer.json()["code"]) for answer in refused] == [(429, "overloaded")] * 3
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert int(trailing(caught.value)["retry-after"]) >= 1
    assert (row["inside"]["requests"], row["limits"]["timeout_s"]) == (2, 20)


async def test_limits_and_shadow_come_from_the_settings_too(place):
    fake_artifact_with_self_test(place / "models" / "other", 241)
    limits = ("main max_requests=1", "other timeout_s=5 share=0.5")
    async with admin_server(place, model_limits=limits, shadow_model="other", shadow_share=1.0) as (server, console):
        listed = {row["name"]: row["limits"] for row in (await server.http.get("/models")).json()["models"]}
        assert listed["main"]["max_requests"] == 1
        assert (listed["other"]["timeout_s"], listed["other"]["share"]) == (5, 0.5)
        assert (await server.post(marked_png(8))).status_code == 200
        await until(lambda: counted(server.metrics, "birefnet_shadow_images_total", outcome="compared") == 1)
        report = (await console("GET", "shadow")).json()["shadow"]
    assert (report["model"], report["shadow"], report["share"]) == ("main", "other", 1)
    assert (report["difference"]["images"], report["difference"]["mean"]) == (1, 0)


async def test_the_command_line_has_no_limits_of_clients():
    settings = Settings(backend="fake", model_limits=("fake max_requests=1",), shadow_model="fake")
    async with open_pipeline(settings) as pipeline:
        work = [pipeline.segment(SegmentRequest(marked_png(mark))) for mark in range(8)]
        assert [result.model for result in await asyncio.gather(*work)] == ["fake"] * 8


async def test_a_shadow_or_limits_of_a_model_that_is_not_served_stop_the_start(place, caplog):
    for settings in ({"shadow_model": "other"}, {"shadow_model": "fake"}, {"model_limits": ("other share=1",)}):
        assert await serve(Settings(port=0, grpc_port=0, backend="fake", **settings)) == 1
    messages = [record.getMessage() for record in caplog.records if "cannot start" in record.getMessage()]
    assert "shadow_model: expected one of the models fake, found 'other'" in messages[0]
    assert "shadow_model: expected two models, found fake twice" in messages[1]
    assert "model_limits: expected each of the models fake at most once, found other" in messages[2]


async def test_two_models_are_compared_on_live_traffic_and_then_no_more(place):
    async with admin_server(place) as (server, console):
        await console("PUT", "models/extra", {"directory": "staged/second"})
        plan = {"model": "main", "shadow": "extra", "share": 1, "threshold": 0.02}
        begun = await console("PUT", "shadow", plan)
        kept = await console("DELETE", "models/extra")
        for mark in (1, 2):
            assert (await server.post(marked_png(mark))).headers["x-model"] == "main"
        assert (await server.call(marked_png(3))).model == "main"
        await until(lambda: counted(server.metrics, "birefnet_shadow_images_total", outcome="compared") == 3)
        report = (await console("GET", "shadow")).json()["shadow"]
        ended = await console("DELETE", "shadow")
        removed = await console("DELETE", "models/extra")
    assert begun.status_code == 200
    assert (kept.status_code, kept.json()["code"]) == (409, "conflict")
    assert "shadowing of main by extra" in kept.json()["detail"]
    assert report["samples"] == {"compared": 3, "busy": 0, "failed": 0, "outdated": 0}
    assert (report["difference"]["images"], report["difference"]["mean"], report["threshold"]) == (3, 0, 0.02)
    assert ended.json() == {"shadow": None}
    assert removed.status_code == 200


async def test_the_description_has_the_paths_only_where_they_are(place):
    async with running_server() as server:
        assert not any("admin" in path for path in (await server.http.get("/openapi.json")).json()["paths"])
    async with admin_server(place) as (server, _):
        document = (await server.http.get("/openapi.json")).json()
    assert {path for path in document["paths"] if "admin" in path} == {
        "/admin/models",
        "/admin/models/{name}",
        "/admin/default",
        "/admin/shadow",
    }
    assert document["paths"]["/admin/models/{name}"]["put"]["security"]
    assert "security" not in document["paths"]["/segment"]["post"]

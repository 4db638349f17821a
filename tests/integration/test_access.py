"""API keys and rate limits over real sockets, on both transports."""

import asyncio
import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from protos.matting.v1 import matting_pb2 as pb
from server.access import KeyRing
from server.access.keys import make_key, write_row
from tests.support.backends import DeviceScript, counted
from tests.support.clients import RunningServer, marked_png, running_server, trailing, until

SHOP, LAB, WRONG = make_key(), make_key(), make_key()
IMAGE = marked_png(5)
BIG = marked_png(5, (1000, 1000))  # one megapixel
OPEN, CLOSED = (200, "ok"), (401, "unauthenticated")


@pytest.fixture
def keys(tmp_path) -> Path:
    path: Path = tmp_path / "keys"
    path.write_text(write_row("shop", SHOP) + "\n" + write_row("lab", LAB, 2))
    return path


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


async def call(server: RunningServer, key: str | None, image: bytes = IMAGE, header: str = "x-api-key"):
    metadata = () if key is None else ((header, key),)
    return await server.stub.Segment(pb.SegmentRequest(image=image), metadata=metadata)


async def refusal(call) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


async def test_a_key_opens_both_transports_and_nothing_else_does(keys):
    async with running_server(api_keys_file=keys) as server:
        for headers in (bearer(SHOP), {"X-Api-Key": SHOP}, bearer(LAB)):
            response = await server.http.post("/segment", content=IMAGE, headers=headers)
            assert response.status_code == 200, response.text
        assert (await call(server, SHOP)).media_type == "image/png"
        assert (await call(server, f"Bearer {SHOP}", header="authorization")).media_type == "image/png"
        for headers in ({}, bearer(WRONG), {"X-Api-Key": SHOP + "x"}, {**bearer(SHOP), "X-Api-Key": LAB}):
            response = await server.http.post("/segment", content=IMAGE, headers=headers)
            assert response.status_code == 401
            assert response.headers["www-authenticate"] == 'Bearer realm="birefnet-server"'
            assert response.headers["content-type"] == "application/problem+json"
            problem = response.json()
            assert (problem["code"], problem["retryable"]) == ("unauthenticated", False)
            assert problem["request_id"] == response.headers["x-request-id"]
        for key in (None, WRONG):
            error = await refusal(call(server, key))
            assert error.code() is grpc.StatusCode.UNAUTHENTICATED
            assert trailing(error)["x-error-code"] == "unauthenticated"
            assert trailing(error)["www-authenticate"].startswith("Bearer")
            assert trailing(error)["x-request-id"]
        sample = server.metrics.registry.get_sample_value
        for transport, refused in (("rest", 4), ("grpc", 2)):
            labels = {"transport": transport, "outcome": "unauthenticated"}
            assert sample("birefnet_requests_total", labels) == refused


async def test_a_stream_without_a_key_is_refused_and_counted(keys):
    async with running_server(api_keys_file=keys) as server:
        error = await refusal(server.stub.SegmentStream().read())
        labels = {"transport": "grpc", "outcome": "unauthenticated"}
        assert server.metrics.registry.get_sample_value("birefnet_requests_total", labels) == 1
    assert error.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_http_refuses_before_a_byte_of_the_body_is_there(keys):
    async with running_server(api_keys_file=keys) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.process.port)
        writer.write(b"POST /segment HTTP/1.1\r\nHost: x\r\nContent-Length: 60000000\r\nExpect: 100-continue\r\n\r\n")
        async with asyncio.timeout(10):
            answer = await reader.read()  # until it closes: what came next could not be told from the body
        writer.close()
    assert answer.startswith(b"HTTP/1.1 401 ")


async def test_grpc_refuses_before_a_message_is_there(keys):
    """A client that opens the call of one message, and never sends it."""
    silence = asyncio.Event()

    async def never():
        await silence.wait()
        yield b""

    async with running_server(api_keys_file=keys) as server:
        method: Any = server.channel.stream_unary("/matting.v1.Matting/Segment")
        async with asyncio.timeout(10):
            error = await refusal(method(never()))
    assert error.code() is grpc.StatusCode.UNAUTHENTICATED


def ring_of(server: RunningServer) -> KeyRing:
    assert server.process.gate.keys is not None
    return server.process.gate.keys


async def statuses(server: RunningServer, paths: Sequence[str], **headers: str) -> dict[str, int]:
    return {path: (await server.http.get(path, headers=headers)).status_code for path in paths}


PATHS = ("/livez", "/readyz", "/", "/docs", "/openapi.json", "/metrics", "/models", "/version", "/nothing", "/metrics/")


async def test_what_is_open_without_a_key_by_default(keys):
    async with running_server(api_keys_file=keys) as server:
        found = await statuses(server, PATHS)
        assert {path for path, status in found.items() if status == 200} == set(PATHS[:5])
        assert {found[path] for path in PATHS[5:]} == {401}
        document = (await server.http.get("/openapi.json")).json()
        assert set(document["components"]["securitySchemes"]) == {"bearer", "key"}
        known = await statuses(server, PATHS[:8], **{"X-Api-Key": SHOP})
        assert set(known.values()) == {200}
        assert await grpc_answers(server) == {"health": "ok", "reflection": "UNAUTHENTICATED"}


async def test_what_is_open_without_a_key_is_for_operators_to_say(keys):
    async with running_server(api_keys_file=keys, open_without_key=("metrics", "models", "reflection")) as server:
        found = await statuses(server, PATHS)
        assert {path for path, status in found.items() if status == 200} == set(PATHS[:2] + PATHS[5:8])
        assert (await server.post(IMAGE)).status_code == 401
        assert await grpc_answers(server) == {"health": "ok", "reflection": "OK"}


async def grpc_answers(server: RunningServer) -> dict[str, str]:
    """What health and reflection say to a client without a key."""
    health = health_pb2_grpc.HealthStub(server.channel)
    answer = await health.Check(health_pb2.HealthCheckRequest())
    found = {"health": "ok" if answer.status else ""}
    call: Any = reflection_pb2_grpc.ServerReflectionStub(server.channel).ServerReflectionInfo()
    # A refusal may come before the question is sent, or after: the status tells, not how the sending ended.
    with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
        await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
        await call.done_writing()
        await call.read()
    return {**found, "reflection": (await call.code()).name}


async def test_a_file_that_changes_holds_without_a_restart(keys):
    async with running_server(api_keys_file=keys) as server:
        new = make_key()
        keys.with_suffix(".new").write_text(write_row("shop", new))
        keys.with_suffix(".new").replace(keys)
        ring = ring_of(server)
        await until(lambda: ring.find(new.encode()) is not None)
        assert (await server.http.post("/segment", content=IMAGE, headers=bearer(new))).status_code == 200
        assert (await server.http.post("/segment", content=IMAGE, headers=bearer(SHOP))).status_code == 401


async def test_a_stream_whose_account_is_withdrawn_gets_no_more_answers(keys):
    script = DeviceScript()
    async with running_server(script, api_keys_file=keys) as server:
        stream = server.stub.SegmentStream(metadata=(("x-api-key", SHOP),))
        await stream.write(pb.SegmentRequest(image=IMAGE, id="1"))
        assert (await stream.read()).HasField("answer")
        ring = ring_of(server)
        ring.take(write_row("lab", LAB).encode())
        await stream.write(pb.SegmentRequest(image=IMAGE, id="2"))
        assert (await stream.read()).error.code == "unauthenticated"
        await stream.done_writing()
    assert script.batches == [[5]]


async def test_the_rate_limit_is_in_megapixels_told_on_every_answer_and_shared_by_both_transports(keys):
    async with running_server(api_keys_file=keys) as server:
        first = await server.http.post("/segment", content=BIG, headers=bearer(LAB))
        assert first.status_code == 200
        assert (first.headers["x-ratelimit-limit"], first.headers["x-ratelimit-remaining"]) == ("2", "1")
        assert 1 <= int(first.headers["x-ratelimit-reset"]) <= 30
        ok = server.stub.Segment(pb.SegmentRequest(image=BIG), metadata=(("x-api-key", LAB),))
        await ok
        told = {key: value for key, value in await ok.trailing_metadata() if key.startswith("x-ratelimit")}
        assert (told["x-ratelimit-limit"], told["x-ratelimit-remaining"]) == ("2", "0")
        refused = await server.http.post("/segment", content=BIG, headers=bearer(LAB))
        error = await refusal(call(server, LAB, BIG))
        unlimited = await server.http.post("/segment", content=BIG, headers=bearer(SHOP))
        models = await server.http.get("/models", headers=bearer(LAB))
        assert counted(server.metrics, "birefnet_refusals_total", reason="rate_limit") == 2
    assert refused.status_code == 429
    problem = refused.json()
    assert (problem["code"], problem["retryable"]) == ("rate-limited", True)
    # One megapixel flows in within 30 seconds; less than a few of them have passed.
    assert 20 <= int(refused.headers["retry-after"]) == problem["retry_after_s"] <= 30
    assert refused.headers["x-ratelimit-remaining"] == models.headers["x-ratelimit-remaining"] == "0"
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert trailing(error)["x-error-code"] == "rate-limited"
    assert 20 <= int(trailing(error)["retry-after"]) <= 30
    assert trailing(error)["x-ratelimit-limit"] == "2"
    assert unlimited.status_code == 200
    assert not [name for name in unlimited.headers if name.startswith("x-ratelimit")]


async def test_refused_requests_cost_nothing_and_the_servers_limit_holds_for_all_others(keys):
    script = DeviceScript(poison={66})
    async with running_server(script, api_keys_file=keys, rate_limit_megapixels=3) as server:
        for content, status in ((b"no image", 415), (marked_png(66, (1000, 1000)), 500), (BIG, 200)):
            response = await server.http.post("/segment", content=content, headers=bearer(SHOP))
            assert response.status_code == status
        assert response.headers["x-ratelimit-limit"] == "3"
        assert response.headers["x-ratelimit-remaining"] == "2"


async def test_the_log_names_the_account_and_the_requests_of_a_failed_batch(keys, caplog):
    script = DeviceScript(poison={66})
    async with running_server(script, api_keys_file=keys) as server:
        with caplog.at_level("INFO"):
            await server.http.post("/segment", content=marked_png(66), headers={**bearer(SHOP), "X-Request-Id": "abc"})
            await call(server, LAB)
    answered = [vars(record) for record in caplog.records if record.getMessage() == "request answered"]
    assert [(fields["transport"], fields["account"]) for fields in answered] == [("rest", "shop"), ("grpc", "lab")]
    (failed,) = (vars(record) for record in caplog.records if record.getMessage().startswith("batch failed"))
    assert failed["requests"] == ["abc"]


async def test_a_server_does_not_start_with_a_broken_file_of_keys(keys, caplog):
    from server.app import serve
    from server.settings import Settings

    keys.write_text(f"shop {SHOP}")
    assert await serve(Settings(port=0, grpc_port=0, backend="fake", api_keys_file=keys)) == 1
    assert "line 1: expected the hash of a key, found a key itself" in caplog.text
    assert SHOP not in caplog.text


async def test_the_end_of_watching_the_files_is_not_silent(keys, caplog, monkeypatch):
    def fail(ring: KeyRing) -> bytes:
        raise RuntimeError("no more threads")

    async with running_server(api_keys_file=keys):
        monkeypatch.setattr(KeyRing, "read", fail)
        await until(lambda: "not read again: restart the server" in caplog.text)

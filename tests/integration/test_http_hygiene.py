"""What comes over a bare socket: heads without end, smuggled requests, bodies that nobody wants, idle connections."""

import asyncio
import json

import pytest

from server.api.rest import protocol
from server.api.rest.protocol import MAX_FIELDS, MAX_HEAD_BYTES
from tests.support.backends import DeviceScript
from tests.support.clients import RunningServer, marked_png, running_server

PATIENCE_S = 20
IMAGE = marked_png(5)
POST = b"POST /segment HTTP/1.1\r\nHost: x\r\n"


async def exchange(server: RunningServer, *pieces: bytes) -> bytes:
    """Everything that the server says until it closes the connection, which it must."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.process.port)
    try:
        async with asyncio.timeout(PATIENCE_S):
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
            return await reader.read()
    finally:
        writer.close()


def problem_of(answer: bytes) -> tuple[int, dict[str, object]]:
    """The status and the problem document of the only answer."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert answer.count(b"HTTP/1.1 ") == 1
    assert b"content-type: application/problem+json" in head
    assert b"connection: close" in head
    return int(head.split()[1]), json.loads(body)


UPGRADE = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
SMUGGLED = b"0\r\n\r\nGET /version HTTP/1.1\r\nHost: x\r\n\r\n"
BROKEN = {
    "length and chunks": POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n" + SMUGGLED,
    "chunks and length": POST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n" + SMUGGLED,
    "two lengths": POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
    "length with a sign": POST + b"Content-Length: +5\r\n\r\nhello",
    "space before the colon": POST + b"Content-Length : 5\r\n\r\nhello",
    "unknown coding": POST + b"Transfer-Encoding: xchunked\r\n\r\n" + SMUGGLED,
    "chunked is not last": POST + b"Transfer-Encoding: chunked, identity\r\n\r\n" + SMUGGLED,
    "folded header": POST + b"A: b\r\n c\r\n\r\n",
    "bare line feeds": b"GET /version HTTP/1.1\nHost: x\n\n",
    "zero byte": b"GET /version HTTP/1.1\r\nHost: x\r\nA: b\0c\r\n\r\n",
    "no host": b"GET /version HTTP/1.1\r\n\r\n",
    "two hosts": b"GET /version HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "upgrade and a length": POST + UPGRADE + b"Content-Length: 5\r\n\r\nhello",
    "upgrade and chunks": POST + UPGRADE + b"Transfer-Encoding: chunked\r\n\r\n" + SMUGGLED,
    "http/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "tls": bytes.fromhex("160301020001000 1fc0303".replace(" ", "")) + bytes(100),
}


@pytest.fixture(scope="module")
def answers() -> dict[str, bytes]:
    async def ask() -> dict[str, bytes]:
        async with running_server() as server:
            return {name: await exchange(server, request) for name, request in BROKEN.items()}

    return asyncio.run(ask())


@pytest.mark.parametrize("name", BROKEN)
def test_what_two_servers_could_read_differently_is_refused_and_the_connection_closed(answers, name):
    status, problem = problem_of(answers[name])
    assert (status, problem["code"]) == (400, "bad-request")


HUGE: dict[str, tuple[bytes, ...]] = {
    "target": (b"GET /" + b"a" * MAX_HEAD_BYTES + b" HTTP/1.1\r\nHost: x\r\n\r\n",),
    "value": (POST + b"A: " + b"b" * MAX_HEAD_BYTES + b"\r\n\r\n",),
    "count": (POST + b"A: b\r\n" * MAX_FIELDS + b"\r\n",),
    # Headers that never end: none of these pieces is a whole one.
    "endless value": (POST + b"A: ", *[b"b" * 8000] * 5),
    "endless target": (b"GET /", *[b"a" * 8000] * 5),
    "endless count": (POST, *[b"A: b\r\n" * 10] * 11),
}


async def test_heads_beyond_the_limits_are_refused():
    async with running_server() as server:
        for name, pieces in HUGE.items():
            status, problem = problem_of(await exchange(server, *pieces))
            assert (name, status, problem["code"]) == (name, 431, "request-header-fields-too-large")
            assert "32768 bytes and 100 headers" in str(problem["detail"])
        assert (await server.post(IMAGE)).status_code == 200


async def test_an_offer_to_upgrade_without_a_body_is_passed_over(caplog):
    get = b"GET /livez HTTP/1.1\r\nHost: x\r\n" + UPGRADE
    async with running_server(keep_alive_s=1) as server:
        answers = [await exchange(server, get + rest + b"\r\n") for rest in (b"", b"Content-Length: 0\r\n")]
    assert all(answer.startswith(b"HTTP/1.1 200 ") and answer.endswith(b"live\n") for answer in answers)
    assert "upgrade" not in caplog.text


async def test_a_large_head_within_the_limits_is_served():
    headers = {f"X-{number}": "y" * 300 for number in range(90)}
    async with running_server() as server:
        assert (await server.http.post("/segment", content=IMAGE, headers=headers)).status_code == 200


async def test_a_head_that_does_not_end_is_answered_after_a_while(monkeypatch):
    monkeypatch.setattr(protocol, "HEAD_S", 0.1)
    async with running_server() as server:
        status, problem = problem_of(await exchange(server, POST))
    assert (status, problem["code"]) == (408, "request-timeout")


async def test_after_a_refusal_nothing_is_taken_for_the_body_that_the_client_kept_back():
    """It asked before it sent its body, was refused, and goes on with its next request: that would be swallowed."""
    asking = POST + b"Expect: 100-continue\r\nContent-Length: %d\r\n" % len(IMAGE)
    async with running_server() as server:
        refused = await exchange(server, asking + b"Content-Encoding: gzip\r\n\r\n")
        answered = await exchange(server, asking + b"Connection: close\r\n\r\n", IMAGE)
    assert problem_of(refused)[0] == 400
    assert answered.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n")


async def test_the_rest_of_a_refused_body_is_not_awaited_for_ever(monkeypatch):
    monkeypatch.setattr(protocol, "LINGER_S", 0.1)
    async with running_server(max_upload_mib=0.01) as server:
        answer = await exchange(server, POST + b"Content-Length: 60000000\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 413 ")


async def test_idle_connections_are_closed_after_the_keep_alive_time():
    async with running_server(keep_alive_s=1) as server:
        sent = (b"", b"\r\n", b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        silent, blank, answered = await asyncio.gather(*(exchange(server, piece) for piece in sent))
    assert silent == blank == b""
    assert answered.endswith(b"live\n")


async def test_a_broken_second_request_is_not_answered_in_the_place_of_the_first():
    script = DeviceScript(gated=True)
    async with running_server(script) as server:
        first = POST + b"Content-Length: %d\r\n\r\n" % len(IMAGE) + IMAGE
        assert await exchange(server, first, b"no request at all\r\n\r\n") == b""
        script.open()


async def test_answers_carry_what_browsers_and_caches_should_know_and_no_banner():
    async with running_server() as server:
        answers = [await server.post(IMAGE), await server.http.get("/nothing"), await server.http.get("/")]
    for answer in answers:
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert not {"server", "x-powered-by", "access-control-allow-origin"} & set(answer.headers)
    assert "frame-ancestors 'none'" in answers[2].headers["content-security-policy"]

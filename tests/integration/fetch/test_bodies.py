"""What comes back is the whole body, or an error that does not quote it."""

import gzip
import logging

import pytest

from server.errors import OverloadedError, ServerError, UrlFetchFailedError, UrlTooLargeError
from server.observability.metrics import Metrics
from tests.support.backends import PATIENCE_S, counted
from tests.support.clients import until
from tests.support.fetching import BODY, fail, make_fetcher
from tests.support.origin import Visit, redirect, response, running_origin


async def test_a_body_comes_whole_and_only_what_is_needed_is_said():
    metrics = Metrics()
    async with running_origin({"/image": response(BODY)}) as origin:
        assert await make_fetcher(metrics=metrics).fetch(origin.url("/image?key=a%2Fb#part"), PATIENCE_S) == BODY
    (visit,) = origin.visits
    assert visit.line == "GET /image?key=a%2Fb HTTP/1.1"
    assert visit.headers.keys() == {"host", "user-agent", "accept", "accept-encoding", "connection"}
    assert visit.headers["host"] == f"127.0.0.1:{origin.port}"
    assert visit.headers["accept-encoding"] == "identity"
    assert visit.headers["user-agent"].startswith("birefnet-server/")
    assert counted(metrics, "birefnet_fetches_total", outcome="ok") == 1
    assert counted(metrics, "birefnet_fetch_bytes_total") == len(BODY)
    assert counted(metrics, "birefnet_fetch_seconds_count") == 1


async def test_chunks_are_put_together():
    chunks = b"".join(b"%x\r\n%s\r\n" % (700, BODY[start : start + 700]) for start in range(0, 1400, 700))
    raw = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"
    async with running_origin({"/image": raw}) as origin:
        assert await make_fetcher().fetch(origin.url(), PATIENCE_S) == BODY[:1400]


async def test_every_piece_is_counted_before_it_is_kept_and_the_count_may_end_it():
    counts: list[int] = []

    def count(size: int) -> None:
        counts.append(size)
        if sum(counts) > 5000:
            raise OverloadedError("no more room")

    metrics = Metrics()
    async with running_origin({"/image": endless, "/small": response(BODY)}) as origin:
        assert await make_fetcher().fetch(origin.url("/small"), PATIENCE_S, "", count) == BODY
        assert sum(counts) == len(BODY)
        with pytest.raises(OverloadedError, match=r"^no more room$"):
            await make_fetcher(metrics=metrics).fetch(origin.url(), PATIENCE_S, "", count)
        await until(lambda: origin.closed == 2)
    assert counted(metrics, "birefnet_fetches_total", outcome="overloaded") == 1


async def test_proxies_of_the_environment_are_not_asked(monkeypatch):
    async with running_origin() as proxy, running_origin({"/image": response(BODY)}) as origin:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        monkeypatch.delenv("NO_PROXY", raising=False)
        assert await make_fetcher().fetch(origin.url(), PATIENCE_S) == BODY
    assert proxy.visits == []


# Answers that are no image, none of which may be handed on, nor quoted.
BROKEN: dict[str, tuple[bytes, str]] = {
    "404": (response(b"secret", status="404 secret"), "expected the status 200, found 404"),
    "500": (response(b"secret", status="500 secret"), "found 500"),
    "204": (b"HTTP/1.1 204 secret\r\n\r\n", "found 204"),
    "206": (response(BODY, "Content-Range: bytes 0-9/99", status="206 secret"), "found 206"),
    "304": (response(b"", status="304 secret"), "found 304"),
    "redirect to nowhere": (response(b"secret", status="302 secret"), "found 302"),
    "short": (b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nsecret", "breaks off"),
    "no body": (b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n", "breaks off"),
    "cut chunks": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nsecret\r\n", "breaks off"),
    "cut chunk": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nsecret", "breaks off"),
    "until the end": (b"HTTP/1.1 200 OK\r\n\r\nsecret", "expected a Content-Length or chunks"),
    "HTTP/1.0": (b"HTTP/1.0 200 OK\r\n\r\nsecret", "expected a Content-Length or chunks"),
    "gzip": (response(gzip.compress(b"secret"), "Content-Encoding: gzip"), "without Content-Encoding"),
    "101": (b"HTTP/1.1 101 Switching\r\nUpgrade: secret\r\nConnection: upgrade\r\n\r\n", "malformed"),
    "endless length": (b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\nsecret", "malformed"),
    "two lengths": (b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nContent-Length: 3\r\n\r\nsecret", "malformed"),
    "negative length": (b"HTTP/1.1 200 OK\r\nContent-Length: -6\r\n\r\nsecret", "malformed"),
    "gzip in transfer": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nsecret", "malformed"),
    "no HTTP": (b"secret\r\n\r\n", "malformed"),
    "nothing": (b"", "breaks off"),
    "endless headers": (b"HTTP/1.1 200 OK\r\n" + b"Secret: secret\r\n" * 20_000 + b"\r\n", "malformed"),
    "bytes in a redirect": (
        b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: http://\xff\xfe\r\n\r\n",
        "found other bytes",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
async def test_the_whole_body_or_an_error_that_does_not_quote_it(name: str):
    raw, hint = BROKEN[name]
    async with running_origin({"/image": raw}) as origin:
        detail = await fail(origin, UrlFetchFailedError)
    assert detail.startswith("image_url: expected")
    assert hint in detail
    assert "secret" not in detail


async def test_a_connection_that_is_reset_is_an_error():
    async def reset(visit: Visit) -> None:
        await visit.send(response(BODY)[:-5])
        visit.reset()

    async with running_origin({"/image": reset}) as origin:
        assert "breaks off" in await fail(origin, UrlFetchFailedError)


async def test_nobody_listening_is_an_error():
    async with running_origin() as origin:
        pass
    assert "expected a connection" in await fail(origin, UrlFetchFailedError)


async def endless(visit: Visit) -> None:
    """A body without end, in chunks."""
    await visit.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        await visit.send(b"400\r\n" + bytes(1024) + b"\r\n")


async def test_an_endless_body_is_cut_at_the_limit():
    async with running_origin({"/image": endless}) as origin:
        assert "at most 10000 bytes" in await fail(origin, UrlTooLargeError)


async def test_a_body_that_announces_too_much_is_not_read():
    async def announce(visit: Visit) -> None:
        await visit.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10001\r\n\r\n")
        await visit.wait_until_closed()

    async with running_origin({"/image": announce}) as origin:
        assert "found 10001 or more" in await fail(origin, UrlTooLargeError)


async def test_the_limit_itself_is_allowed_and_a_length_that_lies_is_not_believed():
    lying = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n" + BODY
    async with running_origin({"/image": response(bytes(10_000)), "/lying": lying}) as origin:
        assert await make_fetcher().fetch(origin.url(), PATIENCE_S) == bytes(10_000)
        assert await make_fetcher().fetch(origin.url("/lying"), PATIENCE_S) == BODY[:5]


async def test_crumbs_are_refused_before_they_cost_much():
    """Each piece costs time in the event loop, so a body of single bytes is an attack."""
    crumbs = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 9000 + b"0\r\n\r\n"
    async with running_origin({"/image": crumbs}) as origin:
        assert "found 1027 smaller ones" in await fail(origin, UrlFetchFailedError)


async def test_logs_name_the_host_and_no_secret(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.DEBUG)
    routes = {
        "/secret-path": redirect("/secret-location?secret-signature"),
        "/secret-location": response(BODY, "Set-Cookie: secret-cookie"),
    }
    async with running_origin(routes) as origin:
        await make_fetcher().fetch(origin.url("/secret-path?secret-key"), PATIENCE_S)
        for text in (origin.url("/secret-gone"), f"http://secret-user@127.0.0.1:{origin.port}/", "secret:nothing"):
            with pytest.raises(ServerError):
                await make_fetcher().fetch(text, PATIENCE_S)
    ours = [record for record in caplog.records if record.name == "server.fetch.fetcher"]
    found = [(vars(record)["host"], vars(record)["outcome"]) for record in ours]
    assert found == [
        ("127.0.0.1", "ok"),
        ("127.0.0.1", "url-fetch-failed"),
        ("", "url-not-allowed"),
        ("", "url-not-allowed"),
    ]
    assert not any("secret" in str(vars(record)) for record in caplog.records)

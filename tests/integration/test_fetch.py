"""Fetching from a real server that misbehaves, over real sockets; only names are resolved by the test."""

import asyncio
import gzip
import logging
import ssl
from collections.abc import Iterator, Sequence
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
import trustme

from server.errors import (
    DeadlineExceededError,
    OverloadedError,
    ServerError,
    UrlFetchFailedError,
    UrlNotAllowedError,
    UrlTimeoutError,
    UrlTooLargeError,
)
from server.fetch import exchange
from server.fetch.addresses import Address, AddressPolicy
from server.fetch.fetcher import MAX_REDIRECTS, Fetcher, FetchLimits
from server.fetch.resolver import SystemResolver
from server.observability.metrics import Metrics
from tests.support.backends import PATIENCE_S, counted
from tests.support.clients import until
from tests.support.origin import Origin, Visit, redirect, response, running_origin

BODY = bytes(range(256)) * 8
PUBLIC = "93.184.215.14"  # never connected to: only answers that must be refused name it
LOCAL = AddressPolicy(allow=(ip_network("127.0.0.1/32"),))


@pytest.fixture(scope="module", autouse=True)
def few_authorities(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One public authority instead of 150, which take a tenth of a second to load, seventy times."""
    path = tmp_path_factory.mktemp("authorities") / "public.pem"
    trustme.CA().cert_pem.write_to_path(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("certifi.where", lambda: str(path))
        yield


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


@pytest.mark.parametrize("status", ["301 x", "302 x", "303 x", "307 x", "308 x"])
async def test_redirects_are_followed(status: str):
    routes = {"/image": redirect("../there?a=b", status), "/there": response(BODY)}
    async with running_origin(routes) as origin:
        assert await make_fetcher().fetch(origin.url(), PATIENCE_S) == BODY
    assert [visit.line.split(" ")[1] for visit in origin.visits] == ["/image", "/there?a=b"]


async def test_redirects_go_on_for_so_long_and_no_longer():
    async with running_origin({"/image": redirect("/image")}) as origin:
        detail = await fail(origin, UrlFetchFailedError)
    assert detail == f"image_url, redirect {MAX_REDIRECTS}: expected no further redirect, found one"
    assert len(origin.visits) == MAX_REDIRECTS + 1


@pytest.mark.parametrize(
    ("location", "hint"),
    [
        ("http://169.254.169.254/latest/meta-data/", "public addresses"),
        ("http://[fd00:ec2::254]/", "public addresses"),
        ("http://[::ffff:127.0.0.1]/", "public addresses"),
        ("http://0.0.0.0/", "public addresses"),
        ("http://127.0.0.2/", "public addresses"),
        ("http://inside.test/", "public addresses"),
        ("http://gone.test/", "public addresses"),
        ("http://2130706433/", "four decimal"),
        ("http://user:pw@127.0.0.1/", "user name"),
        ("file:///etc/passwd", "scheme"),
    ],
)
async def test_every_redirect_is_checked_like_the_first_url(location: str, hint: str):
    names = Names(inside_test=[["10.0.0.7"]])
    async with running_origin({"/image": redirect(location)}) as origin:
        detail = await fail(origin, UrlNotAllowedError, names=names)
    assert detail.startswith("image_url, redirect 1: expected")
    assert hint in detail
    assert len(origin.visits) == 1


async def test_ports_that_are_not_set_are_refused_first_and_in_redirects():
    async with running_origin() as other, running_origin({"/image": redirect(other.url())}) as origin:
        with pytest.raises(UrlNotAllowedError, match="expected the port 80 or 443, found"):
            await make_fetcher(ports=(80, 443)).fetch(origin.url(), PATIENCE_S)
        assert origin.visits == []
        with pytest.raises(
            UrlNotAllowedError, match=f"redirect 1: expected the port {origin.port}, found {other.port}"
        ):
            await make_fetcher(ports=(origin.port,)).fetch(origin.url(), PATIENCE_S)
        assert len(origin.visits) == 1
    assert other.visits == []


async def test_a_name_is_resolved_once_and_the_checked_address_is_connected_to():
    """DNS rebinding: what a second question would answer does not matter, for it is not asked."""
    names = Names(rebind_test=[["127.0.0.1"], ["10.0.0.1"]])
    async with running_origin({"/image": response(BODY)}) as origin:
        assert await make_fetcher(names).fetch(origin.url(host="rebind.test"), PATIENCE_S) == BODY
        assert names.asked == ["rebind.test"]
        assert origin.visits[0].headers["host"] == f"rebind.test:{origin.port}"
        # A connection is not kept, so the next request asks and checks anew.
        with pytest.raises(UrlNotAllowedError):
            await make_fetcher(names).fetch(origin.url(host="rebind.test"), PATIENCE_S)
    assert len(origin.visits) == 1


@pytest.mark.parametrize("answer", [["127.0.0.1", "10.0.0.1"], [PUBLIC, "169.254.169.254"], ["::1", "127.0.0.1"], []])
async def test_one_bad_address_spoils_all_and_looks_like_a_name_that_does_not_exist(answer: list[str]):
    async with running_origin({"/image": response(BODY)}) as origin:
        detail = await fail_by_name(origin, Names(mixed_test=[answer]), "mixed.test")
        assert detail == await fail_by_name(origin, Names(), "gone.test")
    assert detail == ("image_url: expected a host with public addresses and no others, found one that is not public")
    assert origin.visits == []


async def fail_by_name(origin: Origin, names: Names, host: str) -> str:
    with pytest.raises(UrlNotAllowedError) as caught:
        await make_fetcher(names).fetch(origin.url(host=host), PATIENCE_S)
    return caught.value.detail


async def test_the_next_address_is_tried_when_one_does_not_answer():
    names = Names(two_test=[["127.0.0.2", "127.0.0.1"]])  # the server listens on the second one only
    policy = AddressPolicy(allow=(ip_network("127.0.0.0/8"),))
    async with running_origin({"/image": response(BODY)}) as origin:
        assert await make_fetcher(names, addresses=policy).fetch(origin.url(host="two.test"), PATIENCE_S) == BODY


async def test_the_system_knows_names_and_says_nothing_of_those_it_does_not():
    resolver = SystemResolver(1)
    addresses = await resolver.resolve("localhost", 80)
    assert ip_address("127.0.0.1") in addresses
    assert len(set(addresses)) == len(addresses)
    resolver.close()
    async with running_origin({"/image": response(BODY)}) as origin:
        fetcher = Fetcher(FetchLimits(ports=(0,)), Metrics())
        with pytest.raises(UrlNotAllowedError):
            await fetcher.fetch(origin.url(host="localhost"), PATIENCE_S)
        fetcher.close()
    assert origin.visits == []


async def drip(visit: Visit) -> None:
    """A byte at a time, each of them in time."""
    await visit.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n")
    while not visit.writer.is_closing():
        await visit.send(b"x")
        await asyncio.sleep(0.005)


async def hang(visit: Visit) -> None:
    await visit.wait_until_closed()


async def drip_headers(visit: Visit) -> None:
    await visit.send(b"HTTP/1.1 200 OK\r\n")
    while not visit.writer.is_closing():
        await visit.send(b"X: y\r\n")
        await asyncio.sleep(0.005)


async def interim(visit: Visit) -> None:
    while not visit.writer.is_closing():
        await visit.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        await asyncio.sleep(0.005)


@pytest.mark.parametrize("behaviour", [drip, drip_headers, hang, interim])
async def test_the_limit_of_time_is_of_the_whole(behaviour):
    metrics = Metrics()
    async with running_origin({"/image": behaviour}) as origin:
        detail = await fail(origin, UrlTimeoutError, timeout_s=0.2, metrics=metrics)
        assert detail == "image_url: expected the whole image within 0.2 s"
        # What is left of the request's own time is the nearer limit here.
        with pytest.raises(DeadlineExceededError, match="while the image was being fetched") as caught:
            await make_fetcher(metrics=metrics).fetch(origin.url(), 0.1)
        await until(lambda: origin.closed == origin.opened)
    assert type(caught.value) is DeadlineExceededError
    assert counted(metrics, "birefnet_fetches_total", outcome="url-timeout") == 1
    assert counted(metrics, "birefnet_fetches_total", outcome="deadline-exceeded") == 1


async def test_silence_has_a_limit_of_its_own(monkeypatch):
    monkeypatch.setattr(exchange, "_SILENCE_S", 0.05)
    async with running_origin({"/image": hang}) as origin:
        assert "expected bytes every 0.05 s" in await fail(origin, UrlTimeoutError)


async def test_redirects_share_the_time():
    async def later(visit: Visit) -> None:
        await asyncio.sleep(0.1)
        await visit.send(redirect("/image"))

    # All of them together take 0.6 s, each alone less than the limit.
    async with running_origin({"/image": later}) as origin:
        await fail(origin, UrlTimeoutError, timeout_s=0.4)


@pytest.mark.parametrize("behaviour", [drip, drip_headers, hang])
async def test_cancelling_closes_the_connection(behaviour):
    metrics = Metrics()
    fetcher = make_fetcher(metrics=metrics)
    async with running_origin({"/image": behaviour}) as origin:
        task = asyncio.create_task(fetcher.fetch(origin.url(), PATIENCE_S))
        await origin.arrival()
        assert fetcher.places.running == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: origin.closed == 1)
    assert fetcher.places.running == 0
    assert counted(metrics, "birefnet_fetches_total", outcome="cancelled") == 1


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def tls_of(authority: trustme.CA, *names: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names).configure_cert(context)
    return context


@pytest.fixture
def ca_file(authority: trustme.CA, tmp_path: Path) -> Path:
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(path)
    return path


async def test_https_is_verified_for_the_name_though_the_address_is_pinned(authority: trustme.CA, ca_file: Path):
    names = Names(images_test=[["127.0.0.1"]], other_test=[["127.0.0.1"]], **{"xn--0_a_b_test": [["127.0.0.1"]]})
    asked: list[str | None] = []
    context = tls_of(authority, "images.test")
    context.sni_callback = lambda _connection, name, _context: asked.append(name)
    async with running_origin({"/image": response(BODY)}, context) as origin:
        fetcher = make_fetcher(names, ca_file=ca_file)
        assert await fetcher.fetch(origin.url(host="images.test", scheme="https"), PATIENCE_S) == BODY
        assert asked == ["images.test"]
        for host in ("other.test", "xn--0.a.b.test", "127.0.0.1"):
            with pytest.raises(UrlFetchFailedError, match="expected a certificate that is valid for the host"):
                await fetcher.fetch(origin.url(host=host, scheme="https"), PATIENCE_S)
        with pytest.raises(UrlFetchFailedError, match="expected a certificate"):  # our authority is not everybody's
            await make_fetcher(names).fetch(origin.url(host="images.test", scheme="https"), PATIENCE_S)
    assert len(origin.visits) == 1


async def test_https_by_address_is_verified_too(authority: trustme.CA, ca_file: Path):
    async with running_origin({"/image": response(BODY)}, tls_of(authority, "127.0.0.1")) as origin:
        assert await make_fetcher(ca_file=ca_file).fetch(origin.url(scheme="https"), PATIENCE_S) == BODY


async def test_https_does_not_lead_back_to_http(authority: trustme.CA, ca_file: Path):
    async with running_origin({"/image": response(BODY)}) as plain:
        routes = {"/image": redirect(plain.url())}
        async with running_origin(routes, tls_of(authority, "127.0.0.1")) as origin:
            with pytest.raises(UrlNotAllowedError, match="redirect 1: expected https after https"):
                await make_fetcher(ca_file=ca_file).fetch(origin.url(scheme="https"), PATIENCE_S)
    assert plain.visits == []


async def test_a_handshake_that_hangs_is_cancelled_and_closed():
    """httpcore alone would forget the connection here."""
    ended = asyncio.Event()
    greeted = asyncio.Event()

    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1000):
            greeted.set()
        ended.set()
        writer.close()

    server = await asyncio.start_server(swallow, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    task = asyncio.create_task(make_fetcher().fetch(f"https://127.0.0.1:{port}/", PATIENCE_S))
    async with asyncio.timeout(PATIENCE_S):
        await greeted.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await ended.wait()
        server.close()
        await server.wait_closed()


async def test_plain_http_where_https_is_expected_is_an_error():
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(response(BODY))
        await reader.read()
        writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with pytest.raises(UrlFetchFailedError, match="expected a connection"):
        await make_fetcher().fetch(f"https://127.0.0.1:{port}/", PATIENCE_S)
    server.close()
    await server.wait_closed()


@pytest.mark.parametrize("content", [None, b"no certificate"])
def test_a_file_of_certificates_that_cannot_be_used_is_named(tmp_path: Path, content: bytes | None):
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(OSError, match=r"url_ca_file: expected certificates in PEM in .*ca\.pem, found"):
        make_fetcher(ca_file=path)


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

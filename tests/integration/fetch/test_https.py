"""Certificates are verified, for the name and with the authorities that are set."""

import asyncio
import ssl
from pathlib import Path

import pytest
import trustme

from server.errors import UrlFetchFailedError, UrlNotAllowedError
from tests.support.backends import PATIENCE_S
from tests.support.fetching import BODY, Names, make_fetcher
from tests.support.origin import redirect, response, running_origin


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

"""TLS and mutual TLS on both ports, with certificates that change while the server runs."""

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from protos.matting.v1 import matting_pb2 as pb
from protos.matting.v1 import matting_pb2_grpc
from server.access.keys import make_key, write_row
from server.api.certificates import CertificateFiles, Certificates, CertificatesError
from server.app import serve
from server.settings import Settings
from tests.support.certificates import Authority
from tests.support.clients import RunningServer, marked_png, running_server, until

IMAGE = marked_png(5)
KEY = make_key()


@pytest.fixture
def authority(tmp_path) -> Authority:
    return Authority(tmp_path)


@asynccontextmanager
async def tls_server(authority: Authority, **settings: Any) -> AsyncIterator[RunningServer]:
    certificate, key = authority.issue("server")
    async with running_server(tls_certificate=certificate, tls_key=key, **settings) as server:
        yield server


def client_context(authority: Authority, pair: tuple[Path, Path] | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(authority.certificate))
    if pair is not None:
        context.load_cert_chain(*pair)
    return context


def https(server: RunningServer, context: ssl.SSLContext) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=f"https://127.0.0.1:{server.process.port}", verify=context, timeout=30)


async def call(
    server: RunningServer, authority: Authority, pair: tuple[Path, Path] | None = None, key: str = ""
) -> pb.SegmentResponse:
    """One image over gRPC, on a connection of its own."""
    private, chain = (pair[1].read_bytes(), pair[0].read_bytes()) if pair is not None else (None, None)
    credentials = grpc.ssl_channel_credentials(authority.certificate.read_bytes(), private, chain)
    options = (("grpc.use_local_subchannel_pool", 1),)
    async with grpc.aio.secure_channel(f"localhost:{server.process.grpc_port}", credentials, options) as channel:
        stub: Any = matting_pb2_grpc.MattingStub(channel)
        answer: pb.SegmentResponse = await stub.Segment(
            pb.SegmentRequest(image=IMAGE), metadata=(("x-api-key", key),), timeout=30
        )
        return answer


async def shown_certificate(port: int, context: ssl.SSLContext) -> bytes:
    """What a server proves itself with, as DER, over a connection of its own."""
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    shown: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    return shown


def der(path: Path) -> bytes:
    return ssl.PEM_cert_to_DER_cert(path.read_text())


async def test_both_transports_answer_over_tls_and_not_without(authority, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text(write_row("shop", KEY))
    async with tls_server(authority, api_keys_file=keys) as server:
        async with https(server, client_context(authority)) as client:
            answer = await client.post("/segment", content=IMAGE, headers={"X-Api-Key": KEY})
            assert answer.status_code == 200
            assert (await client.post("/segment", content=IMAGE)).status_code == 401
        assert (await call(server, authority, key=KEY)).image == answer.content
        with pytest.raises(httpx.HTTPError):
            await server.http.get("/livez")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await server.call(IMAGE)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_tls_is_at_least_1_2_on_both_ports(authority):
    least, old = client_context(authority), client_context(authority)
    least.maximum_version = ssl.TLSVersion.TLSv1_2
    old.set_ciphers("DEFAULT:@SECLEVEL=0")  # else the client itself refuses, before the server can
    with pytest.warns(DeprecationWarning, match="TLSv1"):
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    async with tls_server(authority) as server:
        for port in (server.process.port, server.process.grpc_port):
            assert await shown_certificate(port, least)
            with pytest.raises(OSError) as caught:  # noqa: PT011 - one of two, below
                await shown_certificate(port, old)
            # Both come from the server: uvloop says why, gRPC hangs up.
            assert isinstance(caught.value, ConnectionResetError) or "ALERT_PROTOCOL_VERSION" in str(caught.value)


async def test_mutual_tls_lets_in_who_has_a_certificate_and_probes(authority, tmp_path):
    folder = tmp_path / "foreign"
    folder.mkdir()
    stranger = Authority(folder).issue("stranger")
    friend = authority.issue("friend")
    async with tls_server(authority, tls_client_ca=authority.certificate) as server:
        async with https(server, client_context(authority, friend)) as client:
            assert (await client.post("/segment", content=IMAGE)).status_code == 200
        async with https(server, client_context(authority)) as client:
            assert (await client.get("/readyz")).status_code == 200
            for path in ("/", "/metrics", "/models", "/nothing"):
                refused = await client.get(path)
                assert (refused.status_code, refused.json()["code"]) == (401, "unauthenticated")
            assert "client certificate" in (await client.post("/segment", content=IMAGE)).json()["detail"]
        async with https(server, client_context(authority, stranger)) as client:
            with pytest.raises(httpx.HTTPError):
                await client.get("/readyz")
        assert (await call(server, authority, friend)).media_type == "image/png"
        for pair in (None, stranger):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(server, authority, pair)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_renewed_certificate_holds_for_new_connections_and_a_broken_one_for_none(authority, caplog):
    async with tls_server(authority) as server:
        ports = (server.process.port, server.process.grpc_port)
        async with https(server, client_context(authority)) as client:
            assert (await client.get("/livez")).status_code == 200
            with caplog.at_level(logging.INFO):
                renewed, key = authority.issue("server")
                await until(lambda: "TLS certificate read anew" in caplog.text)
            assert [await shown_certificate(port, client_context(authority)) for port in ports] == [der(renewed)] * 2
            good = der(renewed)
            renewed.write_bytes(key.read_bytes())
            await until(lambda: "the TLS certificate stays as it was" in caplog.text)
            assert [await shown_certificate(port, client_context(authority)) for port in ports] == [good] * 2
            assert (await client.get("/livez")).status_code == 200  # on its old connection
        assert "PRIVATE KEY" not in caplog.text


async def test_the_authority_of_clients_can_change_too(authority, tmp_path, caplog):
    folder = tmp_path / "other"
    folder.mkdir()
    other = Authority(folder)
    old, new = authority.issue("friend"), other.issue("friend")
    trusted = tmp_path / "trusted.crt"
    trusted.write_bytes(authority.certificate.read_bytes())
    async with tls_server(authority, tls_client_ca=trusted) as server:
        assert (await call(server, authority, old)).media_type == "image/png"
        with caplog.at_level(logging.INFO):
            trusted.write_bytes(other.certificate.read_bytes())
            await until(lambda: "TLS certificate read anew" in caplog.text)
        async with https(server, client_context(authority, new)) as client:
            assert (await client.get("/models")).status_code == 200
        assert (await call(server, authority, new)).media_type == "image/png"
        async with https(server, client_context(authority, old)) as client:
            with pytest.raises(httpx.HTTPError):
                await client.get("/models")
        with pytest.raises(grpc.aio.AioRpcError):
            await call(server, authority, old)


@pytest.mark.parametrize("broken", ["missing", "mixed", "text", "binary", "encrypted"])
async def test_a_server_does_not_start_with_files_that_cannot_be_used(authority, tmp_path, broken, caplog):
    certificate, key = authority.issue("server")
    if broken == "missing":
        key.unlink()
    elif broken == "mixed":
        key = authority.issue("other")[1]
    elif broken == "text":
        certificate.write_text("no certificate")
    elif broken == "binary":
        certificate.write_bytes(b"\xff\xfe")
    else:
        key.write_text(ENCRYPTED)
    with pytest.raises(CertificatesError, match="expected a certificate and its key in") as caught:
        Certificates(CertificateFiles(certificate, key))
    assert str(key) in str(caught.value)
    settings = Settings(port=0, grpc_port=0, backend="fake", tls_certificate=certificate, tls_key=key)
    assert await serve(settings) == 1
    assert "cannot start: expected a certificate and its key" in caplog.text


ENCRYPTED = """-----BEGIN ENCRYPTED PRIVATE KEY-----
MIHeMEkGCSqGSIb3DQEFDTA8MBsGCSqGSIb3DQEFDDAOBAi5Vg6bPOGSWQICCAAw
HQYJYIZIAWUDBAEqBBDhRRpX3lFlS6XVIHHXOBBHBIGQ
-----END ENCRYPTED PRIVATE KEY-----
"""

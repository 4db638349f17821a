"""Tags become digests by asking a registry as the OCI distribution specification says, with and without a token."""

import importlib.util
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

spec = importlib.util.spec_from_file_location("digests", Path(__file__).parents[3] / "docker" / "digests.py")
assert spec is not None
assert spec.loader is not None
digests = importlib.util.module_from_spec(spec)
sys.modules["digests"] = digests
spec.loader.exec_module(digests)

DIGEST = "sha256:" + "5" * 64


class Registry(BaseHTTPRequestHandler):
    def do_HEAD(self):
        if self.path == "/v2/closed/image/manifests/1" and self.headers.get("Authorization") != "Bearer secret":
            realm = f"http://{self.headers['Host']}/token"
            self.answer(401, {"WWW-Authenticate": f'Bearer realm="{realm}",service="here",scope="repository:pull"'})
        elif self.path in ("/v2/closed/image/manifests/1", "/v2/open/manifests/1"):
            assert "image.index" in self.headers["Accept"]
            self.answer(200, {"Docker-Content-Digest": DIGEST})
        else:
            self.answer(404, {})

    def do_GET(self):
        assert self.path == "/token?service=here&scope=repository%3Apull"
        self.answer(200, {}, b'{"token": "secret"}')

    def answer(self, status, headers, body=b""):
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def registry() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Registry)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("text", "registry", "repository", "tag"),
    [
        ("python:3.11-slim", "registry-1.docker.io", "library/python", "3.11-slim"),
        ("prom/prometheus:v3", "registry-1.docker.io", "prom/prometheus", "v3"),
        ("ghcr.io/owner/name:1", "ghcr.io", "owner/name", "1"),
        ("localhost:5000/name:1", "localhost:5000", "name", "1"),
    ],
)
def test_names_of_images(text, registry, repository, tag):
    assert digests.parse_image(text) == digests.Image(registry, repository, tag, text)


@pytest.mark.parametrize("text", ["python", "localhost:5000/python"])
def test_a_name_without_a_tag_is_refused(text):
    with pytest.raises(ValueError, match="expected NAME:TAG"):
        digests.parse_image(text)


@pytest.mark.parametrize("name", ["open", "closed/image"])
def test_a_tag_becomes_a_digest(registry, name):
    assert digests.resolve(digests.parse_image(f"{registry}/{name}:1"), scheme="http") == DIGEST


def test_what_is_not_there_is_an_error(registry):
    with pytest.raises(OSError, match="404"):
        digests.resolve(digests.parse_image(f"{registry}/open:2"), scheme="http")

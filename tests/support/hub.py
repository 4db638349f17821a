"""A hub on this machine: speaks what huggingface_hub asks for, and fails as networks and people do when told to."""

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

COMMIT = "5a9c1f0e" * 5
PLAIN_GIT_BYTES = 4096
"""Longer files are in LFS, which redirects to where the bytes are."""


@dataclass
class StubRepository:
    """One repository, with a `main` branch of one commit."""

    files: dict[str, bytes]
    commit: str = COMMIT
    licence: str | None = "mit"
    token: str | None = None
    gated: bool = False
    """Whether its description is public although its files need the token."""


@dataclass(frozen=True)
class Seen:
    """One request."""

    method: str
    path: str
    range: str | None
    token: str | None


@dataclass
class StubHub:
    """What is served, how it goes wrong, and what was asked for.

    Attributes:
        url: For `HF_ENDPOINT`.
        bytes_url: Where the bytes of large files are: another host, which must not be sent the token.
        repositories: By id.
        cuts: Bytes of the body after which the next downloads end, one after the other.
        altered: What is sent in the place of a file's bytes, by SHA-256 of the right ones; its announced hash stays.
        ignores_ranges: Whether a download always begins at the beginning.
        page: What is answered to everything, as a proxy or a captive portal would.
        log: Every request.
        sent: Bytes of files that were sent.
    """

    url: str = ""
    bytes_url: str = ""
    repositories: dict[str, StubRepository] = field(default_factory=dict)
    cuts: list[int] = field(default_factory=list)
    altered: dict[str, bytes] = field(default_factory=dict)
    ignores_ranges: bool = False
    page: bytes | None = None
    log: list[Seen] = field(default_factory=list)
    sent: int = 0

    @property
    def downloads(self) -> list[Seen]:
        """Requests for bytes of large files."""
        return [seen for seen in self.log if seen.method == "GET" and seen.path.startswith("/cdn/")]

    def content(self, digest: str) -> bytes:
        """The bytes sent for a hash."""
        if digest in self.altered:
            return self.altered[digest]
        files = (data for repository in self.repositories.values() for data in repository.files.values())
        return next(data for data in files if sha256(data) == digest)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def git_id(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


@contextmanager
def stub_hub(**repositories: StubRepository) -> Iterator[StubHub]:
    """A running hub; `owner__name=…` serves `owner/name`."""
    hub = StubHub(repositories={name.replace("__", "/"): value for name, value in repositories.items()})
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url, hub.bytes_url = (f"http://{host}:{server.server_address[1]}" for host in ("127.0.0.1", "localhost"))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: StubHub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._route()

    def do_GET(self) -> None:
        self._route()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing on stderr: `hub.log` has it."""

    def _route(self) -> None:
        path = unquote(urlsplit(self.path).path)
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
        self.hub.log.append(Seen(self.command, path, self.headers.get("Range"), token))
        parts = path.strip("/").split("/")
        if self.hub.page is not None:
            self._answer(200, {"Content-Type": "text/html"}, self.hub.page)
        elif parts[0] == "cdn":
            self._bytes(self.hub.content(parts[1]), {"ETag": f'"{parts[1]}"'})
        elif parts[:2] == ["api", "models"] and parts[4:5] == ["revision"]:
            self._describe("/".join(parts[2:4]), parts[5], token)
        elif parts[2:3] == ["resolve"]:
            self._resolve("/".join(parts[:2]), parts[3], "/".join(parts[4:]), token)
        else:
            self._refuse(404, "EntryNotFound")

    def _repository(self, name: str, revision: str, token: str | None, metadata: bool) -> StubRepository | None:
        repository = self.hub.repositories.get(name)
        if repository is None:
            # The real hub does not say whether a repository is private or not there at all.
            self._refuse(401, "RepoNotFound")
        elif repository.token not in {None, token} and not (repository.gated and metadata):
            self._refuse(401, "GatedRepo" if repository.gated else "RepoNotFound")
        elif revision not in {"main", repository.commit}:
            self._refuse(404, "RevisionNotFound")
        else:
            return repository
        return None

    def _describe(self, name: str, revision: str, token: str | None) -> None:
        repository = self._repository(name, revision, token, metadata=True)
        if repository is None:
            return
        card = {} if repository.licence is None else {"cardData": {"license": repository.licence}}
        siblings = [_sibling(path, data) for path, data in repository.files.items()]
        body = json.dumps({"id": name, "sha": repository.commit, "siblings": siblings, **card}).encode()
        self._answer(200, {"Content-Type": "application/json"}, body)

    def _resolve(self, name: str, revision: str, file: str, token: str | None) -> None:
        repository = self._repository(name, revision, token, metadata=False)
        if repository is None:
            return
        if file not in repository.files:
            self._refuse(404, "EntryNotFound", {"X-Repo-Commit": repository.commit})
            return
        data = repository.files[file]
        commit = {"X-Repo-Commit": repository.commit}
        if len(data) <= PLAIN_GIT_BYTES:
            self._bytes(data, {**commit, "ETag": f'"{git_id(data)}"'})
            return
        linked = {"X-Linked-Etag": f'"{sha256(data)}"', "X-Linked-Size": str(len(data))}
        self._answer(302, {**commit, **linked, "Location": f"{self.hub.bytes_url}/cdn/{sha256(data)}"}, b"")

    def _bytes(self, data: bytes, headers: Mapping[str, str]) -> None:
        begin, status = 0, 200
        asked = self.headers.get("Range")
        if asked is not None and not self.hub.ignores_ranges:
            begin, status = int(asked.removeprefix("bytes=").rstrip("-")), 206
            if begin >= len(data):
                self._refuse(416, "RangeNotSatisfiable")
                return
            headers = {**headers, "Content-Range": f"bytes {begin}-{len(data) - 1}/{len(data)}"}
        cut = None
        if self.command == "GET":
            cut = self.hub.cuts.pop(0) if self.hub.cuts else None
            self.hub.sent += len(data[begin:][:cut])
        self._answer(status, headers, data[begin:], cut)

    def _refuse(self, status: int, code: str, headers: Mapping[str, str] | None = None) -> None:
        self._answer(status, {"X-Error-Code": code, **(headers or {})}, b"")

    def _answer(self, status: int, headers: Mapping[str, str], body: bytes, cut: int | None = None) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.write(body[:cut])
        if cut is not None:
            self.wfile.flush()
            self.close_connection = True


def _sibling(path: str, data: bytes) -> dict[str, object]:
    plain = {"rfilename": path, "size": len(data), "blobId": git_id(data)}
    if len(data) <= PLAIN_GIT_BYTES:
        return plain
    return {**plain, "lfs": {"size": len(data), "sha256": sha256(data), "pointerSize": 134}}

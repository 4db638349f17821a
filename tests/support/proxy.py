"""nginx in front of several servers, for both transports, and the part of a cluster that tells it where they are.

Its directives are those that `docs/deploy.md` advises (`ADVISED`, a test compares them), so that what is proved here
holds for that advice. Its access log says what became of every request, at every server that it was sent to.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.processes import PATIENCE_S, ROOT

_UNPACKED = ROOT / "build" / "debian" / "usr" / "sbin" / "nginx"  # where `make test-fleet` puts it

ADVISED = """\
server {
    listen 127.0.0.1:HTTP;
    client_max_body_size 65m;
    location / {
        proxy_pass http://rest;
        proxy_read_timeout 610s;
        proxy_next_upstream error;
        error_page 502 504 = @lost;
    }
    location @lost {
        internal;
        default_type application/problem+json;
        add_header Retry-After 1 always;
        return 503 '{"status": 503, "code": "unavailable", "title": "The server went away", "retryable": true}';
    }
}
server {
    listen 127.0.0.1:GRPC http2;
    client_max_body_size 0;
    location / {
        grpc_pass grpc://rpc;
        grpc_read_timeout 610s;
        grpc_next_upstream error;
        error_page 502 504 = @lost;
    }
    location @lost {
        internal;
        default_type application/grpc;
        add_header grpc-status 14 always;
        add_header grpc-message "The server went away" always;
        return 204;
    }
}
"""

_AROUND = """\
daemon off;
USER
worker_processes 1;
pid nginx.pid;
events { worker_connections 1024; }
http {
    log_format attempts '$http_x_request_id|$upstream_addr|$upstream_status|$status';
    access_log access.log attempts;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    upstream rest { REST }
    upstream rpc { RPC }
    SERVERS
}
"""


@dataclass(frozen=True, slots=True)
class Passage:
    """One request as the proxy saw it.

    Attributes:
        request_id: That the client gave it.
        attempts: The ports that it was sent to, in order, each with the status that came of it; 502 is none at all.
        status: What the client was told.
    """

    request_id: str
    attempts: tuple[tuple[int, int], ...]
    status: int


@dataclass
class Proxy:
    """A running nginx.

    Attributes:
        folder: Of its files.
        http: Its port for REST.
        grpc: Its port for gRPC.
    """

    folder: Path
    http: int
    grpc: int

    def route(self, rest: Sequence[int], rpc: Sequence[int]) -> None:
        """Send to these ports from now on, as the endpoints of a Service change. Requests under way are not touched."""
        before = self._workers()
        self.configure(rest, rpc)
        os.kill(int(self._master()), signal.SIGHUP)
        deadline = time.monotonic() + PATIENCE_S
        while not self._workers() - before:
            assert time.monotonic() < deadline, "nginx did not take its new configuration"
            time.sleep(0.01)

    def configure(self, rest: Sequence[int], rpc: Sequence[int]) -> None:
        """Write the configuration."""

        def servers(ports: Sequence[int]) -> str:
            return " ".join(f"server 127.0.0.1:{port} max_fails=0;" for port in ports)

        names = {
            "USER": "user root root;" if os.geteuid() == 0 else "",
            "REST": servers(rest),
            "RPC": servers(rpc),
            "HTTP": str(self.http),
            "GRPC": str(self.grpc),
        }
        text = re.sub(r"\bSERVERS\b", ADVISED, _AROUND)
        text = re.sub(rf"\b({'|'.join(names)})\b", lambda found: names[found[0]], text)
        (self.folder / "nginx.conf").write_text(text)

    def passages(self) -> list[Passage]:
        """Every request with an id that it has passed on; complete once it has ended."""
        lines = [line.split("|") for line in (self.folder / "access.log").read_text().splitlines()]
        return [_passage(*line) for line in lines if line[0] != "-"]

    def _master(self) -> str:
        return (self.folder / "nginx.pid").read_text().strip()

    def _workers(self) -> set[str]:
        """Process ids."""
        master = self._master()
        return set(Path(f"/proc/{master}/task/{master}/children").read_text().split())


def find_nginx() -> str | None:
    """The program, installed or unpacked; None where there is none."""
    return shutil.which("nginx") or (str(_UNPACKED) if _UNPACKED.exists() else None)


@contextmanager
def nginx(folder: Path, rest: Sequence[int], rpc: Sequence[int]) -> Iterator[Proxy]:
    """An nginx on two free ports, in front of servers on these; at the end it finishes what is under way."""
    program = find_nginx()
    assert program is not None, "nginx: expected it on PATH, or unpacked by `make test-fleet`"
    folder.mkdir()
    proxy = Proxy(folder, _free_port(), _free_port())
    proxy.configure(rest, rpc)
    process = subprocess.Popen([program, "-p", str(folder), "-c", "nginx.conf", "-e", "error.log"])
    try:
        _wait_for_port(proxy.http, process)
        _wait_for_port(proxy.grpc, process)
        yield proxy
        process.send_signal(signal.SIGQUIT)
        process.wait(PATIENCE_S)
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(PATIENCE_S)


def _passage(request_id: str, ports: str, statuses: str, status: str) -> Passage:
    # An internal redirect ends a list with " : -".
    pairs = zip(re.findall(r":(\d+)(?=[, ]|$)", ports), re.findall(r"\d+", statuses), strict=True)
    return Passage(request_id, tuple((int(port), int(found)) for port, found in pairs), int(status))


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def _wait_for_port(port: int, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        assert process.poll() is None, "nginx ended; its error.log says why"
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            assert time.monotonic() < deadline, f"nginx does not listen on {port}"
            time.sleep(0.01)
        else:
            return

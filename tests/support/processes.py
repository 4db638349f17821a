"""A live server process, started as people start it: `python -m server serve`."""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PATIENCE_S = 60.0


def clean_environment(**extra: str) -> dict[str, str]:
    """This process's environment without settings of the server's, and with one thread per numeric library."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("BIREFNET_")}
    return {**kept, "OMP_NUM_THREADS": "1", **extra}


@dataclass
class LiveServer:
    """A running process and what it has logged so far."""

    process: "subprocess.Popen[str]"
    started: float
    http: str = ""
    grpc: str = ""
    records: list[Mapping[str, Any]] = field(default_factory=list)
    _lines: "queue.SimpleQueue[str | None]" = field(default_factory=queue.SimpleQueue)

    def wait_for(self, message: str) -> Mapping[str, Any]:
        """The first record whose message begins like this, waiting for it if need be."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            found = next((record for record in self.records if record["message"].startswith(message)), None)
            if found is not None:
                return found
            line = self._lines.get(timeout=max(0.0, deadline - time.monotonic()))
            assert line is not None, f"the process ended without logging {message!r}: {self.records}"
            self._take(line)

    def signal(self, number: int = signal.SIGTERM) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    def wait(self, timeout_s: float = PATIENCE_S) -> int:
        """Until it has ended; its exit code."""
        return self.process.wait(timeout_s)

    def wait_for_records(self) -> list[Mapping[str, Any]]:
        """Everything it logged until its end, which must have come."""
        while (line := self._lines.get(timeout=PATIENCE_S)) is not None:
            self._take(line)
        return self.records

    def read_logs(self) -> None:
        """Take the lines from standard error, until its end; runs in a thread."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self._lines.put(line)
        self._lines.put(None)

    def _take(self, line: str) -> None:
        self.records.append(json.loads(line) if line.startswith("{") else {"message": line.rstrip()})


@contextmanager
def live_server(*flags: str, ready: bool = True, listening: bool = True, **environment: str) -> Iterator[LiveServer]:
    """A server on free ports; killed at the end if it still runs.

    Args:
        flags: Of `serve`, beside the ports.
        ready: Wait until it is ready; else only until it listens.
        listening: Wait for that, too; else it has only just been started.
        environment: Variables to set.
    """
    command = [sys.executable, "-m", "server", "serve", "--port", "0", "--grpc-port", "0", "--log-format", "json"]
    started = time.monotonic()
    process = subprocess.Popen(
        [*command, *flags], cwd=ROOT, env=clean_environment(**environment), stderr=subprocess.PIPE, text=True
    )
    server = LiveServer(process, started)
    reader = threading.Thread(target=server.read_logs, daemon=True)
    reader.start()
    try:
        if listening:
            addresses = server.wait_for("listening, warming up")
            server.http, server.grpc = addresses["http"], addresses["grpc"]
        if listening and ready:
            server.wait_for("ready")
        yield server
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        reader.join(PATIENCE_S)
        if process.stderr is not None:
            process.stderr.close()

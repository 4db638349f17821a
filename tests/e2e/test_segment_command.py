"""`birefnet-server segment` as a process: interrupted, it leaves whole files only, and the next run goes on."""

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.support.images import decoded, png, smooth

IMAGES = 40
PATIENCE_S = 120


def command(*more: str) -> list[str]:
    return [
        sys.executable,
        "-m",
        "server",
        "segment",
        "in",
        "-o",
        "out",
        "--backend",
        "fake",
        "--max-batch",
        "1",
        *more,
    ]


def test_an_interrupted_run_resumes(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for number in range(IMAGES):
        (tmp_path / "in" / f"{number}.png").write_bytes(png(smooth(20, 30, seed=number)))
    out = tmp_path / "out"

    process = subprocess.Popen(
        command("--fake-latency-s", "0.3"),
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        # A shell starts its background jobs with SIGINT ignored, and what it starts inherits that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        deadline = time.monotonic() + PATIENCE_S
        while not list(out.glob("*.png")):
            assert process.poll() is None, process.stderr and process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=PATIENCE_S)
    finally:
        process.kill()
    assert process.returncode == 130
    first = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    assert 0 < len(first) < IMAGES
    assert all(decoded((out / name).read_bytes()).shape == (20, 30, 4) for name in first)

    second = subprocess.run(command(), cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE_S, check=True)
    done, skipped = re.search(r"(\d+) done .* (\d+) skipped because", second.stderr).groups()  # type: ignore[union-attr]
    assert (int(done), int(skipped)) == (IMAGES - len(first), len(first))
    assert len(list(out.iterdir())) == IMAGES
    assert {name: (out / name).stat().st_mtime_ns for name in first} == first

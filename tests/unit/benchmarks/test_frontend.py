"""The profile of the front end: stacks are told apart, and a small one of a live server is a result."""

import json
import sys
from pathlib import Path

import pytest
from PIL import Image

from benchmarks import frontend
from tests.support.images import noise
from tests.unit.benchmarks.test_benchmark_results import obey

STACKS = """\
thread (1): MainThread;main (server/__main__.py:3);segment (server/api/rest/segment.py:9);join (x.py:1) 7
thread (1): MainThread;run (asyncio/runners.py:1) 2
thread (2): host_0;_worker (concurrent/futures/thread.py:1);decode (server/pipeline/decode.py:5);load (PIL/Image.py:1) 5
thread (3): host;_work (server/frontends/lines.py:1);encode (server/pipeline/encode.py:5) 4
thread (4): device-0;_run (server/engine/worker.py:1) 3
thread (5): header_0;read (somewhere.py:1) 1
"""


def test_samples_are_told_apart_by_threads_and_by_what_they_are_at():
    assert frontend.samples(STACKS) == {
        ("event loop", "transport"): 7,
        ("event loop", "event loop"): 2,
        ("pixels and device", "decode"): 5,
        ("pixels and device", "encode"): 4,
        ("pixels and device", "engine"): 3,
        ("headers and gRPC", "headers and gRPC"): 1,
    }


@pytest.mark.skipif(sys.platform != "linux", reason="threads are read from /proc")
def test_a_small_profile_is_a_result_with_its_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(frontend, "TRANSPORTS", {"grpc": 1.0})
    monkeypatch.setattr(frontend, "write_images", lambda *given: {"nothing": only_one(*given)})
    words = ["-o", str(tmp_path / "found.json"), "--quick", "--py-spy", "", "--frontends", "2"]
    assert frontend.main(words) == 0
    result = json.loads((tmp_path / "found.json").read_text())
    obey(result, "frontend")
    (case,) = result["cases"]
    assert all(taken["cpu_ms"]["event loop"] > 0 for taken in case["processes"].values())
    assert "| 2 front ends |" in frontend.table(result)


def only_one(folder: Path, megabytes: float, size: tuple[int, int]) -> str:
    path = folder / "one.jpg"
    Image.fromarray(noise(8, 8)).save(path)
    return str(path)

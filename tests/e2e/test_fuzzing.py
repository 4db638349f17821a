"""Machines that look for what people forget: a fuzzer on the decoder, and every sentence of the OpenAPI document.

Both need the extra `[fuzz]`: `make fuzz` installs it and runs them.
"""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.support.hostile import corpus
from tests.support.processes import ROOT, clean_environment, live_server

FUZZ_S = int(os.environ.get("FUZZ_SECONDS", "600"))
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
)

pytestmark = pytest.mark.slow


def needs(module: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(find_spec(module) is None, reason=f"{module} is not installed; `make fuzz` does it")


@needs("atheris")
@pytest.mark.timeout(FUZZ_S + 300)
def test_the_fuzzer_finds_nothing_in_the_decoder(tmp_path: Path):
    seeds, learned = tmp_path / "seeds", tmp_path / "learned"
    for folder in (seeds, learned):
        folder.mkdir()
    for name, data in corpus().items():
        if len(data) <= 1 << 16:
            (seeds / name).write_bytes(data)
    flags = [f"-max_total_time={FUZZ_S}", "-timeout=20", "-rss_limit_mb=2048", "-max_len=65536", "-seed=1"]
    command = [sys.executable, "-m", "tests.support.fuzz_decoder", *flags, f"-artifact_prefix={tmp_path}/"]
    environment = clean_environment(PYTHONPATH=str(ROOT), PYTHONWARNINGS="ignore")
    done = subprocess.run([*command, learned, seeds], cwd=ROOT, env=environment, capture_output=True, check=False)
    left = [path.name for path in tmp_path.iterdir() if path.is_file()]
    assert (done.returncode, left) == (0, []), done.stderr[-3000:].decode(errors="replace")
    assert any(learned.iterdir()), "it has learned nothing"


@needs("schemathesis")
def test_the_openapi_document_holds_for_generated_requests(tmp_path: Path):
    with live_server("--backend", "fake") as server:
        command = [sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()", "run"]
        flags = ["--max-examples=200", "--seed=7", f"--checks={','.join(CHECKS)}", "--request-timeout=20", "--no-color"]
        done = subprocess.run(
            [*command, f"{server.http}/openapi.json", *flags], cwd=tmp_path, capture_output=True, text=True, check=False
        )
    assert done.returncode == 0, done.stdout[-5000:]

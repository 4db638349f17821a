"""An export that is told to end leaves nothing behind: not in its target, not in the temporary folder."""

import subprocess
import sys
from pathlib import Path

from tests.support.processes import ROOT, clean_environment

TRAINED = ROOT / "training" / "checkpoints" / "compact.safetensors"


def test_an_export_that_is_ended_takes_its_files_with_it(tmp_path: Path) -> None:
    scratch, target = tmp_path / "scratch", tmp_path / "out"
    scratch.mkdir()
    command = [sys.executable, "-m", "model_export", "onnx", str(TRAINED), "-o", str(target), "--size", "64x64"]
    environment = {**clean_environment(), "TMPDIR": str(scratch)}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert any("tracing" in line for line in process.stderr)
        assert list(scratch.glob("birefnet-export-*"))
        process.terminate()
        rest = process.stderr.read()
    assert process.returncode == 130, rest
    assert "interrupted; nothing was written" in rest
    assert not list(scratch.glob("birefnet-export-*"))
    assert not target.exists()

"""The measurement of plans, as far as it goes without a GPU: the dry run, its schema, and the one command around it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

from benchmarks.plans import main
from tests.support.processes import ROOT, clean_environment

SCRIPT = ROOT / "benchmarks" / "gpu" / "tensorrt.sh"
SCHEMA = json.loads((ROOT / "benchmarks" / "schemas" / "plans.json").read_text())


def run(*arguments: object) -> "subprocess.CompletedProcess[str]":
    environment = clean_environment(PYTHON=sys.executable)
    return subprocess.run(
        [str(SCRIPT), *map(str, arguments)], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


def test_a_dry_run_writes_a_result_that_obeys_the_schema(tmp_path, capsys):
    out = tmp_path / "result.json"
    assert main(["--dry-run", "--seconds", "0.01", "--out", str(out)]) == 0
    result = json.loads(out.read_text())
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(result, SCHEMA)
    assert [row["batch"] for row in result["rows"]] == [1, 2, 4]
    assert all(row["max_abs"] < 1e-3 for row in result["rows"])
    assert result["server"]["measured"] is False
    assert capsys.readouterr().out.count("\n| ") == 4


def test_without_an_artifact_it_is_an_error(capsys):
    with pytest.raises(SystemExit):
        main(["--out", "result.json"])
    assert "expected an artifact directory, or --dry-run" in capsys.readouterr().err


def test_the_one_command_says_what_it_would_do_and_dry_runs_what_it_can(tmp_path):
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    done = run("--dry-run", "--wheels", wheels, "--batch", "1,8,16", tmp_path / "model", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stderr.splitlines() if line.startswith("+ ")]
    assert len(said) == 5
    assert f"{tmp_path}/model:/artifact" in said[0]
    assert said[0].endswith("--wheels /wheels --batch 1,8,16 /artifact /out")
    assert f"--no-index --find-links {wheels} {ROOT}[tensorrt]" in said[2]
    assert said[3].endswith(f"-m model_export tensorrt {tmp_path}/model --batch 1,8,16")
    assert said[4].endswith(f"-m benchmarks.plans {tmp_path}/model --out {tmp_path}/out/tensorrt.json")
    jsonschema.validate(json.loads((tmp_path / "out" / "tensorrt.json").read_text()), SCHEMA)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "expected ARTIFACT and OUT, found 0 arguments"),
        (("/nonexistent", "/tmp/out"), "expected an artifact directory with model.json, found /nonexistent"),  # noqa: S108
        (("--fast", "a", "b"), "expected --dry-run, --image, --wheels or --batch, found --fast"),
        (("--image",), "expected a value after --image"),
    ],
)
def test_what_it_cannot_do_it_says(arguments, said):
    done = run(*arguments)
    assert done.returncode == 2
    assert done.stderr == f"tensorrt.sh: {said}\n"


def test_the_script_can_be_run():
    assert os.access(SCRIPT, os.X_OK)
    assert Path(SCRIPT).read_text().startswith("#!/usr/bin/env bash\n")

"""The runner of load and faults: every scenario in seconds, on live servers, and what it writes.

With so few clients and a busy machine times prove nothing, so only what must be exact is held against its limit; the
runner at its full scale judges the rest.
"""

import json
from pathlib import Path

import pytest

from benchmarks import faults
from benchmarks.scenario import Criterion
from tests.unit.benchmarks.test_benchmark_results import obey

EXACT = ("requests", "codes")
"""Units of promises that no slow machine can break."""


def run(tmp_path: Path, name: str) -> dict[str, Criterion]:
    out = tmp_path / "found.json"
    faults.main(["--quick", "--only", name, "-o", str(out)])
    result = json.loads(out.read_text())
    obey(result, "faults")
    assert faults.table(result).count("\n") == 1 + len(result["scenarios"][0]["criteria"])
    return {row["promise"]: Criterion(**row) for row in result["scenarios"][0]["criteria"]}


@pytest.mark.parametrize("name", faults.SCENARIOS)
def test_what_must_be_exact_is(name, tmp_path):
    found = run(tmp_path, name)
    exact = [criterion for criterion in found.values() if criterion.unit in EXACT]
    assert exact
    assert [criterion for criterion in exact if not criterion.passed] == []


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", ["abandoned", "drain"])
def test_at_full_scale_nothing_is_lost(name):
    assert faults.main(["--only", name]) == 0

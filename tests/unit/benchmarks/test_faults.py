"""The runner of load and faults: every scenario in seconds, on live servers, and what it writes.

With so few clients and a busy machine times prove nothing, so only what must be exact is held against its limit; the
runner at its full scale judges the rest.
"""

import json
from pathlib import Path

import jsonschema
import pytest

from benchmarks import encoding, faults
from benchmarks.scenario import Criterion, Report, Scale, at_least, at_most, stable
from benchmarks.vitals import Memory, refusals
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


def test_a_promise_that_is_not_kept_fails_the_run(tmp_path, monkeypatch, capsys):
    def broken(folder: Path, scale: Scale) -> Report:
        assert folder.is_dir()
        assert scale.drains == 50
        return Report("broken", (), (at_most("lost", 0, 1, "requests"), at_least("kept", 1, 1, "requests")), {})

    monkeypatch.setattr(faults, "SCENARIOS", {"broken": broken})
    out = tmp_path / "found.json"
    assert faults.main(["--only", "broken", "-o", str(out)]) == 1
    assert "NOT KEPT lost: 1 requests (limit 0)" in capsys.readouterr().out
    result = json.loads(out.read_text())
    with pytest.raises(jsonschema.ValidationError, match="broken"):
        obey(result, "faults")
    assert "**not kept**" in faults.table(result)


def test_limits_are_kept_at_their_value():
    assert at_most("", 10, 10, "").passed
    assert not at_most("", 10, 10.001, "").passed
    assert at_least("", 90, 90, "").passed
    assert not at_least("", 90, 89.99, "").passed


def test_rounds_are_repeated_until_three_agree():
    assert not stable([10.0, 10.0])
    assert stable([50.0, 10.0, 10.1, 10.4])
    assert not stable([10.0, 10.1, 11.0])


def test_the_slope_of_memory_is_that_of_the_line_through_it():
    memory = Memory()
    memory.samples = [(0.0, 900.0), *((60.0 * minute, 100 + 3.0 * minute) for minute in range(1, 6))]
    assert memory.slope_mib_per_min(after_s=60) == pytest.approx(3.0)
    assert memory.peak_mib == 900


def test_refusals_are_counted_between_two_readings():
    before = {"birefnet_refusals_total{reason=wait}": 5.0, "birefnet_refusals_total{reason=uploads}": 2.0}
    after = {**before, "birefnet_refusals_total{reason=wait}": 8.0, "birefnet_requests_inside": 3.0}
    assert refusals(after, before) == {"wait": 3}


def test_the_costs_of_encoding_have_a_table(tmp_path):
    out = tmp_path / "encoding.json"
    assert encoding.main(["-o", str(out), "--rounds", "1", "--megapixels", "1"]) == 0
    result = json.loads(out.read_text())
    obey(result, "encoding")
    lines = encoding.table(result).splitlines()
    assert len(lines) == 2 + len(encoding.CASES)
    by_level = {row["png_level"]: row["seconds"] for row in result["cases"] if row["output"] == "cutout"}
    assert by_level[9] > by_level[1]

"""The runner of load and faults: how it judges, and what it writes; `tests/e2e/test_faults.py` runs its scenarios."""

import json
from pathlib import Path

import jsonschema
import pytest

from benchmarks import encoding, faults
from benchmarks.scenario import Report, Scale, at_least, at_most, stable
from benchmarks.vitals import Memory, quantile_of, refusals
from tests.unit.benchmarks.test_benchmark_results import obey


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


def test_a_quantile_of_a_histogram_is_interpolated_within_its_bucket():
    def reading(*counts: float) -> dict[str, float]:
        edges = ("0.005", "0.01", "0.025", "inf")
        buckets = {f"t_bucket{{le={edge},o=x}}": count for edge, count in zip(edges, counts, strict=True)}
        return buckets | {"t_bucket{le=0.01,o=y}": 99.0}

    series, before = "t_bucket{le=%s,o=x}", reading(5, 5, 5, 5)
    found = reading(55, 95, 105, 105)  # of a hundred 50, 40 and 10
    assert quantile_of(found, before, series, 0.5) == pytest.approx(0.005)
    assert quantile_of(found, before, series, 0.7) == pytest.approx(0.0075)
    assert quantile_of(found, before, series, 0.99) == pytest.approx(0.01 + 0.015 * 0.9)
    assert quantile_of(reading(5, 5, 5, 6), before, series, 0.99) == pytest.approx(0.025)
    assert quantile_of(before, before, series, 0.99) == 0

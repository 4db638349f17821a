"""The committed results obey the schema, and the load generator's own arithmetic is right."""

import importlib
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import referencing

from benchmarks import machine
from benchmarks.load import quantile, server_timing, summarise_ms

BENCHMARKS = Path(machine.__file__).parent
SCHEMA = json.loads((BENCHMARKS / "schema.json").read_text())
RESULTS = sorted((BENCHMARKS / "results" / "serving").glob("*.json"))
OTHERS = {path.stem: json.loads(path.read_text()) for path in sorted((BENCHMARKS / "schemas").glob("*.json"))}
REGISTRY = referencing.Registry().with_resources(
    (schema["$id"], referencing.Resource.from_contents(schema)) for schema in (SCHEMA, *OTHERS.values())
)
COMMITTED = [
    path
    for name in ("export", "cpu", "load", "encoding", "foreground", "refinement", "high_resolution", "frontend")
    for path in sorted((BENCHMARKS / "results" / name).glob("*.json"))
]
DOCS = BENCHMARKS.parent / "docs"
PAGES = {name: (DOCS / f"{name}.md").read_text() for name in ("export", "operations", "refinement", "performance")}
PAGE_OF = {
    "load": "operations",
    "encoding": "operations",
    "frontend": "performance",
    "foreground": "refinement",
    "refinement": "refinement",
    "high_resolution": "refinement",
}  # by the folder of results; else the export's


def obey(result: dict[str, Any], name: str) -> None:
    """Hold a result against the schema of its runner."""
    jsonschema.Draft202012Validator(OTHERS[name], registry=REGISTRY).validate(result)


def runner_of(result: dict[str, Any]) -> str:
    return result["command"].split()[2].removeprefix("benchmarks.")


def test_there_is_a_result_to_check():
    assert RESULTS


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_result_obeys_the_schema(path):
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(json.loads(path.read_text()), SCHEMA)


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_other_results_obey_the_schema_of_their_runner(path):
    result = json.loads(path.read_text())
    obey(result, runner_of(result))


@pytest.mark.parametrize("name", OTHERS)
def test_schemas_are_schemas(name):
    jsonschema.Draft202012Validator.check_schema(OTHERS[name])


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_tables_in_the_documentation_are_those_of_the_results(path):
    result = json.loads(path.read_text())
    table = importlib.import_module(f"benchmarks.{runner_of(result)}").table(result)
    assert table in PAGES[PAGE_OF.get(path.parent.name, "export")]


@pytest.mark.parametrize("missing", ["quality", "machine"])
def test_a_speed_figure_without_its_quality_or_machine_is_refused(missing):
    result = json.loads(RESULTS[0].read_text())
    del result[missing]
    with pytest.raises(jsonschema.ValidationError, match=missing):
        jsonschema.validate(result, SCHEMA)


def test_this_machine_can_be_described():
    jsonschema.validate(machine.describe(), SCHEMA["properties"]["machine"])


def test_quantile_is_the_smallest_value_not_exceeded_by_that_share():
    assert quantile([4, 1, 3, 2], 0.5) == 2
    assert quantile(range(1, 101), 0.95) == 95
    assert quantile([7], 0.95) == 7


def test_server_timing_is_read_in_seconds():
    assert server_timing("decode;dur=12.5, queue;dur=0, infer;desc=x;dur=300") == {
        "decode": 0.0125,
        "queue": 0.0,
        "infer": 0.3,
    }
    assert server_timing("") == {}


def test_summary_of_known_values():
    assert summarise_ms([0.001, 0.002, 0.006]) == {
        "count": 3,
        "median_ms": 2.0,
        "p95_ms": 6.0,
        "min_ms": 1.0,
        "max_ms": 6.0,
    }

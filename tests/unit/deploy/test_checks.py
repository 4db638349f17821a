"""What `make check-k8s` does by itself: rules with one number changed, and queries with their answers."""

import enum
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from k8s.check import dashboard
from k8s.check.alerts import mutants, survivors, write_mutants
from k8s.check.queries import POD, Query, of_adapter, of_dashboard, unanswered
from tests.support.manifests import K8S

RULE: dict[str, str] = {
    "alert": "Slow",
    "expr": 'rate(seen_2_total{reason=~"a|b1"}[10m]) > 0.5 and x > 3 and y > 0',
    "for": "5m",
}
RULES: dict[str, Any] = {"groups": [{"name": "one", "rules": [RULE, {"alert": "Gone", "expr": "absent(x)"}]}]}


def test_every_number_of_a_rule_is_changed_and_nothing_else():
    found = dict(mutants(RULES))
    assert [said.removeprefix("Slow: ") for said in found] == [
        "for 6m instead of 5m",
        "for 4m instead of 5m",
        "[1200s] instead of [10m]",
        "[300s] instead of [10m]",
        "0.625 instead of 0.5",
        "0.4 instead of 0.5",
        "4 instead of 3",
        "2 instead of 3",
        "2 instead of 0",
    ]
    expression = found["Slow: 0.4 instead of 0.5"]["groups"][0]["rules"][0]["expr"]
    assert expression == RULE["expr"].replace("0.5", "0.4")
    assert RULES["groups"][0]["rules"][0]["expr"] == RULE["expr"]
    assert all(changed != RULES for changed in found.values())


def test_times_that_are_not_understood_are_no_times_that_are_tested():
    with pytest.raises(ValueError, match="whole minutes, found 30s"):
        list(mutants({"groups": [{"rules": [{"alert": "a", "expr": "x", "for": "30s"}]}]}))


def test_who_passes_and_who_is_not_mentioned_survives(tmp_path: Path):
    (tmp_path / "alerts.yaml").write_text(yaml.safe_dump(RULES))
    (tmp_path / "tests.yaml").write_text("rule_files: [alerts.yaml]")
    folder = tmp_path / "made"
    folder.mkdir()
    written = write_mutants(folder, tmp_path / "alerts.yaml", tmp_path / "tests.yaml")
    assert len(written) == 9
    assert all((folder / path).exists() and (folder / path).with_name("alerts.yaml").exists() for path in written)
    said = [f"Unit Testing:  {path}\n  FAILED:\n    why\n" for path in written]
    assert survivors("\n".join(said), written) == []
    said[3] = said[3].replace("FAILED", "SUCCESS")
    assert survivors("\n".join(said[:-1]), written) == ["Slow: [300s] instead of [10m]", "Slow: 2 instead of 0"]


def test_a_query_needs_series_and_the_labels_that_its_legend_names():
    answers = {"a": [{"metric": {"pod": "1"}}], "b": []}
    queries = [Query("first", "a", frozenset({"pod", "reason"})), Query("second", "b")]
    assert unanswered(queries, answers.__getitem__) == [
        "first: no label reason in its series",
        "second: no series for b",
    ]
    assert unanswered([Query("first", "a", frozenset({"pod"}))], answers.__getitem__) == []


def test_all_queries_are_asked_without_a_variable_left():
    dashboard = K8S / "components" / "monitoring" / "dashboard.json"
    asked = [*of_dashboard(dashboard), *of_adapter(K8S / "components" / "hpa" / "prometheus-adapter-values.yaml")]
    panels = json.loads(dashboard.read_text())["panels"]
    assert len(asked) == sum(len(panel["targets"]) for panel in panels) + 4
    assert not any("$" in query.expression or "<<" in query.expression for query in asked)
    assert any(query.labels == frozenset(POD) for query in asked)
    assert any("outcome" in query.labels for query in asked)


class Kind(enum.StrEnum):
    ONE = "one"


class Panel:
    """As Grafana's package declares its types."""

    title: str
    kind: Kind | None
    sizes: list[int | float]
    more: dict[str, str] | None

    def __init__(self, title: object = "", kind: object = None, sizes: object = (), more: object = None) -> None:
        self.title, self.kind, self.sizes, self.more = title, kind, sizes, more  # type: ignore[assignment]

    def from_json(self) -> None:
        """Says that it is one of them."""


@pytest.mark.parametrize(
    ("panel", "said"),
    [
        (Panel(sizes=[1, 2.5], kind="one", more={"a": "b"}), None),
        (Panel(title=7, sizes=[]), "p.title: expected <class 'str'>, found 7"),
        (Panel(sizes=[], kind="two"), "p.kind: expected "),
        (Panel(sizes=[1, "2"]), "p.sizes[1]: expected "),
        (Panel(sizes=[True]), "p.sizes[0]: expected "),
        (Panel(sizes=[], more={"a": 7}), "p.more.a: expected <class 'str'>, found 7"),
    ],
)
def test_a_value_of_another_type_is_found_where_it_is(panel: Panel, said: str | None):
    found = list(dashboard.unlike(panel, Panel, "p"))
    assert [problem.startswith(said or "") for problem in found] == [True] * (said is not None)


def test_a_field_that_is_not_written_again_is_none():
    before = {"a": 1, "b": [{"c": 2}, {"d": 3}]}
    assert list(dashboard.lost(before, {"a": 1, "b": [{"c": 2}, {}], "e": 0}, "x")) == [
        "x.b[1]: found d, which is no field"
    ]
    assert list(dashboard.lost(before, {"a": 2, "b": []}, "x")) == [
        "x.a: found 1, which is read as 2",
        "x.b: found [{'c': 2}, {'d': 3}], which is read as []",
    ]
    assert list(dashboard.lost(before, before, "x")) == []

"""Measuring a graph in a process of its own."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from benchmarks.inference import Case, Sample, SessionSettings, _summary, alpha_of, images, run, run_in_turn
from server.backends.ort import OrtBackend, OrtOptions
from tests.support.backends import tiny_alpha, tiny_onnx_artifact
from tests.support.tolerance import ORT_TINY


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_onnx_artifact(tmp_path_factory.mktemp("graph") / "tiny", (32, 32)).file("model")


def test_a_process_says_what_it_needed(graph: Path) -> None:
    found = run(Case("two at once", graph, SessionSettings(threads=1, level="basic"), batch=2), 3)
    assert len(found.seconds) == 3
    assert min(found.seconds) > 0
    assert len(found.cpu_seconds) == 3
    assert sum(found.cpu_seconds) > 0
    assert found.load_s > 0
    assert 10 < found.ready_mib <= found.peak_mib < 2000


def test_a_graph_that_does_not_load_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"no graph")
    with pytest.raises(RuntimeError, match="bad: expected a measurement, found status 1"):
        run(Case("bad", tmp_path / "bad.onnx"), 1)


def test_cases_take_turns(graph: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = run_in_turn([Case("one", graph), Case("two", graph, batch=2)], 2, 2)
    assert [line.split(": ")[1] for line in capsys.readouterr().err.splitlines()] == ["one", "two", "one", "two"]
    assert [row["time"]["count"] for row in rows] == [4, 4]
    assert rows[0]["ratio"] == 1.0


def test_ratios_are_of_one_round_and_one_image() -> None:
    """A machine that halves its speed after the first round changes no ratio; a batch of two counts twice."""
    base, other = Case("base", Path("a")), Case("other", Path("b"), batch=2)
    of_base = [Sample([1.0, 1.0], [4.0, 4.0], 0.1, 50.0, 60.0), Sample([2.0, 2.0], [5.0, 5.0], 0.3, 70.0, 80.0)]
    found = [Sample([1.0, 1.0], [2.0, 2.0], 0.1, 50.0, 60.0), Sample([2.0, 2.0], [2.5, 2.5], 0.3, 70.0, 80.0)]
    row = _summary(other, found, base, of_base)
    assert row["ratio"] == 0.5
    assert row["cpu_ratio"] == 0.25
    assert (row["time"]["median_ms"], row["cpu_ms"]) == (750.0, 1125.0)
    assert (row["load_s"], row["ready_mib"], row["peak_mib"]) == (0.2, 60.0, 70.0)


def test_answers_are_the_graphs(graph: Path) -> None:
    pictures = images((32, 32), 2)
    assert not np.array_equal(pictures[0], pictures[1])
    assert np.abs(alpha_of(graph, pictures) - tiny_alpha(pictures)).max() < ORT_TINY


def test_the_defaults_are_the_servers() -> None:
    mine = SessionSettings().options()
    served = OrtBackend(OrtOptions(threads=2))._session_options()
    for name in (
        "intra_op_num_threads",
        "inter_op_num_threads",
        "execution_mode",
        "graph_optimization_level",
        "enable_mem_pattern",
        "enable_cpu_mem_arena",
    ):
        assert getattr(mine, name) == getattr(served, name), name
    for key in ("session.intra_op.allow_spinning", "session.inter_op.allow_spinning"):
        assert mine.get_session_config_entry(key) == served.get_session_config_entry(key) == "0"


def test_settings_reach_the_session() -> None:
    options = SessionSettings(1, "none", True, False, {"session.intra_op.allow_spinning": "1"}).options()
    assert options.intra_op_num_threads == 1
    assert options.graph_optimization_level == onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    assert (options.enable_mem_pattern, options.enable_cpu_mem_arena) == (True, False)
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "1"

"""The runners of the export's benchmarks on a tiny graph; what they write obeys its schema."""

import itertools
import json
from pathlib import Path

import onnx
import pytest

import benchmarks.graphs
from benchmarks import cpu, export, folds, precisions
from benchmarks.graphs import Subject, folded_graphs, stages
from benchmarks.inference import SessionSettings
from modeling.folding import REWRITES
from tests.support.backends import tiny_onnx_artifact
from tests.support.networks import tiny_network
from tests.unit.benchmarks.test_benchmark_results import obey


@pytest.fixture
def traced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Graphs are the tiny convolution's instead of traced ones, which take a minute each."""
    written: list[Path] = []
    numbers = itertools.count()

    def write(_module: object, size: tuple[int, int], path: Path, metadata: dict[str, str]) -> None:
        source = tiny_onnx_artifact(tmp_path / f"tiny{next(numbers)}", size).file("model")
        graph = onnx.shape_inference.infer_shapes(onnx.load(source))
        onnx.helper.set_model_props(graph, metadata)
        onnx.save(graph, path)
        written.append(path)

    monkeypatch.setattr(benchmarks.graphs, "write_graph", write)
    return written


def test_the_folds_runner(traced: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "folds.json"
    options = ["--networks", "tiny:64", "--rounds", "1", "--runs", "1", "--graphs", str(tmp_path / "graphs")]
    assert folds.main(["--out", str(out), *options]) == 0
    result = json.loads(out.read_text())
    obey(result, "folds")
    assert [row["stage"] for row in result["networks"][0]["stages"]] == ["unfolded", *REWRITES]
    assert result["networks"][0]["stages"][0]["macs"] == 64 * 64 * 27
    assert len(traced) == 1 + len(REWRITES)
    lines = folds.table(result).splitlines()
    assert len(lines) == 2 + len(traced)
    assert lines[2].startswith("| as trained | 0.00 | 0.00 | 0 | 6 |")


def test_no_rounds_measure_no_time(traced: list[Path], tmp_path: Path) -> None:
    assert traced == []
    assert folds.main(["--out", str(tmp_path / "folds.json"), "--networks", "tiny:64", "--rounds", "0"]) == 0
    result = json.loads((tmp_path / "folds.json").read_text())
    obey(result, "folds")
    assert folds.table(result).splitlines()[2].endswith("| — | — | — | — |")


def test_the_export_runner(traced: list[Path], tmp_path: Path) -> None:
    options = ["--networks", "tiny:64", "--rounds", "1", "--runs", "1"]
    assert export.main(["--out", str(tmp_path / "export.json"), *options]) == 0
    result = json.loads((tmp_path / "export.json").read_text())
    obey(result, "export")
    names = [row["export"] for row in result["networks"][0]["exports"]]
    assert names == ["folded", "unfolded", "four gathers"]
    assert len(traced) == 3
    assert export.table(result).splitlines()[2].startswith("| `tiny` at 64×64, folded |")


def test_graphs_are_written_again_when_the_code_has_changed(
    traced: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = Subject("tiny", (64, 64))
    folded_graphs(subject, tmp_path / "graphs")
    count = len(traced)
    folded_graphs(subject, tmp_path / "graphs")
    assert len(traced) == count
    monkeypatch.setattr(benchmarks.graphs, "_code", lambda: "other code")
    folded_graphs(subject, tmp_path / "graphs")
    assert len(traced) == 2 * count


def test_every_stage_has_a_title_and_builds_on_the_last() -> None:
    found = dict(stages(tiny_network()))
    assert list(found) == list(folds.TITLES)
    last = {type(module).__name__ for module in found["attention"].modules()}
    for name in ("TwoScaleDecoder", "SummedPyramid", "ImageConvolution", "ConstantWindowAttention"):
        assert name in last
    assert "BatchNorm2d" not in last


def test_an_unknown_network_is_refused() -> None:
    with pytest.raises(ValueError, match="expected embedded, swin_v1_l, swin_v1_t, tiny, found 'resnet'"):
        Subject.parse("resnet:64")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_cpu_runner(tmp_path: Path) -> None:
    graph = tiny_onnx_artifact(tmp_path / "tiny", (32, 32)).file("model")
    variants = [
        cpu.Variant(cpu.SERVED),
        cpu.Variant("one thread, two images", SessionSettings(threads=1), batch=2),
        cpu.Variant("int8", convert=precisions.static_int8("Conv", images=2)),
        cpu.Variant("beforehand", SessionSettings(level="none"), precisions.optimised),
        cpu.Variant("half", convert=precisions.half),
    ]
    rows = cpu.measure(graph, variants, cpu.Effort(rounds=1, runs=1, images=2, side=32))
    assert [row["variant"] for row in rows] == [variant.name for variant in variants]
    differences = [row["quality"]["max_alpha_difference"] for row in rows]
    assert differences[0] == differences[1] == 0.0
    assert 1e-3 < differences[2] < 0.2
    assert 0 < differences[4] < 1e-2
    assert all(set(row["quality"]["sets"]) == set(cpu.QUALITY_SETS) for row in rows)
    table = cpu.table({"variants": rows}).splitlines()
    assert len(table) == 2 + len(variants)
    assert table[2].startswith("| as served |")

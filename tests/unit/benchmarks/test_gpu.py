"""The measurement for machines with a GPU, rehearsed without one."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import onnx
import pytest
import referencing
import torch
from onnx import numpy_helper
from PIL import Image

from artifact import NewFile, write_artifact
from benchmarks import machine
from benchmarks.gpu.__main__ import SECTIONS, main
from benchmarks.gpu.bottleneck import PARTS, Usage
from benchmarks.gpu.clock import Clock
from benchmarks.gpu.machine import describe_gpu
from benchmarks.gpu.merge import main as merge
from benchmarks.gpu.parity import _measure_half_onnx
from benchmarks.gpu.plots import PLOTS
from benchmarks.gpu.plots import main as plots
from benchmarks.gpu.report import Report
from benchmarks.gpu.roofline import operators, parts_table, roofline, table
from benchmarks.gpu.subjects import Context, difference
from modeling.birefnet.config import SWIN_T
from tests.support.backends import tiny_onnx_artifact
from tests.support.networks import TINY

SCHEMA = json.loads((Path(machine.__file__).parent / "schemas" / "gpu.json").read_text())
IN_PROCESS = ("kernels", "parity", "throughput", "parts", "finish", "official")


def valid(path: Path) -> dict[str, Any]:
    """A result that obeys the schema."""
    result: dict[str, Any] = json.loads(path.read_text(), parse_constant=pytest.fail)  # NaN is no JSON
    jsonschema.Draft202012Validator(SCHEMA, registry=referencing.Registry()).validate(result)
    return result


def rows_of(result: dict[str, Any], section: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = result["sections"][section]["rows"]
    return rows


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("gpu") / "out" / "gpu.json"
    assert main(["--dry-run", "--out", str(out), "--section", *IN_PROCESS]) == 0
    return valid(out)


def test_a_rehearsal_runs_every_section(rehearsal: dict[str, Any]) -> None:
    assert list(rehearsal["sections"]) == ["ceilings", *IN_PROCESS]
    assert all(entry["finished"] for entry in rehearsal["sections"].values())
    assert rehearsal["machine"]["gpu"] == {"name": "none"}
    assert rehearsal["machine"]["versions"]["torch"]


def test_a_rehearsal_measures_the_network_it_runs(rehearsal: dict[str, Any]) -> None:
    rows = rows_of(rehearsal, "throughput")
    assert [row["batch"] for row in rows] == [1, 2]
    for row in rows:
        assert row["measured"]
        assert row["max_abs"] < 1e-3  # folded against unfolded, both fp32
        assert row["roofline_ms"] > 0
    for row in rows_of(rehearsal, "parity"):
        assert row["measured"] or row["backend"] in {"tensorrt", "ort-cuda"} or "--artifact" in row["reason"]
    (parts,) = rows_of(rehearsal, "parts")
    assert {"backbone, both scales", "decoder_block1", "perceptrons"} <= set(parts["parts_ms"])


def test_host_and_device_finish_the_same_matte(rehearsal: dict[str, Any]) -> None:
    rows = rows_of(rehearsal, "finish")
    assert [(row["place"], row["colours"]) for row in rows] == [
        (place, colours) for colours in (False, True) for place in ("host", "device")
    ]
    for row in rows:
        assert row["measured"]
        assert row["max_levels"] <= 1
        assert row["host_cpu_ms"] >= 0
        assert row["pcie_bytes"] > 0
        assert (row["max_levels_colours"] is None) != row["colours"]


def test_what_cannot_be_measured_here_says_why(rehearsal: dict[str, Any]) -> None:
    official = rows_of(rehearsal, "official")
    assert {row["backend"] for row in official} == {"official-eager", "official-compiled"}
    assert all("--official" in row["reason"] for row in official)
    for row in rows_of(rehearsal, "kernels"):
        assert not row["measured"]
        assert "GPU" in row["reason"] or "torchvision" in row["reason"]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_rehearsal_of_what_runs_in_processes_of_its_own(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    assert main(["--dry-run", "--out", str(out), "--section", "tests", "server", "train", "train_matte"]) == 0
    result = valid(out)
    assert all(row["measured"] for name in result["sections"] for row in rows_of(result, name)), result["sections"]
    for name in ("refiner.safetensors", "refiner-log.csv", "matte.safetensors", "matte-log.csv"):
        assert (tmp_path / name).exists(), name


def test_every_section_has_its_place_in_the_schema() -> None:
    names = SCHEMA["properties"]["sections"]["propertyNames"]["enum"]
    assert names == ["ceilings", *SECTIONS]


def test_a_section_whose_modules_cannot_be_imported_costs_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("benchmarks.gpu.kernels", "benchmarks.gpu.official"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "benchmarks.gpu.kernels", None)
    out = tmp_path / "gpu.json"
    assert main(["--dry-run", "--out", str(out), "--section", "kernels", "official"]) == 0
    result = valid(out)
    assert "ModuleNotFoundError" in rows_of(result, "kernels")[0]["reason"]
    assert result["sections"]["official"]["finished"]


def test_sections_and_their_times_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(SECTIONS)


def test_without_a_gpu_only_rehearsals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="expected a GPU that torch sees, found none"):
        main(["--out", str(tmp_path / "gpu.json")])
    with pytest.raises(SystemExit, match="one of --out and --list"):
        main([])


def failing() -> dict[str, Any]:
    raise ValueError("no such thing")


@pytest.fixture
def report(tmp_path: Path) -> Report:
    return Report(tmp_path / "gpu.json", ["-o", "gpu.json"], describe_gpu(torch.device("cpu")))


def test_a_failed_row_loses_no_other(report: Report, tmp_path: Path) -> None:
    with report.section("parts"):
        assert report.measure({"name": "one"}, lambda: {"ms": 1.0}) == {"ms": 1.0}
        assert report.measure({"name": "two"}, failing) is None
        report.measure({"name": "three"}, lambda: {"ms": 3.0})
    with report.section("official"):
        report.add({"name": "four", "measured": True})
        failing()
    rows = rows_of(valid(tmp_path / "gpu.json"), "parts")
    assert [row["measured"] for row in rows] == [True, False, True]
    assert rows[1]["reason"] == "ValueError: no such thing"
    ended = valid(tmp_path / "gpu.json")["sections"]["official"]
    assert not ended["finished"]
    assert [row["measured"] for row in ended["rows"]] == [True, False]


def test_every_row_is_in_the_file_at_once(report: Report, tmp_path: Path) -> None:
    with report.section("parts"):
        for count in (1, 2):
            report.add({"measured": True})
            assert len(rows_of(valid(tmp_path / "gpu.json"), "parts")) == count


def test_results_of_several_calls_are_merged(report: Report, tmp_path: Path) -> None:
    with report.section("parts"):
        report.add({"measured": True, "name": "first"})
    second = Report(tmp_path / "second.json", ["-o", "second.json"], describe_gpu(torch.device("cpu")))
    second.skip("parts", "no time")
    with second.section("kernels"):
        second.add({"measured": True})
    out = tmp_path / "both.json"
    assert merge([str(tmp_path / "gpu.json"), str(tmp_path / "second.json"), "-o", str(out)]) == 0
    both = valid(out)
    assert rows_of(both, "parts") == [{"measured": True, "name": "first"}]
    assert set(both["sections"]) == {"parts", "kernels"}
    sha = both["machine"]["commit"]["sha"]
    assert merge([str(out), "-o", str(out), "--commit", sha]) == 0
    assert valid(out)["machine"]["commit"] == {"sha": sha, "dirty": False}
    with pytest.raises(ValueError, match=f"expected results of abc, found {sha}"):
        merge([str(out), "-o", str(out), "--commit", "abc"])
    other = json.loads((tmp_path / "second.json").read_text())
    other["machine"]["gpu"]["name"] = "another"
    (tmp_path / "second.json").write_text(json.dumps(other))
    with pytest.raises(ValueError, match="expected results of one GPU, found another, none"):
        merge([str(tmp_path / "gpu.json"), str(tmp_path / "second.json"), "-o", str(out)])


def test_numbers_that_are_none_are_no_figure() -> None:
    with pytest.raises(ArithmeticError, match="found 1 that are none"):
        difference(torch.tensor([1.0, float("nan")]), torch.ones(2))


def test_the_roofline_takes_the_larger_of_products_and_memory() -> None:
    slow_products = {"tflops": 1e-3, "gigabytes_per_second": 1e9}
    slow_memory = {"tflops": 1e9, "gigabytes_per_second": 1e-3}
    found = roofline(TINY, (64, 96), 2, slow_products)
    assert found["ms"] == pytest.approx(found["gflop"] * 1e3, rel=1e-6)
    assert roofline(TINY, (64, 96), 2, slow_memory)["ms"] == pytest.approx(found["gigabytes"] * 1e6, rel=1e-6)
    assert found["products_ms"] <= found["ms"]


def test_the_roofline_counts_what_the_network_multiplies() -> None:
    """reference/birefnet.md, 5.3: 320.98 GMAC for Swin-T at 1024; folds take some 9 % of them away."""
    products = sum(flops for _, flops, _ in operators(SWIN_T, (1024, 1024), 1)) / 2e9
    assert 0.88 * 320.98 < products < 0.94 * 320.98
    deformable = [flops for name, flops, _ in operators(SWIN_T, (1024, 1024), 1) if name == "deform_conv"]
    assert len(deformable) == 20
    assert sum(deformable) / 2e9 == pytest.approx(86.57, abs=0.01)
    twice = sum(flops for _, flops, _ in operators(TINY, (64, 96), 2))
    assert twice == 2 * sum(flops for _, flops, _ in operators(TINY, (64, 96), 1))


@pytest.mark.slow
def test_the_page_has_the_rooflines_of_its_command() -> None:
    page = (Path(machine.__file__).parents[1] / "docs" / "performance.md").read_text()
    assert "--tflops 788 --gigabytes-per-second 4300 --parts" in page
    ceilings = {"tflops": 788.0, "gigabytes_per_second": 4300.0}
    assert table(ceilings) in page
    assert parts_table(ceilings) in page


def usage(**changes: Any) -> Usage:
    idle = Usage(10.0, 0.5, 5.0, 2.0, 1.0, 4.0, 4.0, False, {"decode": 2.0, "encode": 3.0, "infer": 90.0})
    return replace(idle, **changes)


@pytest.mark.parametrize(
    ("used", "expected"),
    [
        (usage(), "none"),
        (usage(device_s=9.7), "device"),
        (usage(device_s=9.7, devices=2.0), "none"),
        (usage(host_s=39.0, process_s=40.0), "host, encode"),
        (usage(host_s=39.0, process_s=40.0, stages_s={"decode": 9.0, "encode": 3.0}), "host, decode"),
        (usage(client_s=9.9, device_s=9.0), "client"),
        (usage(process_s=13.5), "interpreter"),
        (usage(process_s=13.5, device_s=9.6, on_host=True), "device"),
    ],
)
def test_the_bottleneck_is_the_part_with_nothing_left(used: Usage, expected: str) -> None:
    assert used.bottleneck() == expected
    assert set(used.shares) == set(PARTS)


def test_the_official_figure_stands_beside_ours_after_the_merge(tmp_path: Path, rehearsal: dict[str, Any]) -> None:
    official = {"backbone": "tiny", "size": [64, 96], "precision": "fp16", "measured": True}
    rows = [
        {**official, "backend": "official-eager", "batch": batch, "images_per_second": rate}
        for batch, rate in ((1, 20.0), (4, 30.0), (8, 25.0))
    ]
    rows.append({**official, "backend": "official-compiled", "size": [8, 8], "batch": 1, "images_per_second": 99.0})
    second = {**rehearsal, "sections": {"official": {"finished": True, "seconds": 1.0, "rows": rows}}}
    paths = [tmp_path / "first.json", tmp_path / "second.json"]
    for path, result in zip(paths, (rehearsal, second), strict=True):
        path.write_text(json.dumps(result))
    assert merge([*map(str, paths), "-o", str(tmp_path / "both.json")]) == 0
    for row in rows_of(valid(tmp_path / "both.json"), "throughput"):
        assert row["official_images_per_second"] == 30.0
        assert row["official_compiled_images_per_second"] is None


SERVER_ROW = {
    "name": "small JPEG to grey PNG",
    "measured": True,
    "backbone": "tiny",
    "size": [64, 96],
    "backend": "torch",
    "streams": 1,
    "clients": 2,
    "images_per_second": 8.0,
    "engine_images_per_second": 10.0,
    "engine_share": 0.8,
    "bottleneck": "host, encode",
    "used_shares": {"client": 0.1, "device": 0.7, "host": 0.9, "interpreter": 0.2},
    "mean_batch": 1.5,
    "alone": {},
    "loaded": {},
    "stage_median_ms": {},
    "stage_s": {},
}


def test_pictures_and_tables_are_made_of_what_was_measured(
    tmp_path: Path, rehearsal: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    server = {"finished": True, "seconds": 1.0, "rows": [SERVER_ROW]}
    (tmp_path / "gpu.json").write_text(
        json.dumps({**rehearsal, "sections": {**rehearsal["sections"], "server": server}})
    )
    valid(tmp_path / "gpu.json")
    assert plots([str(tmp_path / "gpu.json"), "-o", str(tmp_path / "images")]) == 0
    for name in PLOTS:
        with Image.open(tmp_path / "images" / name) as picture:
            assert picture.format == "PNG"
            assert np.asarray(picture.convert("L")).std() > 5, "it is not blank"
    printed = capsys.readouterr()
    assert printed.err == ""
    assert "| tiny 64×96 | fp32 | 2 |" in printed.out
    assert "| small JPEG to grey PNG | 1 | 8.0 | 80 % | host, encode | 1.5 |" in printed.out


def test_pictures_of_what_was_not_measured_are_left_out(
    tmp_path: Path, report: Report, capsys: pytest.CaptureFixture[str]
) -> None:
    with report.section("throughput"):
        report.unmeasured({"backend": "torch"}, "no GPU")
    capsys.readouterr()
    assert plots([str(tmp_path / "gpu.json"), "-o", str(tmp_path / "images")]) == 0
    assert list((tmp_path / "images").iterdir()) == []
    assert capsys.readouterr().err.splitlines() == [f"{name}: nothing of it was measured" for name in PLOTS]


@pytest.mark.parametrize("missing", ["engine_share", "bottleneck", "used_shares"])
def test_the_schema_asks_of_a_loaded_server_what_it_waits_for(tmp_path: Path, report: Report, missing: str) -> None:
    with report.section("server"):
        report.add(SERVER_ROW)
    assert rows_of(valid(tmp_path / "gpu.json"), "server") == [SERVER_ROW]
    with report.section("server"):
        report.add({name: value for name, value in SERVER_ROW.items() if name != missing})
    with pytest.raises(jsonschema.ValidationError, match=missing):
        valid(tmp_path / "gpu.json")


def test_a_half_precision_graph_is_held_against_its_fp32_graph(tmp_path: Path) -> None:
    """A graph that is off by a known amount stands in for one that rounds."""
    exact = tiny_onnx_artifact(tmp_path / "tiny", (32, 32))
    graph = onnx.load(exact.file("model"))
    graph.graph.initializer[0].CopyFrom(
        numpy_helper.from_array(np.array(1 / 254, np.float32), graph.graph.initializer[0].name)
    )
    onnx.save(graph, tmp_path / "half.onnx")
    files = {
        role: NewFile(exact.file(role), entry.path, entry.precision) for role, entry in exact.manifest.files.items()
    }
    files["model_fp16"] = NewFile(tmp_path / "half.onnx", "model.fp16.onnx", "fp16")
    artifact = write_artifact(tmp_path / "both", replace(exact.manifest, files={}), files)
    report = Report(tmp_path / "gpu.json", ["-o", "gpu.json"], describe_gpu(torch.device("cpu")))
    device = torch.device("cpu")
    context = Context(report, device, Clock(device), True, tmp_path, tmp_path, artifact=artifact.directory)
    with report.section("parity"):
        _measure_half_onnx(context)
    on_cpu, on_gpu = rows_of(valid(tmp_path / "gpu.json"), "parity")
    assert (on_cpu["backend"], on_cpu["precision"], on_cpu["backbone"]) == ("ort-cpu", "fp16", "none")
    assert 1e-4 < on_cpu["max_abs"] < 1e-2
    assert not on_gpu["measured"]

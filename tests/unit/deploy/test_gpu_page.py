"""The errors that docs/gpu.md tells operators of are the ones that the code gives, to the word."""

import re
import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from artifact import Artifact, NewFile, Profile, open_artifact, write_artifact
from model_export.tensorrt_build import PlanRequest, build_tensorrt
from model_export.tensorrt_builder import BuildOptions, build_plan
from server.backends.trt import TrtBackend, TrtOptions
from server.engine.warmup import Search, warm_up
from tests.support.backends import tiny_onnx_artifact
from tests.support.fake_tensorrt import FakeTensorrt
from tests.support.plans import FakePlatform, fake_platform, typed_artifact, with_plan
from tests.support.processes import ROOT

PAGE = (ROOT / "docs" / "gpu.md").read_text()
ROWS = re.findall(r"^\| `([^`]+(?:`[^|]*`[^`]+)*)` \|", PAGE.split("\n## Errors\n")[1].split("\n## ")[0], re.M)


def pattern(row: str) -> re.Pattern[str]:
    """A row as a pattern: an ellipsis stands for anything."""
    return re.compile(".*".join(re.escape(part) for part in row.split("…")), re.S)


def messages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Iterator[str]:
    """Every error, as it comes out of the code that runs into it."""
    artifact = typed_artifact(tmp_path / "artifact")
    yield from of_the_platform(artifact, monkeypatch)
    yield from of_the_build(artifact, tmp_path)
    yield from of_the_server(artifact, tmp_path)
    gpu = fake_platform()
    gpu.tensorrt.capturable = False
    planned = with_plan(artifact, gpu.key(artifact), tmp_path)
    run_all(warm_up(TrtBackend(TrtOptions(), gpu.platform), "tiny", planned, Search(1)))
    yield from (record.getMessage() for record in caplog.records if record.name == "plans.runner")


def of_the_platform(artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    def build() -> None:
        build_tensorrt(PlanRequest(artifact.directory), print)

    monkeypatch.setitem(sys.modules, "tensorrt", None)
    yield said(build)
    tensorrt = types.ModuleType("tensorrt")
    monkeypatch.setitem(sys.modules, "tensorrt", tensorrt)
    monkeypatch.setattr(tensorrt, "__version__", "8.6.1", raising=False)
    yield said(build)
    monkeypatch.setattr(tensorrt, "__version__", "10.13.2.6")
    yield said(lambda: TrtBackend(TrtOptions(device=99)))
    yield said(lambda: build_tensorrt(PlanRequest(artifact.directory, device=99), print))
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
    yield said(build)


def of_the_build(artifact: Artifact, tmp_path: Path) -> Iterator[str]:
    yield said(lambda: build_tensorrt(PlanRequest(tiny_onnx_artifact(tmp_path / "plain").directory), print))

    def build(break_it: Callable[[FakePlatform], None], **request: object) -> str:
        gpu = fake_platform()
        break_it(gpu)
        return said(lambda: build_tensorrt(PlanRequest(artifact.directory, **request), print, gpu.platform))  # type: ignore[arg-type]

    yield build(lambda gpu: gpu.tensorrt.broken.update(build="OutOfMemory"))
    yield build(lambda gpu: gpu.tensorrt.broken.update(execute="OutOfMemory"))
    yield build(lambda gpu: setattr(gpu.tensorrt, "error_offset", 1.0))
    yield build(lambda gpu: None, profile=Profile(1, 1, 99))

    def exchange(gpu: FakePlatform) -> None:
        graph = NewFile(artifact.file("self_test"), "model.trt.onnx", "fp16")
        gpu.tensorrt.on_step = lambda: write_artifact(artifact.directory, artifact.manifest, {"model_trt": graph})

    graph = NewFile(tmp_path / "graph.onnx", "model.trt.onnx", "fp16")
    graph.source.write_bytes(artifact.file("model_trt").read_bytes())
    yield build(exchange)
    write_artifact(artifact.directory, artifact.manifest, {"model_trt": graph})

    bare = Artifact(artifact.directory, replace(artifact.manifest, io="tensor"))
    write_artifact(bare.directory, bare.manifest, {})
    yield build(lambda gpu: None)
    write_artifact(artifact.directory, artifact.manifest, {})

    foreign = artifact.directory / fake_platform().key(artifact, Profile(1, 8, 8)).file
    foreign.touch()
    yield build(lambda gpu: None)
    foreign.unlink()

    gpu = fake_platform()
    yield said(
        lambda: build_plan(unparsing(gpu.tensorrt), artifact.file("model"), BuildOptions(Profile(1, 1, 1)), print)
    )


def of_the_server(artifact: Artifact, tmp_path: Path) -> Iterator[str]:
    gpu = fake_platform()

    def load(other: Artifact) -> str:
        return said(lambda: TrtBackend(TrtOptions(), gpu.platform).load("tiny", other))

    key = gpu.key(artifact)
    yield load(artifact)
    elsewhere = with_plan(artifact, replace(key, gpu="NVIDIA A10"), tmp_path)
    yield load(elsewhere)
    stale = with_plan(artifact, replace(key, graph_sha256="0" * 64), tmp_path)
    yield load(stale)
    planned = with_plan(artifact, key, tmp_path)
    gpu.tensorrt.error_offset = 1.0
    yield said(lambda: run_all(warm_up(TrtBackend(TrtOptions(), gpu.platform), "tiny", planned, Search(1))))
    planned.file(key.role).write_bytes(b"cut off")
    yield load(planned)
    yield said(lambda: open_artifact(planned.directory))


def unparsing(tensorrt: FakeTensorrt) -> FakeTensorrt:
    """One whose parser takes nothing."""

    class Error:
        node_name = staticmethod(lambda: "node_7")
        node_operator = staticmethod(lambda: "DeformConv")
        desc = staticmethod(lambda: "Plugin not found")

    class Parser:
        num_errors = 1
        parse_from_file = staticmethod(lambda path: False)
        get_error = staticmethod(lambda index: Error)

    tensorrt.OnnxParser = lambda network, logger: Parser  # type: ignore[method-assign, assignment, return-value]
    return tensorrt


def said(act: Callable[[], object]) -> str:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - which one, is what the page says
        act()
    return str(caught.value)


def run_all(slices) -> None:
    for _ in slices:
        pass


# Needs a read-only file system, which root ignores; `tests/unit/model_export` has the writer's own test.
ELSEWHERE = {"expected a place to write to, found …"}


def test_every_error_of_the_page_is_one_of_the_codes_and_the_other_way_round(tmp_path, monkeypatch, caplog):
    found = list(messages(tmp_path, monkeypatch, caplog))
    unknown = [row for row in ROWS if row not in ELSEWHERE and not any(pattern(row).search(each) for each in found)]
    assert unknown == []
    untold = [each for each in found if not any(pattern(row).search(each) for row in ROWS)]
    assert untold == []
    assert len(ROWS) > 18

"""The graphs for TensorRT are parsed and built for real, by TensorRT for RTX, which needs no GPU for it.

What runs here is `model_export.tensorrt_builder`, the code that builds plans with TensorRT 10 and 11. The plans cannot
run on a CPU: numerics are ONNX Runtime's part (`test_export_precisions`, `test_export_released`).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

import server
from artifact import Profile
from model_export.errors import ExportError
from model_export.graph import write_graph
from model_export.precision import PRECISIONS
from model_export.tensorrt_builder import BuildOptions, build_plan
from model_export.traceable import traceable
from modeling.birefnet.config import SWIN_L, SWIN_T, BiRefNetConfig
from modeling.birefnet.network import BiRefNet
from modeling.weights import load_network
from tests.support.backends import tiny_onnx_artifact
from tests.support.networks import seeded_network
from tests.support.tensorrt_rtx import COMPUTE_CAPABILITIES, is_offered, tensorrt_rtx

pytestmark = [pytest.mark.skipif(not is_offered(), reason="no wheels of TensorRT for RTX for this machine")]

ROOT = Path(server.__file__).parents[1]
TYPED = next(each for each in PRECISIONS if each.name == "fp16-tensorrt")
RELEASED: dict[str, BiRefNetConfig] = {"swin_v1_t": SWIN_T, "swin_v1_l": SWIN_L}


def typed_graph(network: BiRefNet, side: int, folder: Path) -> Path:
    """The graph for TensorRT of a network, as the export writes it."""
    path = folder / "model.trt.onnx"
    write_graph(traceable(network, TYPED, "image"), (side, side), path, {})
    return path


def build(graph: Path, said: list[str] | None = None, **options: Any) -> bytes:
    settings = {"profile": Profile(1, 2, 4), "compute_capabilities": COMPUTE_CAPABILITIES, **options}
    report = said.append if said is not None else lambda message: None
    return build_plan(tensorrt_rtx(), graph, BuildOptions(**settings), report)


def small_graph(
    path: Path, operator: str, inputs: Mapping[str, int], sides: tuple[Any, ...], **attributes: Any
) -> Path:
    """A graph of one node; its inputs by name and type, with a free batch axis and the same other sides."""
    values = [helper.make_tensor_value_info(name, kind, ["batch", *sides]) for name, kind in inputs.items()]
    alpha = helper.make_tensor_value_info("alpha", TensorProto.FLOAT, None)
    node = helper.make_node(operator, list(inputs), ["alpha"], name="the_node", **attributes)
    graph = helper.make_graph([node], "small", values, [alpha])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A graph of six nodes under the matte contract: bytes in."""
    return tiny_onnx_artifact(tmp_path / "tiny").file("model")


@pytest.mark.timeout(900)  # the export's tracing takes half a minute of processor time
def test_the_embedded_network_becomes_a_plan(tmp_path: Path) -> None:
    graph = typed_graph(load_network(ROOT / "training" / "checkpoints" / "compact.safetensors"), 384, tmp_path)
    weights = sum(len(tensor.raw_data) for tensor in onnx.load(graph).graph.initializer)
    assert len(build(graph)) > weights / 2


def test_the_embedded_refiner_becomes_a_plan_in_fp32() -> None:
    """The very file of the package: docs/gpu.md has operators build it."""
    assert len(build(ROOT / "server" / "default_model" / "refine" / "model.onnx", tf32=False)) > 1 << 20


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("side", [256, 1024])
@pytest.mark.parametrize("backbone", RELEASED)
def test_the_released_architectures_become_plans(backbone: str, side: int, tmp_path: Path) -> None:
    graph = typed_graph(seeded_network(RELEASED[backbone]), side, tmp_path)
    assert len(build(graph, profile=Profile(1, 8, 16))) > 90 << 20


def test_what_is_done_is_said(tiny: Path) -> None:
    said: list[str] = []
    assert build(tiny, said)
    assert said[:2] == ["parsing model.onnx", "building for batches of 1-2-4"]


def test_options_are_taken(tiny: Path) -> None:
    assert build(tiny, workspace_mib=256, level=2, tf32=False)


def test_deformable_convolution_is_refused_with_the_nodes_name(tmp_path: Path) -> None:
    """Why the graph for TensorRT has none: a plugin runs it, which computes coordinates in half, or is missing."""
    inputs = dict.fromkeys(("x", "weight", "offset"), TensorProto.FLOAT)
    graph = small_graph(tmp_path / "deform.onnx", "DeformConv", inputs, (2, 4, 4), kernel_shape=[1, 1])
    with pytest.raises(
        ExportError, match=r"that TensorRT parses, found: node `the_node` \(DeformConv\): .*Plugin not found"
    ):
        build(graph)


def test_a_file_that_is_no_graph(tmp_path: Path) -> None:
    path = tmp_path / "model.trt.onnx"
    path.write_bytes(b"not a protobuf")
    with pytest.raises(ExportError, match=r"model\.trt\.onnx: expected a graph that TensorRT parses, found: ."):
        build(path)


def test_a_graph_with_another_free_axis_is_refused(tmp_path: Path) -> None:
    graph = small_graph(tmp_path / "free.onnx", "Sigmoid", {"image": TensorProto.FLOAT}, ("height", 8))
    with pytest.raises(ExportError, match="expected a graph with a free batch axis alone, found `image`"):
        build(graph)


def test_a_mixture_of_types_is_an_error_and_not_a_silent_conversion(tmp_path: Path) -> None:
    """The network is strongly typed."""
    same = dict.fromkeys(("a", "b"), TensorProto.FLOAT)
    assert build(small_graph(tmp_path / "same.onnx", "MatMul", same, (4, 4)))
    mixed = {"a": TensorProto.FLOAT, "b": TensorProto.FLOAT16}
    with pytest.raises(ExportError, match="the_node"):
        build(small_graph(tmp_path / "mixed.onnx", "MatMul", mixed, (4, 4)))


def test_bytes_are_an_input_that_is_converted_before_anything_else(tmp_path: Path) -> None:
    """What TensorRT says to a graph that moves them first, as ours once did."""
    graph = small_graph(
        tmp_path / "moved.onnx", "Transpose", {"image": TensorProto.UINT8}, (4, 4, 3), perm=[0, 3, 1, 2]
    )
    with pytest.raises(ExportError, match=r"node `the_node` \(Transpose\): .*UInt8"):
        build(graph)


def test_an_interrupted_build_ends(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model_export.tensorrt_builder._REPORT_EVERY_S", 0.0)

    def report(message: str) -> None:
        if not message.startswith(("parsing", "building for")):
            raise KeyboardInterrupt

    options = BuildOptions(Profile(1, 2, 4), compute_capabilities=COMPUTE_CAPABILITIES)
    with pytest.raises(KeyboardInterrupt):
        build_plan(tensorrt_rtx(), tiny, options, report)

"""Graphs beside the canonical one: what they are made of, what they take and give, and that they are proven."""

import collections

import numpy as np
import onnx
import pytest
import torch

from artifact import Artifact, load_self_test, open_artifact
from model_export.__main__ import main
from model_export.runner import NetworkRunner, OnnxRunner
from model_export.sample_inputs import sample_inputs
from modeling.weights import load_network
from tests.support.networks import tiny_checkpoint, tiny_network
from tests.support.tolerance import HALF_ALPHA_MAX, HALF_ALPHA_MEAN

SIZE = (96, 64)
ROLES = {"model_fp16": "model.fp16.onnx", "model_trt": "model.trt.onnx"}
FLOATS = {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    folder = tmp_path_factory.mktemp("precisions")
    options = ["--size", "96x64", "--precision", "fp16", "--precision", "fp16-tensorrt", "--with-weights"]
    assert main(["onnx", str(tiny_checkpoint(folder)), "-o", str(folder / "out"), *options]) == 0
    return open_artifact(folder / "out")


def graph_of(artifact: Artifact, role: str) -> onnx.GraphProto:
    return onnx.shape_inference.infer_shapes(onnx.load(artifact.file(role))).graph


def operators(artifact: Artifact, role: str) -> collections.Counter[str]:
    return collections.Counter(node.op_type for node in graph_of(artifact, role).node)


def test_the_manifest_names_them(exported: Artifact) -> None:
    files = exported.manifest.files
    assert {role: files[role].path for role in ROLES} == ROLES
    assert {files[role].precision for role in ROLES} == {"fp16"}
    assert files["model"].precision == "fp32"
    for role in ("model", *ROLES):
        assert exported.manifest.parity[role]["passed"]


def test_the_canonical_graph_is_what_it_is_without_them(exported: Artifact, tiny_export: Artifact) -> None:
    assert operators(exported, "model") == operators(tiny_export, "model")


@pytest.mark.parametrize("role", ROLES)
def test_inputs_and_outputs_are_the_canonical_graphs(exported: Artifact, role: str) -> None:
    def ends(which: str) -> list[tuple[str, int, list[int | str]]]:
        graph = onnx.load(exported.file(which)).graph
        return [
            (
                value.name,
                value.type.tensor_type.elem_type,
                [axis.dim_value or axis.dim_param for axis in value.type.tensor_type.shape.dim],
            )
            for value in (*graph.input, *graph.output)
        ]

    assert ends(role) == ends("model")


@pytest.mark.parametrize("role", ROLES)
def test_they_answer_what_the_network_answers(exported: Artifact, role: str) -> None:
    runner, reference = OnnxRunner(exported.file(role)), NetworkRunner(tiny_network(), torch.float64)
    images = np.stack([image for name, image in sample_inputs(SIZE) if name != "noise"])
    difference = np.abs(runner(images) - reference(images))
    assert difference.max() < HALF_ALPHA_MAX
    assert difference.mean() < HALF_ALPHA_MEAN
    assert difference.max() > 1e-6  # half precision was really used


def test_most_weights_are_half(exported: Artifact) -> None:
    weights = {
        role: collections.Counter(tensor.data_type for tensor in graph_of(exported, role).initializer)
        for role in ("model", *ROLES)
    }
    assert not weights["model"][onnx.TensorProto.FLOAT16]
    for role in ROLES:
        assert weights[role][onnx.TensorProto.FLOAT16] > weights[role][onnx.TensorProto.FLOAT]


def test_matrix_products_are_half_and_normalisations_are_not(exported: Artifact) -> None:
    for role in ROLES:
        graph = graph_of(exported, role)
        types = {tensor.name: tensor.data_type for tensor in graph.initializer}
        types |= {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.output)}
        seen = collections.defaultdict(set)
        for node in graph.node:
            seen[node.op_type].add(types[node.output[0]])
        for operator in ("MatMul", "Gemm", "Softmax", "DeformConv"):
            assert seen.get(operator, {onnx.TensorProto.FLOAT16}) == {onnx.TensorProto.FLOAT16}, operator
        assert seen["LayerNormalization"] == {onnx.TensorProto.FLOAT}


def test_every_operator_is_strongly_typed(exported: Artifact) -> None:
    """No operator mixes fp16 with fp32, so a builder that obeys types has nothing to choose."""
    graph = graph_of(exported, "model_trt")
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    types |= {
        value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.input, *graph.output)
    }
    for node in graph.node:
        if node.op_type not in {"Cast", "Resize"}:
            found = {types[name] for name in node.input if name} & FLOATS
            assert len(found) <= 1, (node.op_type, node.name, found)


def test_deformable_convolutions(exported: Artifact) -> None:
    assert operators(exported, "model_fp16")["DeformConv"] == 15
    found = operators(exported, "model_trt")
    assert found["DeformConv"] == 0
    assert found["Gather"] >= 4 * 15
    assert not {"GatherND", "GatherElements", "GridSample", "ScatterND", "Loop", "If", "NonZero"} & set(found)


def test_the_weights_are_the_networks(exported: Artifact) -> None:
    state, expected = load_network(exported.file("weights")).state_dict(), tiny_network().state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[key], value) for key, value in expected.items())


def test_the_bare_network_has_the_published_names(tensor_export: Artifact) -> None:
    manifest = tensor_export.manifest
    assert manifest.io == "tensor"
    assert (manifest.inputs[0].name, manifest.inputs[0].dtype) == ("input_image", "float32")
    assert manifest.inputs[0].shape == ("batch", 3, *SIZE)
    assert (manifest.outputs[0].name, manifest.outputs[0].shape) == ("output_image", ("batch", 1, *SIZE))
    assert manifest.parity["model"]["passed"]
    self_test = load_self_test(tensor_export)
    assert self_test.expected["output_image"].min() < 0  # logits


def test_verify_proves_every_graph(exported: Artifact, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(exported.directory)]) == 0
    said = capsys.readouterr().out
    assert [line for line in said.splitlines() if line in {"model", *ROLES}] == ["model", *ROLES]


def test_verify_proves_a_bare_network(tensor_export: Artifact) -> None:
    assert main(["verify", str(tensor_export.directory)]) == 0

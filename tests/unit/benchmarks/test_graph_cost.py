"""Costs that were worked out by hand."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from benchmarks.graph_cost import Cost, CostError, graph_cost


def value(name: str, *shape: int | str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape))


def model(nodes, between, constants, *, output=("y", "batch", 4, 64)) -> onnx.ModelProto:
    tensors = [numpy_helper.from_array(np.zeros(shape, np.float32), name) for name, shape in constants.items()]
    graph = helper.make_graph(nodes, "g", [value("x", "batch", 3, 8, 8)], [value(*output)], tensors, value_info=between)
    return helper.make_model(graph)


def small() -> onnx.ModelProto:
    """Conv to 4 channels, ReLU, a view, a product with a constant that is itself computed, a sum."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Reshape", ["r", "shape"], ["v"]),
        helper.make_node("Transpose", ["m"], ["t"]),
        helper.make_node("MatMul", ["v", "t"], ["p"]),
        helper.make_node("Add", ["p", "v"], ["y"]),
    ]
    between = [
        value("c", "batch", 4, 8, 8),
        value("r", "batch", 4, 8, 8),
        value("v", "batch", 4, 64),
        value("t", 64, 64),
        value("p", "batch", 4, 64),
    ]
    return model(nodes, between, {"w": (4, 3, 3, 3), "m": (64, 64), "shape": (3,)})


def test_a_small_graph() -> None:
    convolution, product = 4 * 64 * 27, 4 * 64 * 64
    one = 4 * 64 * 4  # bytes of each of its maps; the view has none of its own, the output is the caller's
    assert graph_cost(small()) == Cost(6, convolution + product, 3 * one, 2 * one)


def test_a_view_keeps_its_operand_alive() -> None:
    """Were the map freed after the reshape, only one map would be alive beside the next."""
    changed = small()
    for node in changed.graph.node:
        if node.op_type == "MatMul":
            node.input[0] = "v"
    nodes = list(changed.graph.node)
    nodes.insert(4, helper.make_node("Relu", ["x"], ["other"]))
    nodes.append(helper.make_node("Relu", ["other"], ["end"]))
    between = [*changed.graph.value_info, value("other", "batch", 3, 8, 8), value("end", "batch", 3, 8, 8)]
    longer = model(nodes, between, {"w": (4, 3, 3, 3), "m": (64, 64), "shape": (3,)})
    one, other = 4 * 64 * 4, 3 * 64 * 4
    assert graph_cost(longer).peak_bytes == one + one + other


def test_several_windows_an_image() -> None:
    nodes = [helper.make_node("Reshape", ["x", "shape"], ["w"]), helper.make_node("MatMul", ["w", "m"], ["y"])]
    windows = model(nodes, [value("w", "4*batch", 16, 3)], {"shape": (3,), "m": (3, 5)}, output=("y", "4*batch", 16, 5))
    assert graph_cost(windows).macs == 4 * 16 * 5 * 3


def test_grouped_and_deformable_convolutions() -> None:
    nodes = [helper.make_node("DeformConv", ["x", "w", "o"], ["y"], pads=[1, 1, 1, 1])]
    graph = model(nodes, [], {"w": (6, 3, 3, 3), "o": (1, 18, 8, 8)}, output=("y", "batch", 6, 8, 8))
    assert graph_cost(graph).macs == 6 * 64 * 27


@pytest.mark.parametrize("axis", ["width", "batch + 1"])
def test_an_axis_of_unknown_length_is_an_error(axis: str) -> None:
    nodes = [helper.make_node("Relu", ["x"], ["y"])]
    with pytest.raises(CostError, match=f"axes of `y` that follow from the batch, found '{axis.replace('+', '.')}'"):
        graph_cost(model(nodes, [], {}, output=("y", "batch", axis)))


def test_a_missing_shape_is_an_error() -> None:
    nodes = [helper.make_node("Relu", ["x"], ["r"]), helper.make_node("Relu", ["r"], ["y"])]
    with pytest.raises(CostError, match="found none for r"):
        graph_cost(model(nodes, [], {}))

"""What an ONNX graph costs by its own account: nodes, multiplications, bytes of activations. Nothing is run.

Counted is the graph as it is in the file, for one image, in the order of the file; a runtime may fuse and reorder.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx
from onnx import NodeProto, ValueInfoProto

Shape = tuple[int, ...]

# The result is the operand under another shape: no runtime copies for these.
_VIEWS = {"Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity"}
_PRODUCTS = {"Conv", "DeformConv", "MatMul", "Gemm"}


class CostError(Exception):
    """A graph whose cost cannot be told: a shape is missing, or depends on more than the batch."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one image.

    Attributes:
        nodes: Nodes in the file.
        macs: Multiply-accumulates of convolutions (deformable ones without the interpolation) and matrix products.
        activation_bytes: Sum of every tensor that is computed from the image; reshapes share their operand's.
        peak_bytes: The largest sum of such tensors that are alive at once, each from the node that makes it to the last
            that reads it, both included.
    """

    nodes: int
    macs: int
    activation_bytes: int
    peak_bytes: int


@dataclass(frozen=True, slots=True)
class _Tensors:
    shapes: Mapping[str, Shape]
    sizes: Mapping[str, int]  # bytes


def graph_cost(model: onnx.ModelProto) -> Cost:
    """Cost of a graph whose only free axis is the batch.

    Raises:
        CostError: A tensor has no recorded shape, or one that depends on anything but the batch.
    """
    graph = model.graph
    tensors = _tensors(model)
    live = {value.name for value in graph.input}  # computed from the image, as opposed to constants
    macs, made = 0, []
    for node in graph.node:
        if not any(name in live for name in node.input):
            continue
        live.update(node.output)
        made.append(node)
        if node.op_type in _PRODUCTS:
            macs += _macs(node, tensors.shapes)
    total, peak = _memory(made, tensors.sizes, [value.name for value in (*graph.input, *graph.output)])
    return Cost(len(graph.node), macs, total, peak)


def _macs(node: NodeProto, shapes: Mapping[str, Shape]) -> int:
    output = math.prod(shapes[node.output[0]])
    if node.op_type in ("Conv", "DeformConv"):
        return output * math.prod(shapes[node.input[1]][1:])
    transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
    return output * shapes[node.input[0]][0 if transposed else -1]


def _memory(nodes: Sequence[NodeProto], sizes: Mapping[str, int], kept: Sequence[str]) -> tuple[int, int]:
    """Sum and peak of the bytes of what the nodes make; the graph's own inputs and outputs are the caller's."""
    owner: dict[str, str] = {}
    last_use: dict[str, int] = {}
    for index, node in enumerate(nodes):
        for name in node.input:
            if name in owner:
                last_use[owner[name]] = index
        for name in filter(None, node.output):
            view = node.op_type in _VIEWS and node.input[0] in owner
            owner[name] = owner[node.input[0]] if view else name
            last_use[owner[name]] = index
    outside = {owner.get(name, name) for name in kept}
    ends: dict[int, list[str]] = {}
    for name, index in last_use.items():
        ends.setdefault(index, []).append(name)
    total = peak = now = 0
    for index, node in enumerate(nodes):
        new = sum(sizes[name] for name in node.output if owner.get(name) == name and name not in outside)
        total, now = total + new, now + new
        peak = max(peak, now)
        now -= sum(sizes[name] for name in ends.get(index, []) if name not in outside)
    return total, peak


def _tensors(model: onnx.ModelProto) -> _Tensors:
    graph = model.graph
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    sizes = {}
    for value in (*graph.input, *graph.value_info, *graph.output):
        shapes[value.name] = _shape(value)
        width = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type).itemsize
        sizes[value.name] = math.prod(shapes[value.name]) * width
    unknown = [name for node in graph.node for name in filter(None, node.output) if name not in shapes]
    if unknown:
        raise CostError(f"expected a shape for every tensor, found none for {', '.join(unknown[:5])}")
    return _Tensors(shapes, sizes)


def _shape(value: ValueInfoProto) -> Shape:
    axes = value.type.tensor_type.shape.dim
    return tuple(axis.dim_value if axis.HasField("dim_value") else _for_one_image(value.name, axis) for axis in axes)


def _for_one_image(name: str, axis: onnx.TensorShapeProto.Dimension) -> int:
    """The length of an axis such as `batch` or `36*batch` where the batch is one."""
    factors = [factor.strip() for factor in axis.dim_param.split("*")]
    if not all(factor == "batch" or factor.isdecimal() for factor in factors):
        raise CostError(f"expected axes of `{name}` that follow from the batch, found {axis.dim_param!r}")
    return math.prod(int(factor) for factor in factors if factor != "batch")

"""A BiRefNet ONNX file of anyone's: what it takes and gives, and the nodes that make it an artifact's graph."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from artifact import TensorSpec
from matting.normalisation import DEVIATION, MEAN
from model_export.errors import ExportError
from model_export.graph import signature

_FLOATS: dict[int, str] = {TensorProto.FLOAT: "fp32", TensorProto.FLOAT16: "fp16"}
_TRANSPARENT = {"Cast", "Identity", "Squeeze", "Unsqueeze", "Reshape", "Clip"}
_OWN = "birefnet_server/"
"""Prefix of every name that is added."""


class ForeignGraph:
    """One input (N, 3, H, W) of normalised floats; the last output is a matte, as logits or as alpha.

    Attributes:
        batch: The fixed batch; None where it is free.
    """

    def __init__(self, path: Path) -> None:
        """Read a file, with external data beside it where it has such.

        Raises:
            ExportError: It is no ONNX model, or has other inputs.
        """
        self._model = _read(path)
        self._taken = _image_input(self._model)
        batch = _axes(self._taken)[0]
        self.batch = batch if isinstance(batch, int) else None

    @property
    def input(self) -> str:
        """Name of the input."""
        return str(self._taken.name)

    @property
    def output(self) -> str:
        """Name of the last output."""
        return str(self._model.graph.output[-1].name)

    @property
    def dtype(self) -> str:
        """`fp32` or `fp16`: what most of the weights are."""
        counts = dict.fromkeys(_FLOATS, 0)
        for tensor in self._model.graph.initializer:
            if tensor.data_type in counts:
                counts[tensor.data_type] += int(np.prod(tensor.dims))
        return _FLOATS[max(counts, key=lambda kind: counts[kind])]

    @property
    def ends_in_sigmoid(self) -> bool:
        """Whether the last output is a sigmoid's, but for its type and shape."""
        producers = {name: node for node in self._model.graph.node for name in node.output}
        name = self.output
        while name in producers and producers[name].op_type in _TRANSPARENT:
            name = producers[name].input[0]
        return name in producers and producers[name].op_type == "Sigmoid"

    def fix_size(self, wanted: tuple[int, int] | None) -> tuple[int, int]:
        """Give height and width, which the graph may have left free, their values.

        Raises:
            ExportError: They are free and nothing is wanted, or fixed to something else.
        """
        found = _axes(self._taken)[2:]
        if wanted is None:
            if not all(isinstance(axis, int) for axis in found):
                raise ExportError(f"expected a fixed height and width, found {found}: say --size HEIGHTxWIDTH")
            wanted = (int(found[0]), int(found[1]))
        if any(isinstance(axis, int) and axis != side for axis, side in zip(found, wanted, strict=True)):
            fixed = "x".join(map(str, found))
            raise ExportError(f"expected {fixed}, the size that the graph is fixed to, found {wanted[0]}x{wanted[1]}")
        for axis, side in zip(self._taken.type.tensor_type.shape.dim[2:], wanted, strict=True):
            axis.dim_value = side
        return wanted

    def signature(self, size: tuple[int, int]) -> tuple[TensorSpec, TensorSpec]:
        """Input and output of the artifact's graph."""
        image, alpha = signature("image", size)
        if self.batch is None:
            return image, alpha
        return (
            TensorSpec(image.name, image.dtype, (self.batch, *image.shape[1:])),
            TensorSpec(alpha.name, alpha.dtype, (self.batch, *alpha.shape[1:])),
        )

    def wrap(self, size: tuple[int, int], *, logits: bool, path: Path) -> None:
        """Write the graph with layout, normalisation and sigmoid inside. The object is used up.

        Raises:
            ExportError: It is larger than one ONNX file can be.
        """
        graph = self._model.graph
        image, alpha = self.signature(size)
        _rename(graph, lambda name: name in {image.name, alpha.name} or name.startswith(_OWN))
        graph.initializer.extend(self._constants(size))
        nodes = [*self._before(image.name), *graph.node, *self._after(alpha.name, logits=logits)]
        del graph.node[:]
        graph.node.extend(nodes)
        weights = {tensor.name for tensor in graph.initializer}
        kept = [value for value in graph.input if value.name in weights]
        del graph.input[:]
        graph.input.extend([helper.make_tensor_value_info(image.name, TensorProto.UINT8, image.shape), *kept])
        del graph.output[:]
        graph.output.extend([helper.make_tensor_value_info(alpha.name, TensorProto.FLOAT, alpha.shape)])
        try:
            onnx.save(self._model, path)
        except ValueError as error:  # over 2 GB, which protobuf cannot write
            raise ExportError(f"the graph cannot be written as one file: {error}") from error

    def _constants(self, size: tuple[int, int]) -> list[TensorProto]:
        deviation = np.array(DEVIATION)
        values = {
            "scale": (1.0 / (255.0 * deviation)).reshape(1, 3, 1, 1).astype(np.float32),
            "shift": (-np.array(MEAN) / deviation).reshape(1, 3, 1, 1).astype(np.float32),
            "shape": np.array([self.batch or 0, *size], np.int64),  # zero copies the axis of the input
        }
        return [numpy_helper.from_array(value, _OWN + name) for name, value in values.items()]

    def _before(self, image: str) -> list[NodeProto]:
        kind = self._taken.type.tensor_type.elem_type
        return [
            _node("Cast", [image], _OWN + "pixels", to=TensorProto.FLOAT),
            _node("Transpose", [_OWN + "pixels"], _OWN + "planes", perm=[0, 3, 1, 2]),
            _node("Mul", [_OWN + "planes", _OWN + "scale"], _OWN + "scaled"),
            _node("Add", [_OWN + "scaled", _OWN + "shift"], _OWN + "normalised"),
            _node("Cast", [_OWN + "normalised"], self.input, to=kind),
        ]

    def _after(self, alpha: str, *, logits: bool) -> list[NodeProto]:
        nodes = [_node("Cast", [self.output], _OWN + "raw", to=TensorProto.FLOAT)]
        if logits:
            nodes.append(_node("Sigmoid", [_OWN + "raw"], _OWN + "matte"))
        last = nodes[-1].output[0]
        return [*nodes, _node("Reshape", [last, _OWN + "shape"], alpha)]


def _node(operator: str, inputs: list[str], output: str, **attributes: Any) -> NodeProto:  # noqa: ANN401  an attribute is of any type
    return helper.make_node(operator, inputs, [output], name=f"{_OWN}{operator}_{output}", **attributes)


def _rename(graph: onnx.GraphProto, taken: Callable[[str], bool]) -> None:
    """Give every value whose name is taken another one, in subgraphs too."""

    def other(name: str) -> str:
        return f"source/{name}" if taken(name) else name

    for value in (*graph.input, *graph.output, *graph.value_info):
        value.name = other(value.name)
    for tensor in graph.initializer:
        tensor.name = other(tensor.name)
    for node in graph.node:
        inputs, outputs = [other(name) for name in node.input], [other(name) for name in node.output]
        del node.input[:], node.output[:]
        node.input.extend(inputs)
        node.output.extend(outputs)
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                _rename(inner, taken)


def _read(path: Path) -> onnx.ModelProto:
    if not path.is_file():
        raise ExportError(f"expected an ONNX file, found nothing at `{path}`")
    try:
        onnx.checker.check_model(path)
        return onnx.load(path)
    except Exception as error:  # protobuf's and the checker's errors share no base class
        raise ExportError(
            f"{path}: expected an ONNX model, found: {(str(error) or 'nothing').splitlines()[0]}"
        ) from error


def _image_input(model: onnx.ModelProto) -> ValueInfoProto:
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    shapes = [_axes(value) for value in inputs]
    fits = len(inputs) == 1 and len(shapes[0]) == 4 and shapes[0][1] == 3
    if not fits or inputs[0].type.tensor_type.elem_type not in _FLOATS:
        found = ", ".join(f"`{value.name}` {shape}" for value, shape in zip(inputs, shapes, strict=True))
        raise ExportError(f"expected one float input (N, 3, H, W), found {found or 'none'}")
    return inputs[0]


def _axes(value: ValueInfoProto) -> list[int | str]:
    return [axis.dim_value or axis.dim_param or "?" for axis in value.type.tensor_type.shape.dim]

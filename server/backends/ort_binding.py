"""A session of ONNX Runtime whose inputs and outputs lie on its device, at the same places for every batch of a size.

`InferenceSession.run` takes memory on the device anew for each batch, and what it copies back it copies in pieces as
the graph ends; a CUDA graph cannot be captured of it at all, since that holds addresses.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnxruntime as ort

from artifact import TensorSpec
from server.backends.base import Arrays


@dataclass(frozen=True, slots=True)
class Place:
    """A device as ONNX Runtime names it.

    Attributes:
        kind: `cuda` or `cpu`.
        index: Of the device.
        graphs: Whether the session captures CUDA graphs, of which each batch size has its own.
    """

    kind: str
    index: int = 0
    graphs: bool = False


@dataclass(frozen=True, slots=True)
class _Bound:
    binding: ort.IOBinding
    inputs: dict[str, ort.OrtValue]
    outputs: dict[str, ort.OrtValue]
    options: ort.RunOptions


class BoundSession:
    """Runs batches of any size; a size that is met for the first time takes its memory."""

    def __init__(
        self, session: ort.InferenceSession, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], place: Place
    ) -> None:
        self._session = session
        self._inputs, self._outputs = inputs, outputs
        self._place = place
        self._bound: dict[int, _Bound] = {}

    def run(self, arrays: Arrays) -> Arrays:
        """As `Backend.run`."""
        size = len(next(iter(arrays.values())))
        bound = self._bound.get(size) or self._bind(size)
        for name, value in bound.inputs.items():
            value.update_inplace(np.ascontiguousarray(arrays[name]))
        self._session.run_with_iobinding(bound.binding, bound.options)
        self._bound[size] = bound  # not before it has run once: what did not fit shall leave nothing
        return {name: value.numpy() for name, value in bound.outputs.items()}

    def _bind(self, size: int) -> _Bound:
        binding, options = self._session.io_binding(), ort.RunOptions()
        if self._place.graphs:
            options.add_run_config_entry("gpu_graph_id", str(size))
        inputs = {spec.name: self._memory(spec, size) for spec in self._inputs}
        outputs = {spec.name: self._memory(spec, size) for spec in self._outputs}
        for name, value in inputs.items():
            binding.bind_ortvalue_input(name, value)
        for name, value in outputs.items():
            binding.bind_ortvalue_output(name, value)
        return _Bound(binding, inputs, outputs, options)

    def _memory(self, spec: TensorSpec, size: int) -> ort.OrtValue:
        shape = [size, *(int(axis) for axis in spec.shape[1:])]
        return ort.OrtValue.ortvalue_from_shape_and_type(
            shape, np.dtype(spec.dtype).type, self._place.kind, self._place.index
        )


def can_be_bound(specs: Sequence[TensorSpec]) -> bool:
    """Whether all sizes but the batch are known, so that memory can be taken before the graph runs."""
    return all(isinstance(axis, int) for spec in specs for axis in spec.shape[1:])

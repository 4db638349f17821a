"""Runs one plan: pinned memory, one stream for copies and one for kernels, one CUDA graph per batch size.

A batch is copied image by image, so that the copy of one overlaps the staging of the next. The first batch of a size
runs plainly, because TensorRT sets itself up then; its kernels are captured afterwards, and later batches of that size
are one launch. Contexts of all sizes share one block of scratch memory, for there is one batch at a time.

Rules of this module: one thread; no TensorRT or CUDA is imported; what is taken from the device is given back.
"""

import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from artifact import Manifest, TensorSpec
from plans.cuda import Bytes, Cuda
from plans.errors import OUT_OF_MEMORY, DeviceError, PlanError
from plans.platform import Platform, listener_of

_log = logging.getLogger(__name__)

Arrays = Mapping[str, NDArray[np.generic]]

_DTYPES = {"FLOAT": "float32", "HALF": "float16", "UINT8": "uint8", "INT32": "int32", "BOOL": "bool"}
_SAID_OF_MEMORY = ("out of memory", "outofmemory", "cudaerrormemoryallocation")


@dataclass(frozen=True, slots=True)
class _Tensor:
    """An input or output, and its memory on both sides.

    Attributes:
        spec: Of the manifest.
        row: Bytes of one image.
        address: On the device.
        pinned: On the host, as large.
    """

    spec: TensorSpec
    row: int
    address: int
    pinned: Bytes


@dataclass(slots=True)
class _Room:
    """Memory for batches of up to `most`, and what was prepared in it."""

    most: int
    tensors: list[_Tensor] = field(default_factory=list)
    scratch: int | None = None
    scratch_size: int = 0
    contexts: dict[int, Any] = field(default_factory=dict)
    graphs: dict[int, int] = field(default_factory=dict)
    uncapturable: bool = False


class PlanRunner:
    """A plan on a GPU."""

    def __init__(self, platform: Platform, plan: bytes, manifest: Manifest) -> None:
        """Load it.

        Args:
            platform: TensorRT and the GPU.
            plan: The file's content.
            manifest: Of the artifact; the plan must have its inputs and outputs.

        Raises:
            PlanError: It cannot be loaded here, or is not what the manifest says.
        """
        self._cuda: Cuda = platform.cuda
        self._listener = listener_of(platform.tensorrt)
        self._tensorrt = platform.tensorrt
        self._listener.take()
        self._runtime = platform.tensorrt.Runtime(self._listener.logger)
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise self._failure("the plan cannot be loaded")
        self._inputs, self._outputs = manifest.inputs, manifest.outputs
        self._check_io()
        self.least, self.most = self._batches()
        self._room = _Room(0)
        self._made: list[tuple[bool, int]] = []  # streams and events, in order; True is a stream
        try:
            self._copies, self._kernels = self._stream(), self._stream()
            self._uploaded, self._computed = self._event(), self._event()
        except DeviceError:
            self.close()
            raise

    def run(self, arrays: Arrays) -> dict[str, NDArray[np.generic]]:
        """Run one batch.

        Args:
            arrays: By input name, batch axis first, of the manifest's dtypes and shapes.

        Returns:
            By output name; in pinned memory, which the next batch overwrites.

        Raises:
            DeviceError: A call of CUDA failed; see there whether a smaller batch may succeed, or nothing will.
            PlanError: The batch is not one that the plan takes, or TensorRT failed.
        """
        rows = self._check_batch(arrays)
        self._listener.take()  # what was said before is not why this batch may fail
        size = max(rows, self.least)  # what is missing computes whatever lies there
        try:
            context = self._prepared(size)
            for tensor in self._room.tensors[: len(self._inputs)]:
                self._upload(tensor, arrays[tensor.spec.name])
            self._cuda.record(self._uploaded, self._copies)
            self._cuda.wait(self._kernels, self._uploaded)
            self._compute(context, size)
            self._cuda.record(self._computed, self._kernels)
            self._cuda.wait(self._copies, self._computed)
            outputs = self._room.tensors[len(self._inputs) :]
            for tensor in outputs:
                self._cuda.download(tensor.pinned[: rows * tensor.row], tensor.address, self._copies)
            self._cuda.synchronise(self._copies)
            self._capture(context, size)
        except PlanError:
            self._settle()
            raise
        return {tensor.spec.name: _typed(tensor, rows) for tensor in outputs}

    def close(self) -> None:
        """Give everything back; also on a device that is lost, where giving back fails."""
        self._release()
        for is_stream, handle in reversed(self._made):
            with suppress(DeviceError):
                (self._cuda.destroy_stream if is_stream else self._cuda.destroy_event)(handle)
        self._made.clear()
        self._engine = self._runtime = None

    def _prepared(self, size: int) -> Any:  # noqa: ANN401  TensorRT's
        """The context of a batch size, in memory that is large enough."""
        if size > self._room.most:
            self._make_room(size)
        if size in self._room.contexts:
            return self._room.contexts[size]
        strategy = self._tensorrt.ExecutionContextAllocationStrategy.USER_MANAGED
        context = self._engine.create_execution_context(strategy)
        if context is None:
            raise self._failure("no context can be made")
        for spec in self._inputs:
            if not context.set_input_shape(spec.name, (size, *spec.shape[1:])):
                raise self._failure(f"a batch of {size} is not taken")
        self._make_scratch(context.update_device_memory_size_for_shapes())
        context.set_device_memory(self._room.scratch or 0, self._room.scratch_size)
        for tensor in self._room.tensors:
            if not context.set_tensor_address(tensor.spec.name, tensor.address):
                raise self._failure(f"`{tensor.spec.name}` has no place")
        self._room.contexts[size] = context
        return context

    def _make_room(self, most: int) -> None:
        self._release()
        self._room = _Room(most)
        try:
            for spec in (*self._inputs, *self._outputs):
                row = row_bytes(spec)
                address = self._cuda.allocate(most * row)
                try:
                    self._room.tensors.append(_Tensor(spec, row, address, self._cuda.allocate_pinned(most * row)))
                except DeviceError:
                    self._cuda.free(address)
                    raise
        except DeviceError:
            self._release()
            raise

    def _make_scratch(self, size: int) -> None:
        room = self._room
        if size <= room.scratch_size:
            return
        # What was captured and bound has the old address in it.
        self._forget_captured()
        if room.scratch is not None:
            self._cuda.free(room.scratch)
            room.scratch, room.scratch_size = None, 0
        room.scratch = self._cuda.allocate(size)
        room.scratch_size = size

    def _upload(self, tensor: _Tensor, array: NDArray[np.generic]) -> None:
        staged = _typed(tensor, len(array))
        for index, image in enumerate(array):
            staged[index] = image
            start = index * tensor.row
            self._cuda.upload(tensor.address + start, tensor.pinned[start : start + tensor.row], self._copies)

    def _compute(self, context: Any, size: int) -> None:  # noqa: ANN401  TensorRT's
        graph = self._room.graphs.get(size)
        if graph is not None:
            self._cuda.launch(graph, self._kernels)
        elif not context.execute_async_v3(self._kernels):
            raise self._failure(f"a batch of {size} failed")

    def _capture(self, context: Any, size: int) -> None:  # noqa: ANN401  TensorRT's
        if size in self._room.graphs or self._room.uncapturable:
            return
        try:
            self._cuda.begin_capture(self._kernels)
            done = context.execute_async_v3(self._kernels)
            graph = self._cuda.end_capture(self._kernels)
        except DeviceError as error:
            if error.fatal:
                raise
            done, graph, reason = False, None, str(error)
        else:
            reason = self._listener.take()
        if done and graph is not None:
            self._room.graphs[size] = graph
            return
        if graph is not None:
            self._cuda.destroy_graph(graph)
        self._cuda.last_error()  # or it would be taken for the next one's
        self._room.uncapturable = True
        _log.warning("the plan cannot be captured into a CUDA graph; every kernel is launched by itself: %s", reason)

    def _settle(self) -> None:
        """Let go of the memory that copies of a failed batch may still be using."""
        for stream in (self._copies, self._kernels):
            with suppress(DeviceError):
                self._cuda.synchronise(stream)

    def _release(self) -> None:
        self._forget_captured()
        room, self._room = self._room, _Room(0)
        for tensor in room.tensors:
            with suppress(DeviceError):
                self._cuda.free(tensor.address)
            with suppress(DeviceError):
                self._cuda.free_pinned(tensor.pinned)
        if room.scratch is not None:
            with suppress(DeviceError):
                self._cuda.free(room.scratch)

    def _forget_captured(self) -> None:
        for graph in self._room.graphs.values():
            with suppress(DeviceError):
                self._cuda.destroy_graph(graph)
        self._room.graphs.clear()
        self._room.contexts.clear()

    def _stream(self) -> int:
        stream = self._cuda.create_stream()
        self._made.append((True, stream))
        return stream

    def _event(self) -> int:
        event = self._cuda.create_event()
        self._made.append((False, event))
        return event

    def _check_io(self) -> None:
        engine = self._engine
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        wanted = {spec.name for spec in (*self._inputs, *self._outputs)}
        if set(names) != wanted:
            raise PlanError(
                f"expected the tensors {', '.join(sorted(wanted))} of the manifest, found {', '.join(names)}"
            )
        for spec in (*self._inputs, *self._outputs):
            kind = engine.get_tensor_dtype(spec.name).name
            found = (_DTYPES.get(kind, kind), tuple(engine.get_tensor_shape(spec.name))[1:])
            if found != (spec.dtype, spec.shape[1:]):
                raise PlanError(
                    f"expected `{spec.name}` {spec.dtype} {list(spec.shape)} of the manifest, found {found[0]} "
                    f"{['batch', *found[1]]} in the plan"
                )

    def _batches(self) -> tuple[int, int]:
        least, _, most = self._engine.get_tensor_profile_shape(self._inputs[0].name, 0)
        return int(least[0]), int(most[0])

    def _check_batch(self, arrays: Arrays) -> int:
        rows = {len(arrays[spec.name]) for spec in self._inputs}
        if len(rows) != 1 or not 1 <= max(rows) <= self.most:
            raise PlanError(f"expected a batch of 1 to {self.most}, found {', '.join(map(str, sorted(rows)))}")
        for spec in self._inputs:
            array = arrays[spec.name]
            if array.dtype != spec.dtype or array.shape[1:] != spec.shape[1:]:
                raise PlanError(
                    f"expected `{spec.name}` {spec.dtype} {list(spec.shape)}, found {array.dtype} {list(array.shape)}"
                )
        return rows.pop()

    def _failure(self, what: str) -> PlanError:
        """The error behind a `False` or nothing of TensorRT's, as far as it can be known."""
        said = self._listener.take()
        cause = self._cuda.last_error()
        message = f"{what}: {said}" if said else what
        if cause is not None:
            return DeviceError(message, cause.code, cause.name)
        if any(sign in said.lower() for sign in _SAID_OF_MEMORY):
            return DeviceError(message, OUT_OF_MEMORY, "out of memory")
        return PlanError(message)


def row_bytes(spec: TensorSpec) -> int:
    """Bytes of one image of an input or output whose axes but the first are fixed."""
    sides = [side for side in spec.shape[1:] if isinstance(side, int)]
    if len(sides) != len(spec.shape) - 1:
        raise PlanError(f"expected fixed axes after the batch, found `{spec.name}` {list(spec.shape)}")
    return int(np.prod(sides, dtype=np.int64)) * np.dtype(spec.dtype).itemsize


def _typed(tensor: _Tensor, rows: int) -> NDArray[np.generic]:
    """The first rows of the pinned memory, as what they are."""
    flat = tensor.pinned[: rows * tensor.row].view(tensor.spec.dtype)
    return flat.reshape(rows, *(int(side) for side in tensor.spec.shape[1:]))

"""How a loaded network runs a batch: at once on a CPU, as a CUDA graph for each batch size on a GPU.

A graph replays hundreds of kernels with one call, so that the GPU never waits for Python. It reads and writes fixed
places in memory, for a fixed batch: batches are filled up to the next size there is a graph for. All graphs share one
pool of memory, since only one of them runs at a time: a further size costs next to nothing.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from artifact import TensorSpec
from server.backends.base import Arrays

_DOUBLED_UP_TO = 8
_DTYPES = {"uint8": torch.uint8, "float32": torch.float32}


class Runner(Protocol):
    """Runs one network."""

    def __call__(self, arrays: Arrays) -> Arrays:
        """As `Backend.run`."""


@dataclass(frozen=True, slots=True)
class Signature:
    """What a network takes and gives: its inputs in the order of its arguments, and its only output."""

    inputs: Sequence[TensorSpec]
    output: TensorSpec


class EagerRunner:
    """Runs a network operator by operator."""

    def __init__(self, network: nn.Module, signature: Signature) -> None:
        self._network = network
        self._signature = signature

    @torch.inference_mode()
    def __call__(self, arrays: Arrays) -> Arrays:
        tensors = [torch.from_numpy(np.ascontiguousarray(arrays[spec.name])) for spec in self._signature.inputs]
        return {self._signature.output.name: self._network(*tensors).numpy()}


def bucket_of(size: int) -> int:
    """The batch that a batch of a size is filled up to: 1, 2, 4, 8, and multiples of 8 beyond."""
    if size <= _DOUBLED_UP_TO:
        return 1 << (size - 1).bit_length()
    return -(-size // _DOUBLED_UP_TO) * _DOUBLED_UP_TO


class GraphDevice(Protocol):
    """What `GraphRunner` asks of a GPU; a test has one without."""

    def resident(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Memory of the device."""

    def pinned(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Memory of the host that the device copies from and to on its own."""

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """Record what `work` does on the device; what comes back does it again, without waiting for the end."""

    def copy(self, target: Tensor, source: Tensor) -> None:
        """Copy between host and device after what was begun before, without waiting for the end."""

    def wait(self) -> None:
        """Until everything that was begun is done."""


@dataclass(frozen=True, slots=True)
class _Buffers:
    """Inputs by name, and the output, for up to a number of rows: on the device, and beside it on the host."""

    rows: int
    inputs: Mapping[str, tuple[Tensor, Tensor]]
    output: tuple[Tensor, Tensor]


@dataclass(frozen=True, slots=True)
class _Captured:
    buffers: _Buffers
    replay: Callable[[], None]


class GraphRunner:
    """Runs a network as one CUDA graph per batch size.

    The arrays it gives are its own memory: they hold until it runs again.
    """

    def __init__(self, network: nn.Module, signature: Signature, device: GraphDevice) -> None:
        self._network = network
        self._signature = signature
        self._device = device
        self._graphs: dict[int, _Captured] = {}
        self._largest: _Buffers | None = None

    @torch.inference_mode()
    def __call__(self, arrays: Arrays) -> Arrays:
        size = len(next(iter(arrays.values())))
        bucket = bucket_of(size)
        if bucket not in self._graphs:
            self._graphs[bucket] = self._capture(bucket)
        graph = self._graphs[bucket]
        for name, (resident, pinned) in graph.buffers.inputs.items():
            rows = pinned.numpy()
            rows[:size] = arrays[name]
            rows[size:bucket] = arrays[name][-1]  # no answer depends on the company
            self._device.copy(resident[:bucket], pinned[:bucket])
        graph.replay()
        resident, pinned = graph.buffers.output
        self._device.copy(pinned[:size], resident[:size])
        self._device.wait()
        return {self._signature.output.name: pinned[:size].numpy()}

    @torch.inference_mode()
    def replay(self, size: int) -> None:
        """Run the graph that a batch of a size has run on before, on what its inputs hold, and wait for its end.

        For measurements: it is the device's part of a run.
        """
        self._graphs[bucket_of(size)].replay()
        self._device.wait()

    def _capture(self, bucket: int) -> _Captured:
        buffers = self._buffers(bucket)
        inputs = [buffers.inputs[spec.name][0][:bucket] for spec in self._signature.inputs]
        output = buffers.output[0][:bucket]

        def work() -> None:
            output.copy_(self._network(*inputs))

        return _Captured(buffers, self._device.capture(work))

    def _buffers(self, rows: int) -> _Buffers:
        """Those of the largest graph so far serve the smaller ones too; a captured graph keeps its own."""
        if self._largest is not None and self._largest.rows >= rows:
            return self._largest
        inputs = {spec.name: self._pair(spec, rows) for spec in self._signature.inputs}
        self._largest = _Buffers(rows, inputs, self._pair(self._signature.output, rows))
        return self._largest

    def _pair(self, spec: TensorSpec, rows: int) -> tuple[Tensor, Tensor]:
        shape, dtype = (rows, *(int(axis) for axis in spec.shape[1:])), _DTYPES[spec.dtype]
        return self._device.resident(shape, dtype), self._device.pinned(shape, dtype)


_ONE_AT_A_TIME = threading.Lock()
"""Device threads of one process may share a GPU: while one captures, no other may take memory or compile."""


class CudaDevice:
    """A GPU, a stream of its own and the pool of memory that all graphs on that stream share."""

    def __init__(self, index: int) -> None:
        self._device = torch.device("cuda", index)
        self._stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()

    def resident(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return torch.zeros(shape, dtype=dtype, device=self._device)

    def pinned(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return torch.zeros(shape, dtype=dtype, pin_memory=True)

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        graph = torch.cuda.CUDAGraph()
        with _ONE_AT_A_TIME:
            torch.cuda.synchronize(self._device)
            with torch.cuda.stream(self._stream):
                # Kernels are compiled and chosen, and constants made, the first time; a graph must not hold that.
                work()
                work()
            self._stream.synchronize()
            torch.cuda.empty_cache()  # or what these runs needed is kept beside the graph's own memory
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
                work()

        def replay() -> None:
            with torch.cuda.stream(self._stream):
                graph.replay()

        return replay

    def copy(self, target: Tensor, source: Tensor) -> None:
        with torch.cuda.stream(self._stream):
            target.copy_(source, non_blocking=True)

    def wait(self) -> None:
        self._stream.synchronize()

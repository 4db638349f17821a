"""What a plan needs of the CUDA runtime: a port, and the one implementation, over NVIDIA's `cuda.bindings.runtime`.

Addresses, streams, events and graphs are plain integers, as TensorRT takes them. Every failure is a `DeviceError`.
"""

import ctypes
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from plans.errors import DeviceError

Bytes = NDArray[np.uint8]


class Cuda(Protocol):
    """One GPU. Used from one thread."""

    @property
    def name(self) -> str:
        """Of the GPU, `NVIDIA H200`."""
        ...

    @property
    def index(self) -> int:
        """Of the GPU, from 0."""
        ...

    def allocate(self, size: int) -> int:
        """Device memory of `size` bytes; its address, a multiple of 256."""
        ...

    def free(self, address: int) -> None:
        """Give device memory back."""
        ...

    def allocate_pinned(self, size: int) -> Bytes:
        """Host memory that the device copies from and to without a detour; valid until `free_pinned`."""
        ...

    def free_pinned(self, memory: Bytes) -> None:
        """Give pinned memory back; the array must not be touched afterwards."""
        ...

    def create_stream(self) -> int:
        """A stream that does not wait for the default one."""
        ...

    def destroy_stream(self, stream: int) -> None:
        """Give a stream back."""
        ...

    def create_event(self) -> int:
        """An event without a time."""
        ...

    def destroy_event(self, event: int) -> None:
        """Give an event back."""
        ...

    def record(self, event: int, stream: int) -> None:
        """The event happens when the stream has done what it was given so far."""
        ...

    def wait(self, stream: int, event: int) -> None:
        """What the stream is given from now on waits for the event."""
        ...

    def upload(self, address: int, memory: Bytes, stream: int) -> None:
        """Copy pinned memory to the device; returns before it is done."""
        ...

    def download(self, memory: Bytes, address: int, stream: int) -> None:
        """Copy from the device into pinned memory; returns before it is done."""
        ...

    def synchronise(self, stream: int) -> None:
        """Wait for the stream; raises what its work failed with."""
        ...

    def begin_capture(self, stream: int) -> None:
        """From now on the stream's work is written down, not done."""
        ...

    def end_capture(self, stream: int) -> int:
        """What was written down, ready to be launched."""
        ...

    def launch(self, graph: int, stream: int) -> None:
        """Do what was captured."""
        ...

    def destroy_graph(self, graph: int) -> None:
        """Give a captured graph back."""
        ...

    def last_error(self) -> DeviceError | None:
        """What the last failure inside another library was, and forget it."""
        ...


class CudaRuntime:
    """One GPU through `cuda.bindings.runtime`, which brings the CUDA runtime along and needs only the driver."""

    def __init__(self, runtime: Any, index: int) -> None:  # noqa: ANN401  a module
        """Choose the GPU for the calling thread.

        Args:
            runtime: The module `cuda.bindings.runtime`.
            index: Of the GPU.

        Raises:
            DeviceError: There is no such GPU, or no driver.
        """
        self._runtime = runtime
        self._index = index
        self._done("choosing the GPU", runtime.cudaSetDevice(index))
        properties = self._done("asking for the GPU's name", runtime.cudaGetDeviceProperties(index))
        self._name = _text(properties.name)

    @property
    def name(self) -> str:
        return self._name

    @property
    def index(self) -> int:
        return self._index

    def allocate(self, size: int) -> int:
        return int(self._done(f"taking {_mib(size)} of device memory", self._runtime.cudaMalloc(size)))

    def free(self, address: int) -> None:
        self._done("freeing device memory", self._runtime.cudaFree(address))

    def allocate_pinned(self, size: int) -> Bytes:
        address = int(self._done(f"pinning {_mib(size)} of memory", self._runtime.cudaMallocHost(size)))
        return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))

    def free_pinned(self, memory: Bytes) -> None:
        self._done("freeing pinned memory", self._runtime.cudaFreeHost(memory.ctypes.data))

    def create_stream(self) -> int:
        flags = self._runtime.cudaStreamNonBlocking
        return int(self._done("making a stream", self._runtime.cudaStreamCreateWithFlags(flags)))

    def destroy_stream(self, stream: int) -> None:
        self._done("ending a stream", self._runtime.cudaStreamDestroy(stream))

    def create_event(self) -> int:
        flags = self._runtime.cudaEventDisableTiming
        return int(self._done("making an event", self._runtime.cudaEventCreateWithFlags(flags)))

    def destroy_event(self, event: int) -> None:
        self._done("ending an event", self._runtime.cudaEventDestroy(event))

    def record(self, event: int, stream: int) -> None:
        self._done("recording an event", self._runtime.cudaEventRecord(event, stream))

    def wait(self, stream: int, event: int) -> None:
        self._done("waiting for an event", self._runtime.cudaStreamWaitEvent(stream, event, 0))

    def upload(self, address: int, memory: Bytes, stream: int) -> None:
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        call = self._runtime.cudaMemcpyAsync(address, memory.ctypes.data, memory.nbytes, kind, stream)
        self._done("copying to the device", call)

    def download(self, memory: Bytes, address: int, stream: int) -> None:
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        call = self._runtime.cudaMemcpyAsync(memory.ctypes.data, address, memory.nbytes, kind, stream)
        self._done("copying from the device", call)

    def synchronise(self, stream: int) -> None:
        self._done("waiting for the device", self._runtime.cudaStreamSynchronize(stream))

    def begin_capture(self, stream: int) -> None:
        # Of this thread alone: another device's thread may take memory meanwhile.
        mode = self._runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._done("beginning a capture", self._runtime.cudaStreamBeginCapture(stream, mode))

    def end_capture(self, stream: int) -> int:
        graph = self._done("ending a capture", self._runtime.cudaStreamEndCapture(stream))
        try:
            return int(self._done("preparing a captured graph", self._runtime.cudaGraphInstantiate(graph, 0)))
        finally:
            self._runtime.cudaGraphDestroy(graph)

    def launch(self, graph: int, stream: int) -> None:
        self._done("launching a captured graph", self._runtime.cudaGraphLaunch(graph, stream))

    def destroy_graph(self, graph: int) -> None:
        self._done("ending a captured graph", self._runtime.cudaGraphExecDestroy(graph))

    def last_error(self) -> DeviceError | None:
        (code,) = self._runtime.cudaGetLastError()
        return None if int(code) == 0 else DeviceError("inside TensorRT", int(code), self._name_of(code))

    def _done(self, what: str, answer: tuple[Any, ...]) -> Any:  # noqa: ANN401  what the bindings give, or None
        code, *found = answer
        if int(code) != 0:
            raise DeviceError(what, int(code), self._name_of(code))
        return found[0] if found else None

    def _name_of(self, code: Any) -> str:  # noqa: ANN401  the bindings' enumeration
        failed, text = self._runtime.cudaGetErrorString(code)
        if int(failed) != 0:
            return str(code)
        return _text(text)


def _text(found: Any) -> str:  # noqa: ANN401  bytes in some versions of the bindings
    return str(found.decode() if isinstance(found, bytes) else found).rstrip("\0")


def _mib(size: int) -> str:
    return f"{size / (1 << 20):.0f} MiB"

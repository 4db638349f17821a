"""ONNX Runtime: the CPU by default, CUDA when asked for.

All exceptions of ONNX Runtime are translated here, and nowhere else.
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as bindings

from artifact import Artifact, ArtifactError, Manifest, TensorSpec
from server.backends.base import Arrays, BackendFault, Device
from server.backends.faults import fault_of
from server.backends.ort_binding import BoundSession, Place, can_be_bound

_log = logging.getLogger(__name__)

MODEL_ROLE = "model"

# Every exception class of the bindings, whatever this version of them has; they have no common base but Exception.
_ERRORS: tuple[type[Exception], ...] = (
    *(found for found in vars(bindings).values() if isinstance(found, type) and issubclass(found, Exception)),
    RuntimeError,
    ValueError,
    OSError,
    MemoryError,
)
# What a session says that is asked for CUDA graphs and has nodes on the CPU.
_NO_CUDA_GRAPH = "cuda graph"
_SPINNING = ("session.intra_op.allow_spinning", "session.inter_op.allow_spinning")


@dataclass(frozen=True, slots=True)
class OrtOptions:
    """How ONNX Runtime is to be used.

    Attributes:
        threads: Of the CPU provider; `server.host.host_limits().threads` leaves none to the quota's throttle.
        cuda_device: Index of the GPU; None is the CPU.
        allow_cpu: Go on with the CPU when the GPU cannot be used, instead of failing at the start.
        memory_limit_mib: Of the arena on the GPU; None is all of its memory.
    """

    threads: int
    cuda_device: int | None = None
    allow_cpu: bool = False
    memory_limit_mib: int | None = None


@dataclass(frozen=True, slots=True)
class _Loaded:
    session: ort.InferenceSession
    manifest: Manifest
    bound: BoundSession | None

    @property
    def fixed_batch(self) -> int | None:
        axis = self.manifest.inputs[0].shape[0]
        return axis if isinstance(axis, int) else None


def has_cuda() -> bool:
    """Whether the installed ONNX Runtime was built with CUDA; whether a GPU answers shows when a model is loaded."""
    return "CUDAExecutionProvider" in ort.get_available_providers()


class OrtBackend:
    """Runs the `model` file of artifacts with ONNX Runtime."""

    def __init__(self, options: OrtOptions) -> None:
        """Choose the provider.

        Raises:
            BackendFault: The GPU was asked for, and the installed package cannot use one.
        """
        self._options = options
        self._loaded: dict[str, _Loaded] = {}
        self._cuda = options.cuda_device is not None and self._has_cuda()

    @property
    def device(self) -> Device:
        if self._cuda:
            return Device(f"ort-cuda:{self._options.cuda_device}", max_batch=8, look_ahead=1)
        return Device("ort-cpu", max_batch=2, look_ahead=0, on_host=True)

    def load(self, artifact_id: str, artifact: Artifact) -> str:
        manifest = artifact.manifest
        try:
            path = artifact.file(MODEL_ROLE)
        except ArtifactError as error:
            raise BackendFault(f"{artifact_id}: {error}") from error
        with _translated(f"{artifact_id}: {path} cannot be loaded"):
            session, graphs = self._open(str(path))
        self._check_provider(session)
        _check_io(artifact_id, "input", session.get_inputs(), manifest.inputs)
        _check_io(artifact_id, "output", session.get_outputs(), manifest.outputs)
        bound = None
        if self._cuda and can_be_bound((*manifest.inputs, *manifest.outputs)):
            place = Place("cuda", self._options.cuda_device or 0, graphs)
            bound = BoundSession(session, manifest.inputs, manifest.outputs, place)
        self._loaded[artifact_id] = _Loaded(session, manifest, bound)
        return manifest.files[MODEL_ROLE].precision or "fp32"

    def unload(self, artifact_id: str) -> None:
        self._loaded.pop(artifact_id, None)

    def run(self, artifact_id: str, arrays: Arrays) -> Arrays:
        loaded = self._loaded.get(artifact_id)
        if loaded is None:
            raise BackendFault(f"{artifact_id} is not loaded")
        names = [spec.name for spec in loaded.manifest.outputs]
        size = len(next(iter(arrays.values())))
        feeds = {name: _padded(array, loaded.fixed_batch) for name, array in arrays.items()}
        with _translated(f"{artifact_id}: a batch of {size} failed"):
            if loaded.bound is not None:
                outputs = loaded.bound.run(feeds)
            else:
                outputs = dict(zip(names, loaded.session.run(names, feeds), strict=True))
        return {name: output[:size] for name, output in outputs.items()}

    def close(self) -> None:
        self._loaded.clear()

    def _open(self, path: str) -> tuple[ort.InferenceSession, bool]:
        """A session, and whether it captures CUDA graphs: only where every node of the graph is CUDA's."""
        options = self._session_options()
        if self._cuda:
            try:
                return ort.InferenceSession(path, options, providers=self._providers(graphs=True)), True
            except _ERRORS as error:
                if _NO_CUDA_GRAPH not in str(error).lower():
                    raise
                _log.info("no CUDA graphs: %s", str(error).splitlines()[0])
        return ort.InferenceSession(path, options, providers=self._providers()), False

    def _has_cuda(self) -> bool:
        if has_cuda():
            return True
        available = ort.get_available_providers()
        self._without_gpu(f"onnxruntime {ort.__version__} here has the providers {', '.join(available)}")
        return False

    def _check_provider(self, session: ort.InferenceSession) -> None:
        # ONNX Runtime only warns when the provider's libraries cannot be loaded, and goes on with the CPU.
        used = session.get_providers()
        if self._cuda and used[0] != "CUDAExecutionProvider":
            self._without_gpu(f"the session uses {', '.join(used)}: CUDA or cuDNN cannot be loaded, or there is no GPU")
            self._cuda = False

    def _without_gpu(self, found: str) -> None:
        message = (
            f"expected CUDA device {self._options.cuda_device}, but {found}. Install onnxruntime-gpu with its CUDA "
            "libraries, ask for the CPU, or allow the CPU instead of the GPU"
        )
        if not self._options.allow_cpu:
            raise BackendFault(message)
        _log.warning("using the CPU: %s", message)

    def _providers(self, *, graphs: bool = False) -> list[str | tuple[str, dict[str, Any]]]:
        if not self._cuda:
            return ["CPUExecutionProvider"]
        cuda: dict[str, Any] = {
            "device_id": self._options.cuda_device,
            # Doubling, the default, reserves up to twice what the largest batch needs and never gives it back.
            "arena_extend_strategy": "kSameAsRequested",
            "use_tf32": 0,  # its ten bits of mantissa are outside the fp32 tolerance
        }
        if self._options.memory_limit_mib is not None:
            cuda["gpu_mem_limit"] = self._options.memory_limit_mib << 20
        if graphs:
            cuda["enable_cuda_graph"] = 1
        return [("CUDAExecutionProvider", cuda), "CPUExecutionProvider"]

    def _session_options(self) -> ort.SessionOptions:
        options = ort.SessionOptions()
        options.intra_op_num_threads = self._options.threads
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = 3
        # A pattern keeps a buffer per batch size: with the compact network at 512x512 and batches of 1 and 2 a resident
        # memory of 492 MB was measured with it, 300 MB without, at the same speed. Without an arena the peak is higher.
        options.enable_mem_pattern = self._cuda
        for key in _SPINNING:  # threads that spin between batches burn the quota that decoding and encoding need
            options.add_session_config_entry(key, "0")
        return options


@contextmanager
def _translated(what: str) -> Iterator[None]:
    try:
        yield
    except _ERRORS as error:
        raise fault_of(error, what, lost=type(error).__name__ == "DeviceReset") from error


def _padded(array: NDArray[np.generic], batch: int | None) -> NDArray[np.generic]:
    """Rows up to a graph's fixed batch, by repeating the last; no graph's answer depends on the company."""
    if batch is None or len(array) == batch:
        return array
    return np.concatenate([array, np.repeat(array[-1:], batch - len(array), axis=0)])


def _check_io(artifact_id: str, kind: str, found: list[Any], wanted: tuple[TensorSpec, ...]) -> None:
    """Hold a graph's inputs or outputs against the manifest's."""
    by_name: Mapping[str, Any] = {node.name: node for node in found}
    for spec in wanted:
        node = by_name.get(spec.name)
        expected = f"{artifact_id}: expected the {kind} `{spec.name}` {spec.dtype} {list(spec.shape)} of the manifest"
        if node is None:
            raise BackendFault(f"{expected}, found the {kind}s {', '.join(by_name)}")
        same_rank = len(node.shape) == len(spec.shape)
        fits = same_rank and all(map(_axis_fits, node.shape, spec.shape))
        if not fits or node.type != _ort_type(spec.dtype):
            raise BackendFault(f"{expected}, found {node.type} {list(node.shape)} in the graph")
    unknown = sorted(by_name.keys() - {spec.name for spec in wanted})
    if kind == "input" and unknown:
        raise BackendFault(
            f"{artifact_id}: the graph wants inputs that the manifest does not name: {', '.join(unknown)}"
        )


def _axis_fits(found: int | str | None, wanted: int | str) -> bool:
    # A free axis of the graph may be narrowed by the manifest; a fixed one cannot be widened.
    return not isinstance(found, int) or found == wanted


def _ort_type(dtype: str) -> str:
    names = {"float32": "float", "float16": "float16", "float64": "double"}
    return f"tensor({names.get(dtype, dtype)})"

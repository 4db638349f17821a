"""The `Backend` port on torch. All exceptions of torch are translated here, and nowhere else."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from artifact import Artifact
from server.backends.base import Arrays, Backend, BackendFault, Device, Finish, Finished, OutOfMemoryFault
from server.backends.faults import fault_of
from server.backends.ort import OrtBackend, OrtOptions
from server.backends.torch_cuda.finishing import finish
from server.backends.torch_cuda.networks import WEIGHTS_ROLE, load_module
from server.backends.torch_cuda.runners import CudaDevice, EagerRunner, GraphRunner, Runner, Signature

_log = logging.getLogger(__name__)

try:
    from triton.errors import TritonError
except ImportError:  # on a CPU it is not needed, nor always there

    class TritonError(Exception):  # type: ignore[no-redef]
        """Never raised."""


_ERRORS = (RuntimeError, ValueError, OSError, MemoryError, TritonError)  # torch.AcceleratorError is a RuntimeError


@dataclass(frozen=True, slots=True)
class TorchOptions:
    """How torch is to be used.

    Attributes:
        threads: Of operators on the CPU.
        cuda_device: Index of the GPU; None is the CPU.
        allow_cpu: Go on with the CPU when the GPU cannot be used, instead of failing at the start.
        tune: On a GPU, try which launches of our kernels are the fastest, some minutes at the first start.
    """

    threads: int
    cuda_device: int | None = None
    allow_cpu: bool = False
    tune: bool = False


def has_cuda() -> bool:
    """Whether torch sees a GPU."""
    return torch.cuda.is_available()


class TorchBackend:
    """Runs the `weights` of artifacts with torch.

    A refiner whose artifact has none, such as the one in the package, runs with ONNX Runtime on the CPU instead.
    """

    def __init__(self, options: TorchOptions) -> None:
        """Choose the device.

        Raises:
            BackendFault: The GPU was asked for, and torch cannot use one.
        """
        self._options = options
        self._index = options.cuda_device if self._usable() else None
        self._runners: dict[str, Runner] = {}
        self._others: Backend | None = None
        self._cuda: CudaDevice | None = None
        if self._index is None:
            torch.set_num_threads(options.threads)
            return
        with _translated(f"CUDA device {self._index} cannot be used"):
            torch.cuda.set_device(self._index)
            self._cuda = CudaDevice(self._index)
        # Ten bits of mantissa are outside the fp32 tolerance; what may be less is fp16 already.
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
        torch.backends.cudnn.benchmark = True

    @property
    def device(self) -> Device:
        if self._index is not None:
            return Device(f"torch-cuda:{self._index}", max_batch=16, look_ahead=1)
        return Device("torch-cpu", max_batch=2, look_ahead=0, on_host=True)

    def load(self, artifact_id: str, artifact: Artifact) -> str:
        self.unload(artifact_id)
        manifest = artifact.manifest
        if manifest.kind == "refine" and WEIGHTS_ROLE not in manifest.files:
            return self._load_elsewhere(artifact_id, artifact)
        place = torch.device("cpu") if self._index is None else torch.device("cuda", self._index)
        signature = Signature(manifest.inputs, manifest.outputs[0])
        with _translated(f"{artifact_id}: cannot be loaded"):
            module, precision = load_module(artifact_id, artifact, place, tune=self._options.tune)
        if self._cuda is None:
            self._runners[artifact_id] = EagerRunner(module, signature)
        else:
            self._runners[artifact_id] = GraphRunner(module, signature, self._cuda)
        return precision

    def unload(self, artifact_id: str) -> None:
        if self._others is not None:
            self._others.unload(artifact_id)
        if self._runners.pop(artifact_id, None) is not None and self._cuda is not None:
            torch.cuda.empty_cache()

    def run(self, artifact_id: str, arrays: Arrays) -> Arrays:
        runner = self._runners.get(artifact_id)
        if runner is None:
            if self._others is None:
                raise BackendFault(f"{artifact_id} is not loaded")
            return self._others.run(artifact_id, arrays)
        size = len(next(iter(arrays.values())))
        try:
            with _translated(f"{artifact_id}: a batch of {size} failed"):
                return runner(arrays)
        except OutOfMemoryFault:
            if self._cuda is not None:
                torch.cuda.empty_cache()  # what the batch that did not fit has left
            raise

    def finish(self, work: Finish) -> Finished:
        place = torch.device("cpu") if self._index is None else torch.device("cuda", self._index)
        with _translated(f"finishing {work.size[1]}x{work.size[0]} pixels failed"):
            return finish(work, place)

    def close(self) -> None:
        self._runners.clear()
        if self._others is not None:
            self._others.close()
        if self._cuda is not None:
            torch.cuda.empty_cache()

    def _usable(self) -> bool:
        index = self._options.cuda_device
        if index is None:
            return False
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if index < count:
            return True
        message = (
            f"expected CUDA device {index}, but torch {torch.__version__} sees {count or 'no'} GPUs. Install a torch "
            "that was built for this driver's CUDA, ask for the CPU, or allow the CPU instead of the GPU"
        )
        if not self._options.allow_cpu:
            raise BackendFault(message)
        _log.warning("using the CPU: %s", message)
        return False

    def _load_elsewhere(self, artifact_id: str, artifact: Artifact) -> str:
        if self._others is None:
            self._others = OrtBackend(OrtOptions(self._options.threads))
        if self._index is not None:
            _log.warning("%s has no weights: it runs with ONNX Runtime on the CPU", artifact_id)
        return self._others.load(artifact_id, artifact)


@contextmanager
def _translated(what: str) -> Iterator[None]:
    try:
        yield
    except BackendFault:
        raise
    except _ERRORS as error:
        raise fault_of(error, what) from error

"""TensorRT and a GPU, found on this machine; and what TensorRT says, kept for the errors."""

import functools
import importlib
import logging
from collections import deque
from dataclasses import dataclass
from typing import Any

from plans.cuda import Cuda, CudaRuntime
from plans.errors import DeviceError, PlanError

_log = logging.getLogger(__name__)

OLDEST = (10, 1)
"""The first TensorRT that is used as here."""

NEWEST = 11

_DRIVER_TOO_OLD = 35
_REMEMBERED = 8


@dataclass(frozen=True, slots=True)
class Platform:
    """The libraries, as values: tests bring their own.

    Attributes:
        tensorrt: The module `tensorrt`.
        cuda: One GPU.
    """

    tensorrt: Any
    cuda: Cuda

    @property
    def version(self) -> str:
        """Of TensorRT, all its numbers."""
        return str(self.tensorrt.__version__)


class Listener:
    """Takes what TensorRT logs: into this process's log, and the last errors into what is raised.

    TensorRT keeps the first logger that it is given, so there is one for the whole process (`listener_of`), and what it
    says of several GPUs at once may stand in one message.
    """

    def __init__(self, tensorrt: Any) -> None:  # noqa: ANN401  a module
        self._errors: deque[str] = deque(maxlen=_REMEMBERED)
        self.logger = _logger(tensorrt, self._hear)

    def take(self) -> str:
        """The errors since the last call, oldest first, in one line; empty when there were none."""
        found = "; ".join(self._errors)
        self._errors.clear()
        return found

    def _hear(self, level: int, message: str) -> None:
        _log.log(level, "TensorRT: %s", message)
        if level >= logging.ERROR:
            self._errors.append(" ".join(message.split()))


@functools.cache
def listener_of(tensorrt: Any) -> Listener:  # noqa: ANN401  a module
    """The one listener of a module; it lives as long as the process, as TensorRT wants it to."""
    return Listener(tensorrt)


def open_platform(index: int = 0) -> Platform:
    """What plans are built and run with on this machine.

    Args:
        index: Of the GPU.

    Raises:
        PlanError: TensorRT or the bindings are not installed, or there is no such GPU; the message says what to do.
    """
    tensorrt = import_tensorrt()
    runtime = _imported(
        "cuda.bindings.runtime", "expected the package cuda-bindings: pip install 'birefnet-server[tensorrt]'"
    )
    try:
        return Platform(tensorrt, CudaRuntime(runtime, index))
    except DeviceError as error:
        older = ""
        if error.code == _DRIVER_TOO_OLD:
            older = "; with a driver for CUDA 12, before 580, install 'cuda-bindings<13'"
        raise PlanError(f"expected GPU {index}, found none that answers: {error}{older}") from error


def import_tensorrt() -> Any:  # noqa: ANN401  a module
    """The module `tensorrt`.

    Raises:
        PlanError: It is not there, or of a version that is not known here.
    """
    tensorrt = _imported(
        "tensorrt",
        "expected TensorRT: NVIDIA's containers have it; elsewhere pip install tensorrt-cu13 (or -cu12), which fetches "
        "it from NVIDIA's own index",
    )
    version = str(tensorrt.__version__)
    major, minor = (int(part) for part in version.split(".")[:2])
    if not OLDEST <= (major, minor) < (NEWEST + 1, 0):
        raise PlanError(f"expected TensorRT {OLDEST[0]}.{OLDEST[1]} to {NEWEST}, found {version}")
    return tensorrt


def _imported(name: str, expected: str) -> Any:  # noqa: ANN401  a module
    try:
        return importlib.import_module(name)
    except (ImportError, OSError) as error:  # OSError: a library that the module loads is missing
        raise PlanError(f"{expected}; found: {error}") from error


def _logger(tensorrt: Any, hear: Any) -> Any:  # noqa: ANN401  classes of a module that is a value here
    severity = tensorrt.ILogger.Severity
    levels = {
        severity.INTERNAL_ERROR: logging.ERROR,
        severity.ERROR: logging.ERROR,
        severity.WARNING: logging.WARNING,
        severity.INFO: logging.DEBUG,  # what TensorRT calls information is for those who look into TensorRT
    }

    class Logger(tensorrt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            tensorrt.ILogger.__init__(self)

        def log(self, severity: Any, msg: str) -> None:  # noqa: ANN401
            level = levels.get(severity)
            if level is not None:
                hear(level, msg)

    return Logger()

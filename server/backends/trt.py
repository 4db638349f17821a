"""TensorRT: runs the plan of an artifact that was built for this GPU and this TensorRT. The work is `plans.runner`'s.

A plan that is missing is an error that says what builds it, or is built at the start, in a process of its own, where
the operator asked for that.
"""

import logging
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from artifact import Artifact, ArtifactError, ManifestError, find_plan, open_artifact, plan_source
from plans import DeviceError, PlanError, PlanRunner, Platform, open_platform
from server.backends.base import Arrays, BackendFault, Device, OutOfMemoryFault

_log = logging.getLogger(__name__)

_MAX_BATCH = 16
_LAST_LINES = 5
_BUILDING = threading.Lock()  # device threads that share a GPU want the same plan at the same time

Run = Callable[[Sequence[str]], None]


@dataclass(frozen=True, slots=True)
class TrtOptions:
    """How TensorRT is to be used.

    Attributes:
        device: Index of the GPU.
        build_plans: Build a missing plan when an artifact is loaded, which takes minutes, instead of failing.
    """

    device: int = 0
    build_plans: bool = False


def run_logged(command: Sequence[str]) -> None:
    """Run a command to its end, its lines in the log.

    Raises:
        BackendFault: It failed; with its last lines.
    """
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:  # noqa: S603  our own
        last: deque[str] = deque(maxlen=_LAST_LINES)
        for line in process.stdout or ():
            last.append(line.strip())
            _log.info("%s", last[-1])
    if process.returncode != 0:
        raise BackendFault(f"{' '.join(command)} ended with status {process.returncode}: {' | '.join(last)}")


class TrtBackend:
    """Runs plans on one GPU."""

    def __init__(self, options: TrtOptions, platform: Platform | None = None, run: Run = run_logged) -> None:
        """Find TensorRT and the GPU.

        Args:
            options: How.
            platform: Instead of what this machine has.
            run: Instead of a process of its own for building plans.

        Raises:
            BackendFault: TensorRT, the CUDA bindings or the GPU is not there; the message says what to do.
        """
        self._options = options
        self._run = run
        with _translated("TensorRT cannot be used"):
            self._platform = platform if platform is not None else open_platform(options.device)
        self._loaded: dict[str, PlanRunner] = {}

    @property
    def device(self) -> Device:
        return Device(f"trt-cuda:{self._options.device}", max_batch=_MAX_BATCH, look_ahead=1)

    def load(self, artifact_id: str, artifact: Artifact) -> str:
        role, artifact = self._plan_of(artifact_id, artifact)
        entry = artifact.manifest.files[role]
        path = artifact.directory / entry.path
        try:
            plan = path.read_bytes()
        except OSError as error:
            raise BackendFault(f"{artifact_id}: {path} cannot be read: {error.strerror}") from error
        with _translated(f"{artifact_id}: {path} cannot be used"):
            runner = PlanRunner(self._platform, plan, artifact.manifest)
        self.unload(artifact_id)
        self._loaded[artifact_id] = runner
        return entry.precision or "fp16"

    def unload(self, artifact_id: str) -> None:
        runner = self._loaded.pop(artifact_id, None)
        if runner is not None:
            runner.close()

    def run(self, artifact_id: str, arrays: Arrays) -> Arrays:
        runner = self._loaded.get(artifact_id)
        if runner is None:
            raise BackendFault(f"{artifact_id} is not loaded")
        size = len(next(iter(arrays.values())))
        if size > runner.most:
            # So that warming up finds the largest batch; the plan's memory is what it was built for.
            raise OutOfMemoryFault(f"{artifact_id}: expected at most {runner.most} images, as the plan, found {size}")
        with _translated(f"{artifact_id}: a batch of {size} failed"):
            return runner.run(arrays)

    def close(self) -> None:
        for artifact_id in tuple(self._loaded):
            self.unload(artifact_id)

    def _plan_of(self, artifact_id: str, artifact: Artifact) -> tuple[str, Artifact]:
        try:
            plan_source(artifact)
        except ArtifactError as error:
            raise BackendFault(f"{artifact_id}: {error}") from error  # nothing could be built of it either
        try:
            return self._find(artifact), artifact
        except (ArtifactError, ManifestError) as error:
            if not self._options.build_plans:
                raise BackendFault(f"{artifact_id}: {error}, or let the server do it: --build-plans") from error
        with _BUILDING:
            return self._built(artifact_id, artifact.directory)

    def _built(self, artifact_id: str, directory: Path) -> tuple[str, Artifact]:
        """The plan that another thread has built meanwhile, or a new one."""
        try:
            artifact = open_artifact(directory)
            try:
                return self._find(artifact), artifact
            except (ArtifactError, ManifestError) as error:
                _log.warning("%s: building a plan, which takes minutes: %s", artifact_id, error)
            self._run(_build_command(directory, self._options.device))
            artifact = open_artifact(directory)
            return self._find(artifact), artifact
        except (ArtifactError, ManifestError) as error:
            raise BackendFault(f"{artifact_id}: {error}") from error

    def _find(self, artifact: Artifact) -> str:
        return find_plan(artifact, self._platform.cuda.name, self._platform.version)


def _build_command(directory: Path, device: int) -> tuple[str, ...]:
    return (sys.executable, "-m", "model_export", "tensorrt", str(directory), "--device", str(device))


@contextmanager
def _translated(what: str) -> Iterator[None]:
    try:
        yield
    except DeviceError as error:
        if error.out_of_memory:
            raise OutOfMemoryFault(f"{what}: {error}") from error
        raise BackendFault(f"{what}: {error}", fatal=error.fatal) from error
    except PlanError as error:
        raise BackendFault(f"{what}: {error}") from error

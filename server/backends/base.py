"""The port between the engine and whatever runs a network. A backend's author need know nothing else.

Rules of this module: no runtime, no asyncio, no transport. A backend is made and used in one thread only, the device
thread that owns it, so it needs no locks. It holds nothing between batches that depends on what was in them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from artifact import Artifact

Arrays = Mapping[str, NDArray[np.generic]]


class BackendFault(Exception):  # noqa: N818 - a fault of the device is not an error of the caller
    """The device could not run a batch.

    Attributes:
        fatal: True when the device's state is gone and only a new process cures it.
    """

    def __init__(self, message: str, *, fatal: bool = False) -> None:
        super().__init__(message)
        self.fatal = fatal


class OutOfMemoryFault(BackendFault):
    """The batch did not fit in device memory; a smaller one may."""


@dataclass(frozen=True, slots=True)
class Device:
    """How a backend's device is best fed.

    Attributes:
        name: What it is, as metrics and `/models` show it: `ort-cpu`, `ort-cuda:0`, `fake`.
        max_batch: Largest batch worth forming where the operator does not say: on a CPU a batch saves nothing, and
            costs memory and latency.
        look_ahead: Batches that may be bound while one runs, so that the device never waits for the event loop.
        on_host: It computes on the CPUs that everything else runs on.
    """

    name: str
    max_batch: int
    look_ahead: int
    on_host: bool = False


@dataclass(frozen=True, slots=True)
class Finish:
    """What is to be made of a network's answer, for one image.

    Attributes:
        alpha: (h, w) float32 in [0, 1], of the working size, or of the image's where it was refined.
        size: (height, width) of the image.
        rgb: (height, width, 3) uint8 whose foreground colours are to be estimated; None where none are wanted.
        input_alpha: (height, width) uint8 that the image came with, or None.
        deep: Whether 8 bits are too few for the matte.
    """

    alpha: NDArray[np.float32]
    size: tuple[int, int]
    rgb: NDArray[np.uint8] | None = None
    input_alpha: NDArray[np.uint8] | None = None
    deep: bool = False


@dataclass(frozen=True, slots=True)
class Finished:
    """A matte at image size, and the colours to go with it.

    Attributes:
        alpha: (H, W), times the alpha that the image came with; uint8, or float32 in [0, 1] where it is to be deep.
        rgb: (H, W, 3) uint8, estimated; None where none were wanted.
    """

    alpha: NDArray[np.uint8] | NDArray[np.float32]
    rgb: NDArray[np.uint8] | None


class Backend(Protocol):
    """Runs artifacts on one device."""

    @property
    def device(self) -> Device:
        """What it runs on; does not change."""
        ...

    def load(self, artifact_id: str, artifact: Artifact) -> str:
        """Make an artifact runnable under an id of the caller's; an id that is loaded already is replaced.

        Returns:
            The precision it runs at (`fp32`, `fp16`): which of the manifest's self-test tolerances judges it.

        Raises:
            BackendFault: The artifact cannot be loaded on this device; the message says why.
        """
        ...

    def unload(self, artifact_id: str) -> None:
        """Forget an artifact and free what it held. Unknown ids are ignored."""
        ...

    def run(self, artifact_id: str, arrays: Arrays) -> Arrays:
        """Run one batch.

        Args:
            artifact_id: What `load` was called with.
            arrays: By input name; every array has the batch axis first, the same length B in all.

        Returns:
            By output name; every array has the batch axis first, length B, in the order of the inputs. The arrays may
            be the backend's own memory, which its next call overwrites.

        Raises:
            BackendFault: The batch failed. Nothing of it may be used.
        """
        ...

    def close(self) -> None:
        """Free the device. The backend is not used afterwards."""
        ...


@runtime_checkable
class FinishingBackend(Protocol):
    """A backend whose device also does what comes after the network. Optional: else `matting` does it on the host."""

    def finish(self, work: Finish) -> Finished:
        """Resize a matte, multiply it by the image's own alpha, and estimate colours.

        The same as `matting.geometry.restore`, `matting.composition.with_input_alpha` and
        `matting.foreground.estimate_foreground` within one level of 255.

        Raises:
            BackendFault: It failed; the host can do it instead.
        """
        ...

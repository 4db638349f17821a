"""A backend without a model: alpha is the luminance of the image, and refines nothing. It ships.

`--backend fake` measures everything around the network; tests use the same class with a gate, a log and faults. Its
answers depend on each image alone, so a mix-up anywhere shows as a wrong matte.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from artifact import Artifact, Manifest, TensorSpec, refiner_tensors
from matting.composition import to_uint8, with_input_alpha
from matting.foreground import estimate_foreground
from matting.geometry import restore
from matting.refinement import TileShape
from server.backends.base import Arrays, BackendFault, Device, Finish, Finished

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601


def fake_artifact(input_size: tuple[int, int] = (512, 512), *, name: str = "fake", max_batch: int = 32) -> Artifact:
    """An artifact with a manifest and no files, which only the fake backend can load.

    Args:
        input_size: (height, width) of the images it takes.
        name: What people call it.
        max_batch: Largest batch.
    """
    shape = ("batch", *input_size)
    manifest = Manifest(
        name=name,
        kind="matte",
        inputs=(TensorSpec("image", "uint8", (*shape, 3)),),
        outputs=(TensorSpec("alpha", "float32", shape),),
        input_size=input_size,
        max_batch=max_batch,
        backbone="none",
        licence="MIT",
        origin={"made_by": "server.backends.fake"},
    )
    return Artifact(Path("/nonexistent/fake-artifact"), manifest)


def fake_refiner(side: int = 128, *, halo: int = 16, name: str = "fake-refiner", max_batch: int = 32) -> Artifact:
    """A refiner without files, which gives every mask back as it is, and so harms none.

    Args:
        side: Of its tiles.
        halo: Of its tiles.
        name: What people call it.
        max_batch: Largest batch.
    """
    inputs, outputs = refiner_tensors(side, TileShape(side, halo).answer)
    manifest = Manifest(
        name=name,
        kind="refine",
        inputs=inputs,
        outputs=outputs,
        input_size=(side, side),
        max_batch=max_batch,
        backbone="none",
        licence="MIT",
        origin={"made_by": "server.backends.fake"},
        halo=halo,
        extra={"no_harm": {"images": 1, "worse": 0}},
    )
    return Artifact(Path("/nonexistent/fake-refiner"), manifest)


def luminance(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(..., H, W, 3) uint8 RGB to (..., H, W) float32 in [0, 1]: what the fake answers."""
    return np.clip(image.astype(np.float32) @ (_LUMA / np.float32(255)), 0, 1)


def _unrefined(masks: NDArray[np.generic], frames: NDArray[np.generic], side: int) -> NDArray[np.generic]:
    """The windows of masks (B, T, T) that are asked for."""
    corners = frames[:, 4:].astype(int).tolist()
    windows = (mask[top : top + side, left : left + side] for mask, (top, left) in zip(masks, corners, strict=True))
    return np.stack(list(windows))


@dataclass(frozen=True, slots=True)
class FakeOptions:
    """How the fake behaves.

    Attributes:
        delay_s: Seconds that a batch takes, whatever its size.
        item_delay_s: Seconds more for each item of it.
        max_batch: As `Device.max_batch`.
        look_ahead: As `Device.look_ahead`.
        name: As `Device.name`.
    """

    delay_s: float = 0.0
    item_delay_s: float = 0.0
    max_batch: int = 8
    look_ahead: int = 0
    name: str = "fake"


class FakeBackend:
    """Gives back luminance for artifacts of matte kind, and for those of refine kind the mask that they are shown."""

    def __init__(
        self, options: FakeOptions = FakeOptions(), *, before_run: Callable[[str, Arrays], None] | None = None
    ) -> None:
        """Make one.

        Args:
            options: How it behaves.
            before_run: Called in the device thread with every batch, before it is answered: a test's place to record,
                to wait for a gate, or to raise a fault.
        """
        self._options = options
        self._before_run = before_run
        self._manifests: dict[str, Manifest] = {}
        self._never = threading.Event()  # a wait that ends on time and holds no lock

    @property
    def device(self) -> Device:
        return Device(self._options.name, self._options.max_batch, self._options.look_ahead, on_host=True)

    def load(self, artifact_id: str, artifact: Artifact) -> str:
        self._manifests[artifact_id] = artifact.manifest
        return "fp32"

    def unload(self, artifact_id: str) -> None:
        self._manifests.pop(artifact_id, None)

    def run(self, artifact_id: str, arrays: Arrays) -> Arrays:
        manifest = self._manifests.get(artifact_id)
        if manifest is None:
            raise BackendFault(f"{artifact_id} is not loaded")
        if self._before_run is not None:
            self._before_run(artifact_id, arrays)
        image = arrays[manifest.inputs[0].name]
        delay_s = self._options.delay_s + self._options.item_delay_s * len(image)
        if delay_s > 0:
            self._never.wait(delay_s)
        if manifest.kind == "refine":
            alpha = _unrefined(arrays["mask"], arrays["frame"], int(manifest.outputs[0].shape[1]))
        else:
            alpha = luminance(image.astype(np.uint8, copy=False))
        return {manifest.outputs[0].name: alpha}

    def finish(self, work: Finish) -> Finished:
        """With the functions of the host, in the thread of the device."""
        alpha = with_input_alpha(restore(work.alpha, work.size), work.input_alpha)
        rgb = None if work.rgb is None else estimate_foreground(work.rgb, to_uint8(alpha))
        return Finished(alpha if work.deep else to_uint8(alpha), rgb)

    def close(self) -> None:
        self._manifests.clear()

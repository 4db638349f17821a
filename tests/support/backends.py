"""Devices for tests: a script for the shipped fake backend, and a tiny real ONNX model.

Images are told apart by their marks: `marked_image(n)` is filled with n, and so its matte is n / 255 everywhere.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from artifact import Artifact, Manifest, NewFile, TensorSpec, Tolerance, write_artifact
from server.backends.base import Arrays, Backend, BackendFault, OutOfMemoryFault
from server.backends.fake import FakeBackend, FakeOptions, fake_artifact, luminance
from server.engine import Engine, EngineLimits, Item, Outcome
from server.observability.metrics import Metrics

SIZE = (8, 8)
_LIMITS = EngineLimits()
_OPTIONS = FakeOptions()
PATIENCE_S = 30.0  # for a thread that is certain to come; only a broken test waits so long


def marked_image(mark: int, size: tuple[int, int] = SIZE) -> NDArray[np.uint8]:
    """An image whose every byte is `mark`."""
    return np.full((*size, 3), mark, np.uint8)


def marked_item(mark: int, artifact_id: str = "a", **fields: Any) -> Item:
    """An item with a marked image."""
    return Item(artifact_id, {"image": marked_image(mark)}, SIZE, **fields)


def mark_of(outcome: Outcome) -> int:
    """The mark of the image that an outcome's matte was made from."""
    alpha = outcome.arrays["alpha"]
    assert alpha.shape == SIZE
    assert np.ptp(alpha) == 0
    return round(float(alpha[0, 0]) * 255)


@dataclass
class DeviceScript:
    """What a fake device does with its batches: give it to `FakeBackend` as `before_run`.

    Attributes:
        gated: Each batch waits until `let_pass` is called for it.
        stuck: Marks whose presence keeps a batch waiting until `open`, whatever is let pass.
        poison: Marks whose presence fails the batch.
        fatal: Marks whose presence loses the device.
        capacity: Batches of more items run out of memory; None is unlimited.
        free: Marks of images that pass unrecorded and unhindered: those of self-tests.
        armed: False while warming up: then nothing is recorded, held or failed.
        batches: Marks of each batch that reached the device, in order.
        artifacts: Artifact of each.
    """

    gated: bool = False
    stuck: set[int] = field(default_factory=set)
    poison: set[int] = field(default_factory=set)
    fatal: set[int] = field(default_factory=set)
    capacity: int | None = None
    free: set[int] = field(default_factory=set)
    armed: bool = False
    batches: list[list[int]] = field(default_factory=list)
    artifacts: list[str] = field(default_factory=list)
    _arrived: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    _gate: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    _opened: threading.Event = field(default_factory=threading.Event)

    def __call__(self, artifact_id: str, arrays: Arrays) -> None:
        if not self.armed:
            return
        marks = [int(image.flat[0]) for image in arrays["image"]]
        if self.free.issuperset(marks):
            return
        self.batches.append(marks)
        self.artifacts.append(artifact_id)
        self._arrived.release()
        if self.stuck.intersection(marks):
            assert self._opened.wait(PATIENCE_S), "the script was never opened"
        elif self.gated:
            assert self._gate.acquire(timeout=PATIENCE_S), "the gate was never opened"
        if self.fatal.intersection(marks):
            raise BackendFault("the card has fallen off", fatal=True)
        if self.capacity is not None and len(marks) > self.capacity:
            raise OutOfMemoryFault(f"{len(marks)} items, room for {self.capacity}")
        if self.poison.intersection(marks):
            raise BackendFault("a poisoned batch")

    async def arrival(self) -> None:
        """Wait until one more batch has reached the device."""
        assert await asyncio.to_thread(self._arrived.acquire, timeout=PATIENCE_S), "no batch came"

    def arrival_within_this_turn(self) -> None:
        """As `arrival`, but keeps the event loop from running meanwhile."""
        assert self._arrived.acquire(timeout=PATIENCE_S), "no batch came"

    def forget_arrivals(self) -> None:
        """From now on `arrival` waits for batches to come."""
        self._arrived = threading.Semaphore(0)

    def let_pass(self, batches: int = 1) -> None:
        """Open the gate for so many batches."""
        self._gate.release(batches)

    def open(self) -> None:
        """Open the gate for good."""
        self.gated = False
        self._opened.set()
        self.let_pass(1000)


@asynccontextmanager
async def running_engine(
    script: DeviceScript,
    limits: EngineLimits = _LIMITS,
    metrics: Metrics | None = None,
    *,
    options: FakeOptions = _OPTIONS,
    artifacts: Sequence[str] = ("a",),
    devices: int = 1,
    **fields: Any,
) -> AsyncIterator[Engine]:
    """A warm engine on scripted fake devices, armed; closed at the end."""

    def make() -> Backend:
        return FakeBackend(options, before_run=script)

    makers: list[Callable[[], Backend]] = [make] * devices
    engine = Engine(makers, limits, metrics if metrics is not None else Metrics(), **fields)
    await engine.start({artifact_id: fake_artifact(SIZE) for artifact_id in artifacts})
    script.armed = True
    try:
        yield engine
    finally:
        script.open()
        await engine.close()


async def turn_loop(turns: int = 10) -> None:
    """Let the tasks that are ready run until they wait."""
    for _ in range(turns):
        await asyncio.sleep(0)


def counted(metrics: Metrics, name: str, **labels: str) -> float:
    """The value of one series of `/metrics`."""
    value = metrics.registry.get_sample_value(name, labels)
    assert value is not None, f"no series {name}{labels}"
    return value


def tiny_onnx_artifact(
    directory: Path, size: tuple[int, int] = (16, 24), *, batch: int | str = "batch", expected_offset: float = 0.0
) -> Artifact:
    """A real ONNX model under the matte contract, in milliseconds: alpha is the sigmoid of a 3x3 convolution.

    Args:
        directory: Where to write it.
        size: (height, width).
        batch: Length of the batch axis, or its symbol.
        expected_offset: Added to the self-test's expected answer: not 0 makes the self-test fail.
    """
    source = directory.parent / f"{directory.name}-source"
    source.mkdir()
    onnx.save(_tiny_graph(size, batch), source / "model.onnx")
    rng = np.random.default_rng(7)
    rows = batch if isinstance(batch, int) else 1
    image = rng.integers(0, 256, (rows, *size, 3), dtype=np.uint8)
    alpha = tiny_alpha(image) + np.float32(expected_offset)
    np.savez(source / "self_test.npz", image=image, alpha=alpha)
    manifest = Manifest(
        name="tiny",
        kind="matte",
        inputs=(TensorSpec("image", "uint8", (batch, *size, 3)),),
        outputs=(TensorSpec("alpha", "float32", (batch, *size)),),
        input_size=size,
        max_batch=batch if isinstance(batch, int) else 8,
        backbone="none",
        licence="MIT",
        self_test={"fp32": Tolerance(max_abs=1e-4, mean_abs=1e-5)},
    )
    files = {
        "model": NewFile(source / "model.onnx", "model.onnx", "fp32"),
        "self_test": NewFile(source / "self_test.npz", "self_test.npz"),
    }
    return write_artifact(directory, manifest, files)


def tiny_alpha(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """What the tiny model answers, in numpy: (B, H, W, 3) uint8 to (B, H, W) float32."""
    height, width = image.shape[1:3]
    padded = np.pad(image.astype(np.float64) / 255, ((0, 0), (1, 1), (1, 1), (0, 0)))
    logits = np.zeros((len(image), height, width))
    for row in range(3):
        for column in range(3):
            logits += padded[:, row : row + height, column : column + width] @ _KERNEL[0, :, row, column]
    return (1 / (1 + np.exp(-logits))).astype(np.float32)


_KERNEL = np.random.default_rng(3).normal(size=(1, 3, 3, 3)).astype(np.float32)


def _tiny_graph(size: tuple[int, int], batch: int | str) -> onnx.ModelProto:
    height, width = size
    constants = {"scale": np.float32(1 / 255), "kernel": _KERNEL, "channel": np.array([1], np.int64)}
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["float", "scale"], ["scaled"]),
        helper.make_node("Transpose", ["scaled"], ["nchw"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["nchw", "kernel"], ["logits"], pads=[1, 1, 1, 1]),
        helper.make_node("Sigmoid", ["logits"], ["sigmoid"]),
        helper.make_node("Squeeze", ["sigmoid", "channel"], ["alpha"]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, [batch, height, width, 3])],
        [helper.make_tensor_value_info("alpha", TensorProto.FLOAT, [batch, height, width])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def fake_artifact_with_self_test(directory: Path, mark: int = 99, *, offset: float = 0.0) -> Artifact:
    """An artifact on disk that the fake backend passes: a marked image and its luminance.

    Args:
        directory: Where to write it.
        mark: Another one makes another artifact.
        offset: Added to the expected answer: not 0 makes the self-test fail.
    """
    source = directory.parent / f"{directory.name}-source"
    source.mkdir()
    image = marked_image(mark)[None]
    np.savez(source / "self_test.npz", image=image, alpha=luminance(image) + np.float32(offset))
    manifest = replace(fake_artifact(SIZE).manifest, self_test={"fp32": Tolerance(max_abs=1e-6, mean_abs=1e-6)})
    return write_artifact(directory, manifest, {"self_test": NewFile(source / "self_test.npz", "self_test.npz")})

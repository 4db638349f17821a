"""The networks that are measured, and what each section is told."""

import copy
import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from artifact import TensorSpec
from benchmarks.gpu.clock import Clock
from benchmarks.gpu.report import Report
from model_export.sample_inputs import subject
from modeling.birefnet.config import SWIN_L, SWIN_T, BiRefNetConfig
from modeling.birefnet.network import BiRefNet
from modeling.contract import ImageToAlpha
from modeling.folding import fold
from modeling.weights import load_network
from server.backends.torch_cuda.runners import CudaDevice, EagerRunner, GraphRunner, Runner, Signature
from tests.support.networks import TINY, seeded_network

ROOT = Path(__file__).parents[2]
EMBEDDED_WEIGHTS = ROOT / "training" / "checkpoints" / "compact.safetensors"
EMBEDDED_SIDE = 512


@dataclass(frozen=True, slots=True)
class Subject:
    """One network at one size.

    Attributes:
        backbone: Its name in the rows.
        config: Its configuration; random weights, unless there is a checkpoint.
        size: (height, width).
        batches: That are measured.
        checkpoint: Trained weights.
    """

    backbone: str
    config: BiRefNetConfig | None
    size: tuple[int, int]
    batches: Sequence[int]
    checkpoint: Path | None = None

    def network(self) -> BiRefNet:
        """In fp32 on the CPU; shared, so not to be changed."""
        return _network(self.config, self.checkpoint)

    def images(self, batch: int) -> NDArray[np.uint8]:
        """(batch, H, W, 3): a drawn subject, at another place in each."""
        return np.stack([subject(*self.size, shift=16 * index) for index in range(batch)])

    def row(self, **fields: object) -> dict[str, Any]:
        """What says in a row which network it is of."""
        return {"backbone": self.backbone, "size": list(self.size), **fields}


_BATCHES = (1, 2, 4, 8, 16, 32)
FULL = (
    Subject("swin_v1_l", SWIN_L, (1024, 1024), _BATCHES),
    Subject("swin_v1_t", SWIN_T, (1024, 1024), _BATCHES),
    Subject("swin_v1_l", SWIN_L, (2048, 2048), (1, 2, 4, 8)),
)
EMBEDDED = Subject("embedded", None, (EMBEDDED_SIDE, EMBEDDED_SIDE), _BATCHES, EMBEDDED_WEIGHTS)
DRY = (Subject("tiny", TINY, (64, 96), (1, 2)),)
DRY_EMBEDDED = Subject("embedded", None, (64, 64), (1,), EMBEDDED_WEIGHTS)


@dataclass(frozen=True, slots=True)
class Context:
    """What a section is told.

    Attributes:
        report: Where its rows go.
        device: What is measured.
        clock: Of that device.
        dry: Whether this is a rehearsal without a GPU: tiny networks, plain modules instead of fused ones.
        folder: For files that other sections may use too.
        out: For files that are results.
        minutes: That training may take.
        init: Weights that training goes on from.
        official: Checkout of the official implementation, if there is one.
        tune: Whether kernels try their launches.
        artifact: With a half-precision graph, if there is one.
    """

    report: Report
    device: torch.device
    clock: Clock
    dry: bool
    folder: Path
    out: Path
    minutes: float = 5.0
    init: Path | None = None
    official: Path | None = None
    tune: bool = True
    artifact: Path | None = None
    ceilings: dict[str, float] = field(default_factory=dict)

    @property
    def subjects(self) -> Sequence[Subject]:
        """The networks that are measured."""
        return DRY if self.dry else FULL

    @property
    def embedded(self) -> Subject:
        """The one with trained weights."""
        return DRY_EMBEDDED if self.dry else EMBEDDED

    @property
    def precisions(self) -> dict[str, torch.dtype]:
        """That the torch backend's network can have here."""
        return {"fp32": torch.float32} if self.dry else {"fp16": torch.float16, "fp32": torch.float32}

    def fused(self, subject: Subject, dtype: torch.dtype) -> BiRefNet:
        """The network as the torch backend runs it, on the device."""
        return _fused(subject, dtype, self)

    def plain(self, subject: Subject) -> nn.Module:
        """The network as it was trained, fp32, plain modules: what answers are held against."""
        return ImageToAlpha(copy.deepcopy(subject.network())).to(self.device)

    def runner(self, network: BiRefNet, subject: Subject) -> Runner:
        """What runs batches of a network, as in the torch backend."""
        image = TensorSpec("image", "uint8", ("batch", *subject.size, 3))
        signature = Signature((image,), TensorSpec("alpha", "float32", ("batch", *subject.size)))
        module = ImageToAlpha(network).to(self.device)
        if self.device.type != "cuda":
            return EagerRunner(module, signature)
        return GraphRunner(module, signature, CudaDevice(self.device.index or 0))


@functools.cache
def _network(config: BiRefNetConfig | None, checkpoint: Path | None) -> BiRefNet:
    if checkpoint is not None:
        return load_network(checkpoint)
    if config is None:
        raise ValueError("expected a configuration or a checkpoint, found neither")
    return seeded_network(config)


def _fused(subject: Subject, dtype: torch.dtype, context: Context) -> BiRefNet:
    if context.device.type != "cuda":
        return fold(subject.network())
    from modeling.fused import Launches, fuse  # needs triton

    return fuse(subject.network(), dtype, Launches(tuning=context.tune)).to(context.device)


@torch.inference_mode()
def alpha_of(module: nn.Module, images: NDArray[np.uint8], device: torch.device) -> Tensor:
    """(B, H, W) alpha of images, one after the other, on the CPU: a plain network's scores are gigabytes each."""
    return torch.cat([module(torch.from_numpy(image[None]).to(device)).float().cpu() for image in images])


def difference(found: Tensor, expected: Tensor) -> dict[str, float]:
    """Largest and mean absolute difference.

    Raises:
        ArithmeticError: There are values that are not finite.
    """
    each = (found.double() - expected.double()).abs()
    if not torch.isfinite(each).all():
        raise ArithmeticError(f"expected numbers, found {int((~torch.isfinite(each)).sum())} that are none")
    return {"max_abs": float(each.max()), "mean_abs": float(each.mean())}


def release(device: torch.device) -> None:
    """Give memory that nothing uses any more back to the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)

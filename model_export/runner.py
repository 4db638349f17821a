"""Ways to the same alpha: the network in torch at several precisions, and graphs in ONNX Runtime."""

import contextlib
import copy
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from artifact import Io
from matting.normalisation import DEVIATION, MEAN
from model_export.half_emulation import HalfEmulation
from model_export.sessions import open_session
from modeling.birefnet.network import BiRefNet
from modeling.folding import fold
from modeling.half import half_precision


class AlphaRunner(Protocol):
    """(B, H, W, 3) uint8 to (B, H, W) float32 in [0, 1]."""

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]: ...


class NetworkRunner:
    """The network in torch: unfolded, as it was trained, but in float16.

    In float64 it is the reference: its rounding in float32 (up to 2e-4 of alpha on noise, more than ONNX Runtime's)
    would be taken for the artifact's. In float16 it is folded and mixed as it is exported (`modeling.half`), and every
    half-precision operator rounds what it gives and accumulates in float32, as on a GPU.
    """

    def __init__(self, network: BiRefNet, dtype: torch.dtype) -> None:
        self._half = dtype == torch.float16
        self._network = half_precision(fold(network)) if self._half else copy.deepcopy(network).to(dtype)
        self._dtype = torch.float32 if self._half else dtype

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        return logistic(self.logits(images)[:, 0])

    @torch.no_grad()
    def logits(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        """(B, H, W, 3) uint8 to (B, 1, H, W)."""
        found = []
        for image in images:
            tensor = torch.from_numpy(normalised(image[None])).to(self._dtype)
            with HalfEmulation() if self._half else contextlib.nullcontext():
                found.append(self._network(tensor).double())
        array: NDArray[np.float64] = torch.cat(found).numpy()
        return array


class OnnxRunner:
    """A graph of a matte model in ONNX Runtime, on the CPU.

    Raises:
        ExportError: The file cannot be loaded.
    """

    def __init__(self, path: Path, io: Io = "image") -> None:
        self._session = open_session(path)
        self._io = io
        self._batch = self._session.get_inputs()[0].shape[0]

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        if self._io == "image":
            return self.run(images)
        return logistic(self.run(normalised(images).astype(np.float32))[:, 0])

    def run(self, array: NDArray[np.generic]) -> NDArray[np.float32]:
        """The graph's only output for its only input; one that takes only a certain batch is given that."""
        if not isinstance(self._batch, int):
            return self._run(array)
        parts = [array[start : start + self._batch] for start in range(0, len(array), self._batch)]
        return np.concatenate([self._run(filled(part, self._batch))[: len(part)] for part in parts])

    def _run(self, array: NDArray[np.generic]) -> NDArray[np.float32]:
        output: NDArray[np.float32] = self._session.run(None, {self._session.get_inputs()[0].name: array})[0]
        return output


def normalised(images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """(B, H, W, 3) uint8 to (B, 3, H, W) with ImageNet's statistics: what the bare network takes."""
    colours = (images / 255.0 - np.array(MEAN)) / np.array(DEVIATION)
    return np.ascontiguousarray(colours.transpose(0, 3, 1, 2))


def logistic(logits: NDArray[np.floating]) -> NDArray[np.float32]:
    """The sigmoid, in float64, without overflow."""
    tame = np.clip(logits.astype(np.float64), -80.0, 80.0)
    return (1.0 / (1.0 + np.exp(-tame))).astype(np.float32)


def filled(array: NDArray[np.generic], batch: int) -> NDArray[np.generic]:
    """Repeated up to a batch."""
    missing = batch - len(array)
    return array if not missing else np.concatenate([array, np.repeat(array[-1:], missing, axis=0)])

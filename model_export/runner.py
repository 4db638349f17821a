"""Two ways to the same alpha: the network in torch, and the artifact in ONNX Runtime."""

import copy
from pathlib import Path
from typing import Protocol

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from model_export.errors import ExportError
from model_export.traceable import ImageToAlpha
from modeling.birefnet.network import BiRefNet

LOAD_FAILURES = (
    ort_errors.Fail,
    ort_errors.InvalidArgument,
    ort_errors.InvalidGraph,
    ort_errors.InvalidProtobuf,
    ort_errors.NoSuchFile,
    ort_errors.NotImplemented,
    ort_errors.RuntimeException,
)
"""What ONNX Runtime raises for a file that it does not take; they share no base class."""


class AlphaRunner(Protocol):
    """(B, H, W, 3) uint8 to (B, H, W) float32 in [0, 1]."""

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]: ...


class NetworkRunner:
    """The network as it was trained, unfolded.

    In float64 it is the reference: its rounding in float32 (up to 2e-4 of alpha on noise, more than ONNX Runtime's)
    would be taken for the artifact's.
    """

    def __init__(self, network: BiRefNet, dtype: torch.dtype) -> None:
        self._module = ImageToAlpha(copy.deepcopy(network).to(dtype))

    @torch.inference_mode()
    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        singles = [self._module(torch.from_numpy(image[None].copy())) for image in images]
        alpha: NDArray[np.float32] = torch.cat(singles).to(torch.float32).numpy()
        return alpha


class OnnxRunner:
    """A graph with the matte contract in ONNX Runtime, on the CPU.

    Raises:
        ExportError: The file cannot be loaded.
    """

    def __init__(self, path: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except LOAD_FAILURES as error:
            raise ExportError(f"{path}: expected a graph that ONNX Runtime loads, found: {error}") from error

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        outputs: list[NDArray[np.float32]] = self._session.run(["alpha"], {"image": images})
        return outputs[0]

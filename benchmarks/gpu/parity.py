"""Section `parity`: every backend and precision against the plain network in fp32, on the same images."""

import copy
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from artifact import Artifact, open_artifact
from benchmarks.gpu.subjects import EMBEDDED_WEIGHTS, ROOT, Context, Subject, alpha_of, difference, release
from model_export.sample_inputs import sample_inputs
from modeling.contract import ImageToAlpha
from modeling.folding import fold
from modeling.half import half_precision
from server.backends.ort import MODEL_ROLE, OrtBackend, OrtOptions, has_cuda

_NO_TENSORRT = "TensorRT is not on this machine: benchmarks/gpu/tensorrt.sh builds and measures plans in its container"
_NO_CUDA_PROVIDER = "the installed onnxruntime has no CUDAExecutionProvider, or there is no GPU"
_NO_HALF = "no artifact was given: --artifact DIR, of `birefnet-export onnx … --precision fp16`"
_HALF_ROLE = "model_fp16"


def measure_parity(context: Context) -> None:
    """Alpha of networks with random weights, and of the embedded one with its trained weights on photographs."""
    for subject in (context.embedded, *context.subjects):
        images = _images(context, subject)
        expected = alpha_of(context.plain(subject), images, context.device)
        release(context.device)
        for precision, dtype in context.precisions.items():
            row = subject.row(backend="torch", precision=precision, images=len(images))
            context.report.measure(
                row,
                partial(_torch_rows, context, subject, dtype, images, expected),
            )
            release(context.device)
        context.report.unmeasured(subject.row(backend="tensorrt", precision="fp16"), _NO_TENSORRT)
    _measure_onnx(context)
    _measure_half_onnx(context)


def _images(context: Context, subject: Subject) -> NDArray[np.uint8]:
    chosen = [image for name, image in sample_inputs(subject.size) if name != "one pixel off"]
    return np.stack(chosen[:1] if context.dry else chosen)


@torch.inference_mode()
def _torch_rows(
    context: Context, subject: Subject, dtype: torch.dtype, images: NDArray[np.uint8], expected: Tensor
) -> dict[str, Any]:
    runner = context.runner(context.fused(subject, dtype), subject)
    found = torch.cat([torch.from_numpy(runner({"image": image[None]})["alpha"].copy()) for image in images])
    batch = torch.from_numpy(runner({"image": images})["alpha"].copy())
    loss: dict[str, Any] = {}
    if dtype == torch.float16:
        # What the fp16 that is exported loses on the same images, with plain modules: the yardstick.
        plain = ImageToAlpha(half_precision(fold(copy.deepcopy(subject.network())))).to(context.device)
        loss = {"unfused_fp16": difference(alpha_of(plain, images, context.device), expected)}
    return {**difference(found, expected), "batch": difference(batch, found), **loss}


def _measure_onnx(context: Context) -> None:
    """The embedded model's graph in ONNX Runtime against its weights in torch."""
    artifact = open_artifact(ROOT / "server" / "default_model")
    subject = Subject("embedded", None, artifact.manifest.input_size, (1,), EMBEDDED_WEIGHTS)
    images = _images(context, subject)
    expected = alpha_of(context.plain(subject), images, context.device)
    for name, device in (("ort-cpu", None), ("ort-cuda", 0)):
        row = subject.row(backend=name, precision="fp32", images=len(images))
        if device is not None and not (has_cuda() and context.device.type == "cuda"):
            context.report.unmeasured(row, _NO_CUDA_PROVIDER)
            continue
        context.report.measure(row, partial(_onnx_rows, artifact, device, images, expected))


def _measure_half_onnx(context: Context) -> None:
    """The half-precision graph of an artifact in ONNX Runtime, against its fp32 graph on the CPU."""
    if context.artifact is None:
        for name in ("ort-cpu", "ort-cuda"):
            context.report.unmeasured({"backend": name, "precision": "fp16"}, _NO_HALF)
        return
    artifact = open_artifact(context.artifact)
    manifest = artifact.manifest
    half = replace(artifact, manifest=replace(manifest, files={MODEL_ROLE: manifest.files[_HALF_ROLE]}))
    subject = Subject(manifest.backbone, None, manifest.input_size, (1,))
    images = _images(context, subject)
    expected = _alphas(artifact, None, images)
    for name, device in (("ort-cpu", None), ("ort-cuda", 0)):
        row = subject.row(backend=name, precision="fp16", images=len(images))
        if device is not None and not (has_cuda() and context.device.type == "cuda"):
            context.report.unmeasured(row, _NO_CUDA_PROVIDER)
            continue
        context.report.measure(row, partial(_onnx_rows, half, device, images, expected))


def _onnx_rows(artifact: Artifact, device: int | None, images: NDArray[np.uint8], expected: Tensor) -> dict[str, Any]:
    return difference(_alphas(artifact, device, images), expected)


def _alphas(artifact: Artifact, device: int | None, images: NDArray[np.uint8]) -> Tensor:
    backend = OrtBackend(OrtOptions(threads=4, cuda_device=device))
    backend.load("it", artifact)
    alphas = [backend.run("it", {"image": image[None]})["alpha"].astype(np.float32) for image in images]
    backend.close()
    return torch.from_numpy(np.concatenate(alphas))

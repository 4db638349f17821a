"""The GPU that figures come from, and the two ceilings that they are held against."""

import importlib.metadata
from typing import Any

import torch

from benchmarks import machine
from benchmarks.gpu.clock import Clock

_WANTED = ("torch", "triton", "torchvision", "onnxruntime", "onnxruntime-gpu", "onnx", "tensorrt", "fastapi", "grpcio")
_PRODUCT, _COPIED_BYTES = 8192, 1 << 32
_TINY_PRODUCT, _TINY_BYTES = 256, 1 << 20


def describe_gpu(device: torch.device) -> dict[str, Any]:
    """Hardware, versions, commit and date. Packages that are missing are left out."""
    found = machine.describe_what_is_there(*_WANTED)
    gpu: dict[str, Any] = {"name": "none"}
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        gpu = {
            "name": properties.name,
            "capability": f"{properties.major}.{properties.minor}",
            "multiprocessors": properties.multi_processor_count,
            "memory_gib": round(properties.total_memory / 2**30, 1),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        }
    return {**found, "gpu": gpu}


def has(distribution: str) -> bool:
    """Whether a distribution is installed."""
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def ceilings(device: torch.device, clock: Clock) -> dict[str, float]:
    """What this very machine reaches: matrix products of half precision on random data, and a copy of its memory.

    Returns:
        `tflops` (fp16 on a GPU, fp32 on a CPU) and `gigabytes_per_second`, bytes read and bytes written both counted.
    """
    cuda = device.type == "cuda"
    side, size = (_PRODUCT, _COPIED_BYTES) if cuda else (_TINY_PRODUCT, _TINY_BYTES)
    dtype = torch.float16 if cuda else torch.float32
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    product = clock.median_ms(lambda: left @ right)
    source = torch.randint(0, 255, (size,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copy = clock.median_ms(lambda: target.copy_(source))
    return {
        "tflops": round(2 * side**3 / product / 1e9, 4),
        "gigabytes_per_second": round(2 * size / copy / 1e6, 2),
    }

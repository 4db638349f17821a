"""Compile our kernels for GPUs that are not here: `python -m tests.support.compile_kernels [--every]`.

Triton carries the assembler with it, so that a kernel that a GPU's compiler refuses, or that needs more registers than
there are, shows without a GPU. One line for each: name, sizes, capability, bytes of shared memory.
"""

import argparse
from collections.abc import Iterator, Mapping
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from modeling.birefnet.window_attention import BLOCKED
from modeling.fused import kernels
from modeling.fused.deform_conv import _candidates as deform_candidates
from modeling.fused.launches import Launch
from modeling.fused.window_attention import _candidates as attention_candidates

WARP = 32
SHARED_BYTES = {80: 163 << 10, 86: 99 << 10, 89: 99 << 10, 90: 227 << 10}
"""Most that a block may have, by compute capability."""


def deform_conv(taps: int, launch: Launch) -> tuple[Any, dict[str, Any]]:
    """The decoder's: 64 channels to 256, fp16."""
    side = int(taps**0.5)
    types = dict.fromkeys(("x", "sampling", "weight", "y"), "*fp16") | {"bias": "*fp32"}
    types |= dict.fromkeys(("rows", "height", "width", "out_width", "out_area", "sampling_channels"), "i32")
    constants = {
        "kernel_width": side,
        "taps": taps,
        "channels": 64,
        "outputs": 256,
        "block_channels": 64,
        "stride_y": 1,
        "stride_x": 1,
        "padding_y": side // 2,
        "padding_x": side // 2,
        "dilation_y": 1,
        "dilation_x": 1,
        "factor": 1.0,
        "relu": True,
        "precision": "ieee",
    }
    return kernels.deform_conv_kernel, types | constants | dict(launch.blocks)


def window_attention(window: int, shift: int, launch: Launch) -> tuple[Any, dict[str, Any]]:
    """Swin's: 32 channels per head, fp16."""
    types = dict.fromkeys(("qkv", "qkv_bias", "position_bias", "y"), "*fp16") | {"scale": "fp32"}
    types |= dict.fromkeys(("height", "width", "down", "across", "heads"), "i32")
    constants: dict[str, Any] = {"window": window, "shift": shift, "head_channels": 32, "block_channels": 32}
    constants |= {"blocked": BLOCKED, "precision": "ieee"}
    return kernels.window_attention_kernel, types | constants | dict(launch.blocks)


def add_layer_norm(channels: int, *, add: bool) -> tuple[Any, dict[str, Any]]:
    """With a delta in fp16."""
    types = {"x": "*fp32", "delta": "*fp16", "weight": "*fp32", "bias": "*fp32", "y": "*fp16"}
    block = triton.next_power_of_2(channels)
    constants = {"channels": channels, "add": add, "block_rows": max(1, 4096 // block), "block_channels": block}
    return kernels.add_layer_norm_kernel, types | {"rows": "i32", "epsilon": "fp32"} | constants


def cases(*, every: bool) -> Iterator[tuple[Launch, tuple[Any, dict[str, Any]]]]:
    """The kernels of Swin-T and Swin-L; every launch that tuning tries, or the one that ships of each."""
    count = None if every else 1
    for taps in (1, 9, 49) if every else (49,):
        for launch in deform_candidates(256, 1 << 16)[:count]:
            yield launch, deform_conv(taps, launch)
    for window, shift in ((7, 0), (7, 3), (12, 0), (12, 6)) if every else ((12, 6),):
        for launch in attention_candidates(window * window)[:count]:
            yield launch, window_attention(window, shift, launch)
    for channels in (96, 192, 1536, 6144) if every else (192,):
        yield Launch((), 4), add_layer_norm(channels, add=True)


def compiled(launch: Launch, kernel: Any, arguments: Mapping[str, Any], capability: int) -> int:
    """Compile one.

    Returns:
        Bytes of shared memory that a block of it needs.
    """
    names = kernel.arg_names
    typed = {name: value for name, value in arguments.items() if _is_type(value)}
    signature = {name: typed.get(name, "constexpr") for name in names}
    constants = {(names.index(name),): value for name, value in arguments.items() if name not in typed}
    # Tensors of torch begin at multiples of 16 bytes.
    aligned = {(names.index(name),): [["tt.divisibility", 16]] for name, kind in typed.items() if kind[0] == "*"}
    source = ASTSource(kernel, signature, constants, aligned)
    options = {"num_warps": launch.warps, "num_stages": launch.stages}
    found = triton.compile(source, target=GPUTarget("cuda", capability, WARP), options=options)
    return int(found.metadata.shared)


def _is_type(value: object) -> bool:
    return isinstance(value, str) and value in {"*fp16", "*fp32", "i32", "fp32"}


def main() -> None:
    """Compile, and print what each needs; a kernel that does not compile raises."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.compile_kernels", description=__doc__)
    parser.add_argument("--every", action="store_true", help="every launch that tuning tries")
    parser.add_argument("--capability", type=int, nargs="+", default=[90], choices=SHARED_BYTES)
    options = parser.parse_args()
    for capability in options.capability:
        for launch, (kernel, arguments) in cases(every=options.every):
            shared = compiled(launch, kernel, arguments, capability)
            named = {name: arguments[name] for name in ("taps", "window", "shift", "channels") if name in arguments}
            sizes = " ".join(f"{name}={value}" for name, value in (named | launch.arguments()).items())
            print(f"{kernel.fn.__name__} {sizes} sm_{capability}: {shared}")  # noqa: T201  its whole purpose


if __name__ == "__main__":
    main()

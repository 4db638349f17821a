"""Our Triton kernels against the plain modules: on the GPU where there is one, else in Triton's interpreter."""

import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from modeling.birefnet.window_attention import WindowAttention
from modeling.deform_conv import deform_conv2d
from modeling.folding.attention import ConstantWindowAttention, _patterns
from modeling.fused.deform_conv import Epilogue, Geometry, fused_deform_conv2d
from modeling.fused.launches import Launch, Launches
from modeling.fused.residual import ResidualNorm, add_and_normalise
from modeling.fused.window_attention import FusedWindowAttention, fused_window_attention
from tests.support.compile_kernels import SHARED_BYTES
from tests.support.deform_cases import GEOMETRIES, geometry_of, operands
from tests.support.kernels import DEVICE, fused
from tests.support.processes import ROOT
from tests.support.tolerance import FUSED_FP16, FUSED_FP32, FUSED_NORM


def expected(case: dict[str, Any], tensors: tuple[Tensor, ...]) -> Tensor:
    return deform_conv2d(*tensors, **geometry_of(case))


@pytest.mark.parametrize("case", GEOMETRIES)
def test_every_geometry_is_the_references(case: dict[str, Any]) -> None:
    tensors = operands(**case, dtype=torch.float32)
    found = fused(case, tensors, torch.float32)
    assert found.shape == expected(case, tensors).shape
    torch.testing.assert_close(found, expected(case, tensors), rtol=0, atol=FUSED_FP32)


@pytest.mark.parametrize("kernel", [1, 3, 7])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_ragged_maps_and_half_precision(kernel: int, dtype: torch.dtype) -> None:
    """7 x 5 x 2 pixels, 24 channels and 40 outputs are multiples of no block."""
    case = {"kernel": (kernel, kernel), "padding": (kernel // 2, kernel // 2), "size": (7, 5)}
    generator = torch.Generator().manual_seed(kernel)
    _, offset, mask, _, _ = operands(**case, dtype=torch.float32)
    x = torch.randn(2, 24, 7, 5, generator=generator)
    weight = torch.randn(40, 24, kernel, kernel, generator=generator) / (24 * kernel * kernel) ** 0.5
    bias = torch.randn(40, generator=generator)
    # The reference sees what the kernel sees: rounded inputs, coordinates in fp32.
    logits = torch.logit(mask / 2.0).to(dtype).float()
    tensors = (
        x.to(dtype).float(),
        offset.to(dtype).float(),
        2.0 * torch.sigmoid(logits),
        weight.to(dtype).float(),
        bias,
    )
    found = fused(case, tensors, dtype)
    assert found.dtype == dtype
    assert found.is_contiguous(memory_format=torch.channels_last)
    atol = FUSED_FP16 if dtype == torch.float16 else FUSED_FP32
    torch.testing.assert_close(found.float(), expected(case, tensors), rtol=0, atol=atol)


def test_the_epilogue_ends_in_a_relu() -> None:
    case: dict[str, Any] = {}
    tensors = operands(dtype=torch.float32)
    plain, rectified = fused(case, tensors, torch.float32), fused(case, tensors, torch.float32, relu=True)
    assert (plain < 0).any()
    torch.testing.assert_close(rectified, plain.clamp(min=0), rtol=0, atol=0)


def test_coordinates_far_from_the_origin_keep_their_fractions() -> None:
    """At column 2048 fp16 counts in steps of 2; a quarter pixel survives only in fp32."""
    x = torch.zeros(1, 1, 1, 2080)
    x[..., 2050] = 1.0
    sampling = torch.zeros(1, 3, 1, 2080)
    sampling[:, 1] = 0.25
    ones = torch.ones(1, 1, 16)
    found = fused_deform_conv2d(
        x.to(DEVICE, torch.float16),
        sampling.to(DEVICE, torch.float16),
        ones.to(DEVICE, torch.float16),
        torch.zeros(16, device=DEVICE),
        Geometry((1, 1)),
        Epilogue(2.0),
    ).cpu()
    assert found[0, 0, 0, 2049].item() == 0.25
    assert found[0, 0, 0, 2050].item() == 0.75


def test_what_is_not_a_number_stays_where_it_is() -> None:
    tensors = operands(dtype=torch.float32)
    tensors[1][0, 0, 2, 2] = float("nan")
    tensors[1][1, 1, 3, 3] = float("inf")  # outside, so zero
    for relu in (False, True):
        found = fused({}, tensors, torch.float32, relu=relu)
        assert found[0, :, 2, 2].isnan().all()
        assert torch.isfinite(found[1]).all()
        assert int(found.isnan().sum()) == found.shape[1]


def test_channels_beyond_those_of_the_sampling_are_not_read() -> None:
    x, offset, mask, weight, bias = operands(dtype=torch.float32)
    sampling = torch.cat((offset, torch.logit(mask / 2.0), torch.full_like(mask[:, :5], float("nan"))), dim=1)
    matrices = weight.permute(2, 3, 1, 0).flatten(0, 1)
    truth = expected({}, (x, offset, mask, weight, bias))
    x, sampling, matrices, bias = (each.to(DEVICE) for each in (x, sampling, matrices, bias))
    found = fused_deform_conv2d(x, sampling, matrices, bias, Geometry((3, 3), padding=(1, 1)), Epilogue(2.0)).cpu()
    torch.testing.assert_close(found, truth, rtol=0, atol=FUSED_FP32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sampling": (2, 26, 7, 6)}, r"sampling must be \(2, 27 or more, 7, 6\).*found \(2, 26, 7, 6\)"),
        ({"sampling": (2, 27, 5, 6)}, r"sampling must be \(2, 27 or more, 7, 6\)"),
        ({"weight": (9, 4, 4)}, r"weight must be \(9, 3, outputs\)"),
        ({"bias": (5,)}, r"with a bias \(outputs,\)"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(change: dict[str, Any], message: str) -> None:
    shapes: dict[str, Any] = {"x": (2, 3, 7, 6), "sampling": (2, 27, 7, 6), "weight": (9, 3, 4), "bias": (4,), **change}
    tensors: dict[str, Any] = {name: torch.zeros(shape) for name, shape in shapes.items()}
    with pytest.raises(ValueError, match=message):
        fused_deform_conv2d(**tensors, geometry=Geometry((3, 3), padding=(1, 1)))


def attention(window: int, heads: int, head_channels: int, *, shifted: bool) -> ConstantWindowAttention:
    torch.manual_seed(7)
    original = WindowAttention(heads * head_channels, heads, window, shifted=shifted).eval()
    with torch.no_grad():
        for parameter in original.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3)
    return ConstantWindowAttention(original, _patterns(window))


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize(
    ("window", "heads", "head_channels", "size"),
    [
        pytest.param(4, 2, 8, (8, 12), id="whole windows"),
        pytest.param(4, 1, 4, (7, 9), id="padded"),
        pytest.param(4, 2, 16, (4, 4), id="one window"),
        pytest.param(7, 2, 32, (8, 13), id="Swin-T"),
        pytest.param(12, 1, 32, (13, 14), id="Swin-L"),
    ],
)
def test_window_attention(window: int, heads: int, head_channels: int, size: tuple[int, int], shifted: bool) -> None:
    module = attention(window, heads, head_channels, shifted=shifted)
    x = torch.randn(1, *size, heads * head_channels, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found = FusedWindowAttention(module, torch.float32, Launches()).to(DEVICE)(x.to(DEVICE)).cpu()
        torch.testing.assert_close(found, module(x), rtol=0, atol=FUSED_FP32)
        half = FusedWindowAttention(module, torch.float16, Launches()).to(DEVICE)(x.to(DEVICE, torch.float16)).cpu()
    assert half.dtype == torch.float16
    assert (half.float() - found).abs().max() < FUSED_FP16 * found.abs().max()


def test_windows_of_one_image_do_not_see_another() -> None:
    module = attention(4, 2, 8, shifted=True)
    x = torch.randn(2, 7, 9, 16, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        fused_module = FusedWindowAttention(module, torch.float32, Launches()).to(DEVICE)
        together = fused_module(x.to(DEVICE)).cpu()
        torch.testing.assert_close(together, module(x), rtol=0, atol=FUSED_FP32)


@pytest.mark.parametrize("launch", [(16, 16), (32, 64), (128, 16), (256, 256)], ids=str)
def test_window_attention_is_the_same_in_blocks_of_any_size(launch: tuple[int, int], monkeypatch: Any) -> None:
    module = attention(7, 2, 16, shifted=True)
    x = torch.randn(1, 9, 8, 32, generator=torch.Generator().manual_seed(2))
    chosen = Launch((("block_queries", launch[0]), ("block_keys", launch[1])))
    monkeypatch.setattr("modeling.fused.window_attention._candidates", lambda _: [chosen])
    with torch.no_grad():
        found = FusedWindowAttention(module, torch.float32, Launches()).to(DEVICE)(x.to(DEVICE)).cpu()
        torch.testing.assert_close(found, module(x), rtol=0, atol=FUSED_FP32)


def test_operands_of_attention_that_do_not_fit_are_refused() -> None:
    qkv, bias, position = torch.zeros(1, 4, 4, 24), torch.zeros(24), torch.zeros(2, 16, 16)
    for wrong in ((qkv[..., :23], bias, position), (qkv, bias[:8], position), (qkv, bias, position[:, :9])):
        with pytest.raises(ValueError, match=r"expected \(B, H, W, 3 C\)"):
            fused_window_attention(*wrong, window=4, shift=0)


@pytest.mark.parametrize("channels", [8, 96, 192])
@pytest.mark.parametrize("with_delta", [False, True])
def test_adding_and_normalising(channels: int, with_delta: bool) -> None:
    generator = torch.Generator().manual_seed(channels)
    x = 5.0 + 3.0 * torch.randn(2, 5, 3, channels, generator=generator)
    x[..., 1] = 3e5  # a channel as trained Swin networks have them
    delta = torch.randn(x.shape, generator=generator).half() if with_delta else None
    norm = nn.LayerNorm(channels)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    total = x if delta is None else x + delta.float()
    placed = x.to(DEVICE)
    moved = None if delta is None else delta.to(DEVICE)
    found = add_and_normalise(placed, moved, ResidualNorm(norm).to(DEVICE), torch.float32).cpu()
    torch.testing.assert_close(placed.cpu(), total, rtol=0, atol=0)
    torch.testing.assert_close(found, norm(total).detach(), rtol=0, atol=FUSED_NORM)
    half = add_and_normalise(x.to(DEVICE), moved, ResidualNorm(norm).to(DEVICE), torch.float16)
    assert half.dtype == torch.float16


def test_a_residual_stream_is_contiguous_fp32() -> None:
    norm = ResidualNorm(nn.LayerNorm(4))
    for wrong in (torch.zeros(2, 4, dtype=torch.float16), torch.zeros(4, 2).t()):
        with pytest.raises(ValueError, match="expected contiguous fp32"):
            add_and_normalise(wrong, None, norm, torch.float16)
    with pytest.raises(ValueError, match=r"found torch.float32 \(2, 4\) and \(4, 2\)"):
        add_and_normalise(torch.zeros(2, 4), torch.zeros(4, 2), norm, torch.float16)


def compile_kernels(*options: str) -> dict[str, int]:
    """In a process of its own, as this one interprets; bytes of shared memory by kernel."""
    command = [sys.executable, "-m", "tests.support.compile_kernels", *options]
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return {name: int(size) for name, size in (line.rsplit(": ", 1) for line in done.stdout.splitlines())}


def test_kernels_compile_for_hopper() -> None:
    """The interpreter takes more than the compiler does."""
    found = compile_kernels()
    assert [name.split()[0] for name in found] == [
        "deform_conv_kernel",
        "window_attention_kernel",
        "add_layer_norm_kernel",
    ]
    assert max(found.values()) < SHARED_BYTES[90]


@pytest.mark.slow
def test_every_launch_compiles_and_some_fit_smaller_cards() -> None:
    capabilities = ("80", "89", "90")
    found = compile_kernels("--every", "--capability", *capabilities)
    for capability in capabilities:
        own = {name: size for name, size in found.items() if name.endswith(f"sm_{capability}")}
        assert {name.split()[0] for name in own} == {name.split()[0] for name in found}
        for kernel in {name.split()[0] for name in own}:
            needs = [size for name, size in own.items() if name.startswith(kernel)]
            assert min(needs) < SHARED_BYTES[int(capability)], (kernel, capability)

"""The plain-torch deformable convolution against a loop over pixels, and its gradients against finite differences."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import modeling.deform_conv as module
from modeling.bilinear_gather import bilinear_gather
from modeling.deform_conv import deform_conv2d
from tests.support.deform_cases import GEOMETRIES, geometry_of, operands
from tests.support.tolerance import DEFORM_CONV_FP32, DEFORM_CONV_FP64


def read(plane: np.ndarray, y: float, x: float) -> np.ndarray:
    """All channels of (C, H, W) at (y, x), bilinearly; each neighbour outside counts as zero."""
    _, height, width = plane.shape
    value = np.zeros(plane.shape[0])
    top, left = math.floor(y), math.floor(x)
    for row, column in itertools.product((top, top + 1), (left, left + 1)):
        if 0 <= row < height and 0 <= column < width:
            value += (1 - abs(y - row)) * (1 - abs(x - column)) * plane[:, row, column]
    return value


def by_pixel(x, offset, mask, weight, bias, stride, padding, dilation) -> np.ndarray:
    x, offset, mask, weight = (tensor.detach().double().numpy() for tensor in (x, offset, mask, weight))
    _, _, kernel_height, kernel_width = weight.shape
    batch, _, height, width = mask.shape
    result = np.zeros((batch, weight.shape[0], height, width))
    for b, row, column in np.ndindex(batch, height, width):
        for i, j in np.ndindex(kernel_height, kernel_width):
            tap = i * kernel_width + j
            y = row * stride[0] - padding[0] + i * dilation[0] + offset[b, 2 * tap, row, column]
            z = column * stride[1] - padding[1] + j * dilation[1] + offset[b, 2 * tap + 1, row, column]
            result[b, :, row, column] += weight[:, :, i, j] @ (read(x[b], y, z) * mask[b, tap, row, column])
    return result if bias is None else result + bias.detach().double().numpy()[:, None, None]


@pytest.mark.parametrize("case", GEOMETRIES)
def test_equals_the_loop_over_pixels(case: dict[str, Any]):
    tensors = operands(**case)
    geometry = geometry_of(case)
    found = deform_conv2d(*tensors, **geometry)
    expected = by_pixel(*tensors, *geometry.values())
    assert found.shape == expected.shape
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=DEFORM_CONV_FP64)


@pytest.mark.parametrize("kernel", [1, 3, 7])
def test_single_precision(kernel: int):
    case = {"kernel": (kernel, kernel), "padding": (kernel // 2, kernel // 2), "dtype": torch.float32}
    tensors = operands(**case, size=(9, 11))
    found = deform_conv2d(*tensors, **geometry_of(case))
    assert found.dtype == torch.float32
    np.testing.assert_allclose(
        found.numpy(), by_pixel(*tensors, *geometry_of(case).values()), rtol=0, atol=DEFORM_CONV_FP32
    )


@pytest.mark.parametrize("value", [-1.5, -1.0, -0.999, -0.25, 0.0, 4.0, 4.5, 4.999, 5.0, 5.5])
def test_border_of_a_map(value: float):
    """Five pixels of 1 in a row: within a pixel of the border a sample fades to zero, beyond it is zero."""
    x = torch.ones(1, 1, 5, 5, dtype=torch.float64)
    weight, mask = torch.ones(1, 1, 1, 1, dtype=torch.float64), torch.ones(1, 1, 5, 5, dtype=torch.float64)
    position = torch.full((5, 5), value, dtype=torch.float64)
    axis = torch.arange(5, dtype=torch.float64)
    expected = max(0.0, 1.0 + value) if value < 0 else min(1.0, max(0.0, 5.0 - value))
    for offset in (
        torch.stack((position - axis[:, None], torch.zeros(5, 5))),
        torch.stack((torch.zeros(5, 5), position - axis[None])),
    ):
        found = deform_conv2d(x, offset[None], mask, weight)
        torch.testing.assert_close(found, torch.full_like(found, expected), rtol=0, atol=DEFORM_CONV_FP64)


def test_without_offsets_it_is_a_plain_convolution():
    x, offset, mask, weight, bias = operands(spread=0.0)
    found = deform_conv2d(x, offset, torch.ones_like(mask), weight, bias, padding=(1, 1))
    torch.testing.assert_close(found, F.conv2d(x, weight, bias, padding=1), rtol=0, atol=DEFORM_CONV_FP64)


@pytest.mark.parametrize(
    "case",
    [
        pytest.param({"kernel": (1, 1), "padding": (0, 0)}, id="1x1"),
        pytest.param({"size": (4, 5)}, id="3x3"),
        pytest.param({"kernel": (5, 5), "padding": (2, 2), "size": (3, 4)}, id="5x5"),
        pytest.param({"kernel": (7, 7), "padding": (3, 3), "size": (3, 2)}, id="7x7"),
        pytest.param({"stride": (2, 1), "dilation": (1, 2), "padding": (1, 2), "size": (4, 4)}, id="all-different"),
    ],
)
def test_gradients(case: dict[str, Any]):
    tensors = operands(**case, seed=3)
    geometry = geometry_of(case)
    # Bilinear sampling has a kink at whole pixels: keep finite differences away from it.
    offset = tensors[1]
    fraction = offset - offset.floor()
    tensors = (tensors[0], offset.floor() + 0.05 + 0.9 * fraction, *tensors[2:])
    leaves = tuple(tensor.clone().requires_grad_() for tensor in tensors)
    # Fast mode compares random projections of the Jacobians: every entry counts, at the price of two evaluations each.
    assert torch.autograd.gradcheck(lambda *values: deform_conv2d(*values, **geometry), leaves, fast_mode=True)


def reference_gradients(x, offset, mask, weight, bias, geometry) -> tuple[Tensor, ...]:
    leaves = tuple(tensor.clone().requires_grad_() for tensor in (x, offset, mask, weight, bias))
    result = deform_conv2d(*leaves, **geometry)
    probe = torch.cos(torch.arange(result.numel(), dtype=result.dtype)).view_as(result)
    return (result.detach(), *torch.autograd.grad((result * probe).sum(), leaves))


@pytest.mark.parametrize(("chunk", "saved"), [(1, 1 << 40), (40, 1 << 40), (700, 1 << 40), (40, 0), (1 << 22, 0)])
def test_chunks_and_sampling_again_change_nothing(chunk: int, saved: int, monkeypatch: pytest.MonkeyPatch):
    tensors = operands(size=(8, 9))
    geometry = geometry_of({})
    expected = reference_gradients(*tensors, geometry)
    monkeypatch.setattr(module, "CHUNK_FLOATS", chunk)
    monkeypatch.setattr(module, "SAVED_FLOATS", saved)
    found = reference_gradients(*tensors, geometry)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=DEFORM_CONV_FP64)


def test_columns_are_never_all_in_memory(monkeypatch: pytest.MonkeyPatch):
    """The stock kernels' buffer holds every sample of the call; here a chunk holds no more than its budget."""
    seen: list[int] = []

    def counted(*arguments: Tensor) -> Tensor:
        result = bilinear_gather(*arguments)
        seen.append(result.numel())
        return result

    monkeypatch.setattr(module, "bilinear_gather", counted)
    monkeypatch.setattr(module, "CHUNK_FLOATS", 2000)
    x, offset, mask, weight, bias = operands(size=(20, 20), padding=(1, 1))
    deform_conv2d(x, offset, mask, weight, bias, padding=(1, 1))
    assert sum(seen) == 2 * 20 * 20 * 9 * 3
    assert max(seen) <= 2000


def test_coordinates_are_single_precision_for_half_features():
    """At column 300 bfloat16 counts in steps of 2: a quarter pixel survives only in fp32."""
    ramp = torch.arange(320, dtype=torch.float32).div(320).expand(1, 1, 4, 320)
    offset = torch.zeros(1, 2, 4, 320, dtype=torch.bfloat16)
    offset[:, 1] = 0.25
    ones = torch.ones(1, 1, 4, 320, dtype=torch.bfloat16)
    found = deform_conv2d(ramp, offset, ones, torch.ones(1, 1, 1, 1))
    expected = (torch.arange(319, dtype=torch.float32) + 0.25) / 320
    torch.testing.assert_close(found[0, 0, 2, :319], expected, rtol=0, atol=1e-6)


def test_autocast_keeps_coordinates_and_gradients():
    x, offset, mask, weight, bias = operands(size=(6, 40), dtype=torch.float32)
    leaves = tuple(tensor.clone().requires_grad_() for tensor in (x, offset, mask, weight))
    with torch.autocast("cpu", torch.bfloat16):
        found = deform_conv2d(leaves[0], leaves[1], leaves[2], leaves[3], bias, padding=(1, 1))
    expected = deform_conv2d(x, offset, mask, weight, bias, padding=(1, 1))
    # Eight bits of mantissa in the product, none lost in the coordinates.
    assert (found - expected).abs().max() < 0.02 * expected.abs().max()
    gradients = torch.autograd.grad(found.float().square().sum(), leaves)
    assert all(torch.isfinite(gradient).all() for gradient in gradients)


def test_undefined_offsets_give_undefined_results_and_nothing_worse():
    x, offset, mask, weight, bias = operands(dtype=torch.float32)
    offset[0, 0, 2, 2] = float("nan")
    found = deform_conv2d(x, offset, mask, weight, bias, padding=(1, 1))
    assert found[0, :, 2, 2].isnan().all()
    assert torch.isfinite(found[1]).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"offset": (2, 9, 7, 6)}, r"offset must be \(2, 18, 7, 6\).*found \(2, 9, 7, 6\)"),
        ({"mask": (2, 18, 7, 6)}, r"mask must be \(2, 9, 7, 6\).*found \(2, 18, 7, 6\)"),
        ({"offset": (2, 18, 5, 6)}, r"offset must be \(2, 18, 7, 6\)"),
        ({"weight": (4, 5, 3, 3)}, r"weight must be \(4, 3, 3, 3\)"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(change: dict[str, Any], message: str):
    names = ("x", "offset", "mask", "weight", "bias")
    tensors: dict[str, Any] = dict(zip(names, operands(), strict=True))
    tensors.update({name: torch.zeros(shape) for name, shape in change.items()})
    with pytest.raises(ValueError, match=message):
        deform_conv2d(**tensors, padding=(1, 1))

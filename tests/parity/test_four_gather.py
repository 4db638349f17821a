"""The decomposed deformable convolution computes what the reference computes, and keeps its coordinates in fp32."""

from typing import Any

import pytest
import torch

from model_export.four_gather import four_gather_deform_conv2d
from modeling.deform_conv import deform_conv2d
from tests.support.deform_cases import GEOMETRIES, geometry_of, operands
from tests.support.tolerance import DEFORM_CONV_FP32, FAR_COORDINATES_FP16


@pytest.mark.parametrize("case", GEOMETRIES)
def test_equals_the_reference(case: dict[str, Any]) -> None:
    tensors = operands(**case, dtype=torch.float32)
    found = four_gather_deform_conv2d(*tensors, **geometry_of(case))
    expected = deform_conv2d(*tensors, **geometry_of(case))
    assert found.shape == expected.shape
    assert torch.abs(found - expected).max() < DEFORM_CONV_FP32


def test_without_a_bias() -> None:
    x, offset, mask, weight, _ = operands(dtype=torch.float32)
    geometry = geometry_of({})
    found = four_gather_deform_conv2d(x, offset, mask, weight, **geometry)
    assert torch.abs(found - deform_conv2d(x, offset, mask, weight, **geometry)).max() < DEFORM_CONV_FP32


def test_half_precision_keeps_coordinates_far_from_the_origin() -> None:
    """At column 500 fp16 knows halves of pixels only: coordinates in fp16 are off by percents."""
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(1, 8, 1, 16, generator=generator).repeat_interleave(32, dim=3)[..., :512]
    x = torch.nn.functional.avg_pool2d(x, (1, 31), stride=1, padding=(0, 15))
    offset = 2.0 * torch.randn(1, 18, 1, 512, generator=generator)
    mask = torch.rand(1, 9, 1, 512, generator=generator)
    weight = torch.randn(4, 8, 3, 3, generator=generator)
    halves = [tensor.half() for tensor in (x, offset, mask, weight)]
    geometry = geometry_of({})
    exact = deform_conv2d(*(tensor.float() for tensor in halves), **geometry)[..., 256:]
    found = four_gather_deform_conv2d(*halves, **geometry)[..., 256:].float()
    error = (found - exact).square().mean().sqrt() / exact.square().mean().sqrt()
    assert error < FAR_COORDINATES_FP16


def test_undefined_offsets_read_inside_the_table() -> None:
    x, offset, mask, weight, bias = operands(dtype=torch.float32)
    offset[0, 3, 2, 2] = torch.nan
    found = four_gather_deform_conv2d(x, offset, mask, weight, bias, **geometry_of({}))
    assert torch.isnan(found[0, :, 2, 2]).all()
    assert torch.isfinite(found[1]).all()

"""Operands and geometries that deformable convolutions are compared on."""

from typing import Any

import pytest
import torch
from torch import Tensor


def operands(
    kernel=(3, 3),
    stride=(1, 1),
    padding=(1, 1),
    dilation=(1, 1),
    size=(7, 6),
    spread=2.0,
    dtype=torch.float64,
    seed=0,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    taps = kernel[0] * kernel[1]
    out = [
        (length + 2 * pad - step * (side - 1) - 1) // move + 1
        for length, pad, step, side, move in zip(size, padding, dilation, kernel, stride, strict=True)
    ]

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    tensors = (
        normal(2, 3, *size),
        spread * normal(2, 2 * taps, *out),
        2.0 * torch.rand(2, taps, *out, generator=generator, dtype=torch.float64),
        normal(4, 3, *kernel),
        normal(4),
    )
    return tuple(tensor.to(dtype) for tensor in tensors)  # type: ignore[return-value]


GEOMETRIES = [
    pytest.param({"kernel": (1, 1), "padding": (0, 0)}, id="1x1"),
    pytest.param({"kernel": (3, 3)}, id="3x3"),
    pytest.param({"kernel": (5, 5), "padding": (2, 2)}, id="5x5"),
    pytest.param({"kernel": (7, 7), "padding": (3, 3)}, id="7x7"),
    pytest.param({"kernel": (1, 5), "padding": (0, 2)}, id="1x5"),
    pytest.param({"kernel": (2, 3), "padding": (0, 1)}, id="2x3"),
    pytest.param({"stride": (2, 2)}, id="stride-2"),
    pytest.param({"stride": (1, 3), "padding": (2, 0)}, id="stride-1-3"),
    pytest.param({"dilation": (2, 2), "padding": (2, 2)}, id="dilation-2"),
    pytest.param({"dilation": (1, 2), "padding": (3, 0), "stride": (2, 1)}, id="all-different"),
    pytest.param({"padding": (0, 0)}, id="no-padding"),
    pytest.param({"size": (1, 1)}, id="one-pixel"),
    pytest.param({"size": (1, 9)}, id="one-row"),
    pytest.param({"spread": 0.0}, id="no-offset"),
    pytest.param({"spread": 300.0}, id="far-outside"),
]


def geometry_of(case: dict[str, Any]) -> dict[str, Any]:
    return {
        "stride": case.get("stride", (1, 1)),
        "padding": case.get("padding", (1, 1)),
        "dilation": case.get("dilation", (1, 1)),
    }

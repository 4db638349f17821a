"""Continuous alignment (CAM): where a target pixel lies among the feature cells, exactly.

Source: CRM, sections A.2 and A.3 of the reference. Rows come before columns throughout. Both grids cover the same
frame, [-1, 1] along each axis, and a cell's coordinate is that of its centre, g_n(i) = (2 i + 1) / n - 1.

Everything is separable, so an axis is described by itself. Positions are computed in float64 and handed on as float32:
half precision cannot tell the rows of a large image apart (5050 of 6000 in fp16, 1400 in bf16).
"""

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

_NUDGE = 1e-6
_FLOOR = 1e-9


@dataclass(frozen=True)
class AxisStencil:
    """What each target along one axis reads; the first of the two is the cell on the low side.

    Attributes:
        cells: (2, N) int64, the two supporting cells. Beyond the frame's ends both are the outermost.
        relative: (2, N) float32, C_r: target minus cell centre, in units in which a cell is 2 wide.
        weights: (2, N) float32, the length on the other side over both lengths: near cells weigh most.
    """

    cells: Tensor
    relative: Tensor
    weights: Tensor


def centres(count: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """g_n of every cell, (count,) in (-1, 1)."""
    return (2 * torch.arange(count, dtype=dtype) + 1) / count - 1


def axis_stencil(
    cells: int, targets: int, device: torch.device | None = None, dtype: torch.dtype = torch.float64
) -> AxisStencil:
    """The stencil along one axis, of all its targets.

    Args:
        cells: Feature cells along it.
        targets: Target pixels along it.
        device: Where the stencil is wanted; the arithmetic is done on the CPU.
        dtype: Of the arithmetic. Less than float32 gives wrong cells on large frames and is there to show that.
    """
    if device is not None and device.type == "cuda":
        return _resident_stencil(cells, targets, device, dtype)
    return _stencil(cells, targets, device, dtype)


@functools.lru_cache(maxsize=64)
def _resident_stencil(cells: int, targets: int, device: torch.device, dtype: torch.dtype) -> AxisStencil:
    """Kept: a copy to a GPU makes it wait, and cannot be part of a CUDA graph."""
    return _stencil(cells, targets, device, dtype)


def _stencil(cells: int, targets: int, device: torch.device | None, dtype: torch.dtype) -> AxisStencil:
    at, centre = centres(targets, dtype), centres(cells, dtype)
    shift = torch.tensor([-1.0, 1.0], dtype=dtype)[:, None] / cells
    probe = (at + shift + _NUDGE).clamp(_NUDGE - 1, 1 - _NUDGE)
    index = ((probe + 1) * cells / 2).floor().long().clamp(0, cells - 1)
    relative = (at - centre[index]) * cells
    length = relative.abs() + _FLOOR
    found = (index, relative.float(), (length.flip(0) / length.sum(0)).float())
    return AxisStencil(*(each.to(device) for each in found))


def ratio(cells: int, targets: int) -> float:
    """Along one axis the r of the positional block: twice the feature cells over the target pixels."""
    return 2.0 * cells / targets


def frame_positions(frame: Tensor, size: tuple[int, int], scale: tuple[float, float]) -> tuple[Tensor, Tensor]:
    """C_t of the pixels of a window, in the canvas that it was cut from.

    Args:
        frame: (B, 4) float32: the window's origin (row, column) and the canvas's height and width, in input pixels.
        size: (height, width) of the target.
        scale: Input pixels for each target pixel, down and across.

    Returns:
        (B, height) and (B, width) float32, in [-1, 1] on the canvas.

    Raises:
        TypeError: The frame is not float32.
    """
    require_float32(frame, "frame")
    origin, canvas = frame[:, :2], frame[:, 2:]
    rows, columns = (
        2.0 * (origin[:, axis, None] + (torch.arange(length, device=frame.device) + 0.5) * scale[axis])
        / canvas[:, axis, None]
        - 1.0
        for axis, length in enumerate(size)
    )  # fmt: skip
    return rows, columns


def whole_frame(batch: int, size: tuple[int, int]) -> Tensor:
    """The frame of a window that is the whole canvas, (batch, 4)."""
    height, width = size
    return torch.tensor([[0.0, 0.0, height, width]]).repeat(batch, 1)


def require_float32(positions: Tensor, name: str) -> None:
    """Refuse positions in half precision: they cannot tell the rows of a large image apart."""
    if positions.dtype != torch.float32:
        raise TypeError(f"expected `{name}` in float32, found {positions.dtype}")

"""The implicit decoder: a perceptron at every target point, over four supporting cells, aggregated on logits.

Source: CRM, section A.3 of the reference. For a target x with supporting cells z_k, k = 0..3 over (row, column) sides,

    logit(x) = sum_k w_k D([F(z_k) | C_r(z_k) | C_t(x) | r]),   w_k = |area between x and the cell opposite to z_k|.

The first layer is applied in two parts, W [F | P] = W_f F + W_p P, so that the features' part is computed once for each
cell instead of four times for each point.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modeling.crm.alignment import axis_stencil, ratio, require_float32
from modeling.crm.config import HINTS, POSITIONS, CrmConfig


@dataclass(frozen=True)
class Points:
    """Where to decode: pixels of a target grid over the latent's frame.

    Attributes:
        size: (height, width) of the target grid.
        rows: Its rows that are wanted, int64; all of them where None.
        columns: Its columns that are wanted.
        paired: Whether row n and column n are one point; else every row is crossed with every column.
    """

    size: tuple[int, int]
    rows: Tensor | None = None
    columns: Tensor | None = None
    paired: bool = False


class ImplicitDecoder(nn.Module):
    """D with its aggregation. The first layer's inputs are [feature | C_r | C_t | r]."""

    def __init__(self, config: CrmConfig) -> None:
        super().__init__()
        self.features = config.latent
        self.first = nn.Linear(config.latent + POSITIONS, config.hidden)
        layers: list[nn.Module] = []
        for _ in range(config.hidden_layers - 1):
            layers += [nn.Conv2d(config.hidden, config.hidden, 1), nn.ReLU()]
        self.rest = nn.Sequential(*layers, nn.Conv2d(config.hidden, 1 + HINTS * len(config.colour_cues), 1))

    @property
    def output(self) -> nn.Conv2d:
        """The last layer: one output for the logit, two for each colour cue."""
        last = self.rest[-1]
        if not isinstance(last, nn.Conv2d):
            raise TypeError(f"the decoder ends in a convolution, found {last}")
        return last

    def project(self, latent: Tensor) -> Tensor:
        """The features' part of the first layer, (B, latent, h, w) to (B, hidden, h, w): once for each cell."""
        return F.conv2d(latent, self.first.weight[:, : self.features, None, None], self.first.bias)

    def forward(self, projected: Tensor, positions: tuple[Tensor, Tensor], points: Points) -> Tensor:
        """Logits of the points.

        Args:
            projected: From `project`.
            positions: C_t of the target grid's rows (B, height) and columns (B, width), float32.
            points: Which of them.

        Returns:
            (B, outputs, rows, columns), or (B, outputs, N) for pairs: the logit, then the weights of the colour cues.

        Raises:
            TypeError: Positions are not float32.
        """
        for each in positions:
            require_float32(each, "positions")
        cells = (projected.shape[2], projected.shape[3])
        rows, columns = (self._axis(axis, cells[axis], points, positions[axis]) for axis in (0, 1))
        logits = torch.zeros((), device=projected.device)
        for row in rows:
            across = torch.zeros((), device=projected.device)
            for column in columns:
                first = _gathered(projected, row, column, points.paired)
                across = across + self.rest(F.relu(first)) * column.weight
            logits = logits + across * row.weight
        return logits[..., 0] if points.paired else logits

    def _axis(self, axis: int, cells: int, points: Points, position: Tensor) -> tuple["_Side", "_Side"]:
        """Both sides along one axis, with the positional block's part of the first layer."""
        length, chosen = points.size[axis], (points.rows, points.columns)[axis]
        stencil = axis_stencil(cells, length, position.device)
        of_relative, of_target, of_ratio = (self.first.weight[:, self.features + k + axis, None] for k in (0, 2, 4))
        target = position[:, None] * of_target + of_ratio * ratio(cells, length)
        # Broadcast over (B, hidden, rows, columns); pairs are a column of points.
        shape = (-1, 1) if axis == 0 or points.paired else (1, -1)

        def side(index: int) -> _Side:
            shift = stencil.relative[index] * of_relative + target
            cell, weight = stencil.cells[index], stencil.weights[index]
            if chosen is not None:
                cell, weight, shift = cell[chosen], weight[chosen], shift.index_select(2, chosen)
            return _Side(cell, weight.view(shape), shift.unflatten(2, shape))

        return side(0), side(1)


@dataclass(frozen=True)
class _Side:
    """One side of an axis' stencil, of the wanted targets.

    Attributes:
        cells: (N,) int64.
        weight: (N, 1) or (1, N).
        shift: (B, hidden, N, 1) or (B, hidden, 1, N): the first layer of the positional block.
    """

    cells: Tensor
    weight: Tensor
    shift: Tensor


def _gathered(projected: Tensor, row: _Side, column: _Side, paired: bool) -> Tensor:
    """The first layer before its ReLU, (B, hidden, rows, columns), or (B, hidden, N, 1)."""
    if paired:
        flat = row.cells * projected.shape[3] + column.cells
        return projected.flatten(2).index_select(2, flat)[..., None] + row.shift + column.shift
    rows = projected.index_select(2, row.cells) + row.shift
    return rows.index_select(3, column.cells) + column.shift

"""The implicit decoder: a perceptron at every target point, over four supporting cells, aggregated on logits.

Source: CRM, section A.3 of the reference. For a target x with supporting cells z_k, k = 0..3 over (row, column) sides,

    logit(x) = sum_k w_k D([F(z_k) | C_r(z_k) | C_t(x) | r]),   w_k = |area between x and the cell opposite to z_k|.

The first layer is applied in two parts, W [F | P] = W_f F + W_p P, so that the features' part is computed once for each
cell instead of four times for each point.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modeling.crm.alignment import axis_stencil, ratio, require_float32
from modeling.crm.config import HINTS, POSITIONS, STRIDE, CrmConfig


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


@dataclass(frozen=True)
class TileWindow:
    """A square of each tile of a batch.

    Attributes:
        tile: Side of the tiles in pixels, a multiple of 8.
        cells: (B, 2) int64, the first row and column of cells of the latent in each tile.
        side: Of the square in pixels, even.
    """

    tile: int
    cells: Tensor
    side: int

    @property
    def start(self) -> Tensor:
        """(B, 2) int64, the first row and column of pixels."""
        return self.cells * STRIDE


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
        axes = [self._axis(axis, projected.shape[2 + axis], points, positions[axis]) for axis in (0, 1)]
        (rows, row_sides), (columns, column_sides) = axes

        def read(row: int, column: int) -> Tensor:
            if points.paired:
                flat = rows[row] * projected.shape[3] + columns[column]
                return projected.flatten(2).index_select(2, flat)[..., None]
            return projected.index_select(2, rows[row]).index_select(3, columns[column])

        logits = self._aggregated(read, row_sides, column_sides)
        return logits[..., 0] if points.paired else logits

    def forward_window(self, projected: Tensor, positions: tuple[Tensor, Tensor], window: TileWindow) -> Tensor:
        """Logits of every pixel of a window of a tile, at the tile's own resolution (r = 1).

        Args:
            projected: (B, hidden, side/2 + 2, side/2 + 2): `project` of the window's cells and one more on every side,
                those beyond the tile being copies of its outermost.
            positions: C_t of the window's rows (B, side) and columns (B, side), float32.
            window: Which; it lies elsewhere in each tile, but what it reads of `projected` does not depend on that.

        Returns:
            (B, outputs, side, side).

        Raises:
            TypeError: Positions are not float32.
        """
        for each in positions:
            require_float32(each, "positions")
        rows, columns = (self._window_axis(axis, window, positions[axis]) for axis in (0, 1))
        # Pixel n reads the cells (n + 1) // 2 and the next one: of cells that come twice, those from 1 and from 3 on.
        twice = F.interpolate(projected, scale_factor=float(STRIDE), mode="nearest")

        def read(row: int, column: int) -> Tensor:
            top, left = (1 + STRIDE * each for each in (row, column))
            return twice[:, :, top : top + window.side, left : left + window.side]

        return self._aggregated(read, rows, columns)

    def _aggregated(
        self, read: Callable[[int, int], Tensor], rows: tuple["_Side", "_Side"], columns: tuple["_Side", "_Side"]
    ) -> Tensor:
        """The weighted sum over the four supporting cells, whose features' part `read` gives by row and column side."""
        logits = torch.zeros((), device=rows[0].shift.device)
        for down, row in enumerate(rows):
            inner = torch.zeros((), device=logits.device)
            for across, column in enumerate(columns):
                first = read(down, across) + row.shift + column.shift
                inner = inner + self.rest(F.relu(first)) * column.weight
            logits = logits + inner * row.weight
        return logits

    def _axis(self, axis: int, cells: int, points: Points, position: Tensor) -> tuple[Tensor, tuple["_Side", "_Side"]]:
        """The supporting cells along one axis, (2, N), and what belongs to both sides."""
        length, chosen = points.size[axis], (points.rows, points.columns)[axis]
        stencil = axis_stencil(cells, length, position.device)
        of_relative, target = self._positional(axis, position, ratio(cells, length))
        # Broadcast over (B, hidden, rows, columns); pairs are a column of points.
        shape = (-1, 1) if axis == 0 or points.paired else (1, -1)

        def side(index: int) -> _Side:
            shift, weight = stencil.relative[index] * of_relative + target, stencil.weights[index]
            if chosen is not None:
                weight, shift = weight[chosen], shift.index_select(2, chosen)
            return _Side(weight.view(shape), shift.unflatten(2, shape))

        return stencil.cells if chosen is None else stencil.cells[:, chosen], (side(0), side(1))

    def _window_axis(self, axis: int, window: TileWindow, position: Tensor) -> tuple["_Side", "_Side"]:
        """Both sides along one axis: what the tile's stencil has at the window of each item."""
        cells = window.tile // STRIDE
        stencil = axis_stencil(cells, window.tile, position.device)
        of_relative, target = self._positional(axis, position, ratio(cells, window.tile))
        at = (window.start[:, axis, None] + torch.arange(window.side, device=position.device)).reshape(-1)
        shape = (-1, 1) if axis == 0 else (1, -1)

        def side(index: int) -> _Side:
            relative, weight = (
                each[index].index_select(0, at).reshape(-1, 1, window.side)
                for each in (stencil.relative, stencil.weights)
            )
            shift = relative * of_relative + target
            return _Side(weight.unflatten(2, shape), shift.unflatten(2, shape))

        return side(0), side(1)

    def _positional(self, axis: int, position: Tensor, ratio: float) -> tuple[Tensor, Tensor]:
        """Along an axis: the first layer's weights of C_r, (hidden, 1), and its part of C_t and r, (B, hidden, N)."""
        of_relative, of_target, of_ratio = (self.first.weight[:, self.features + k + axis, None] for k in (0, 2, 4))
        return of_relative, position[:, None] * of_target + of_ratio * ratio


@dataclass(frozen=True)
class _Side:
    """What belongs to one side of an axis' stencil, of the wanted targets.

    Attributes:
        weight: (N, 1) or (1, N), or that for each item and one channel.
        shift: (B, hidden, N, 1) or (B, hidden, 1, N): the first layer of the positional block.
    """

    weight: Tensor
    shift: Tensor

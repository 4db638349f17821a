"""The order in which image patches reach `ipt_blk2` to `ipt_blk5`: its permutation, and how to read it off the weights.

Those blocks see the image as g x g tiles, stacked on the channels. The official code stacked them (tile column, tile
row, colour) until commit 5198d3f of November 2024, and (colour, tile row, tile column) since; weights trained for one
order mean nothing in the other. A checkpoint does not say which it was trained for, and no key or shape differs.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

PatchOrder = Literal["current", "legacy"]
"""`current` is (colour, tile row, tile column), which the network reads; `legacy` (tile column, tile row, colour)."""

COLOURS = 3
TILES_PER_SIDE = {5: 32, 4: 16, 3: 8, 2: 4}
"""By level; `ipt_blk1` sees the image whole, so that its weights have no order."""

MIN_EVIDENCE = 8.0
"""Standard errors that the stronger order needs. Random weights give 0 +- 1; see docs/export.md for trained ones."""

MAX_RIVAL = 0.25
"""Share of the stronger order's evidence that the other may have: weights fine-tuned in the wrong order hold both."""

_CONTROL_SHIFT = 3


@dataclass(frozen=True, slots=True)
class LevelEvidence:
    """What one level's filters say. The excess is of correlation: 0 for an order that the filters do not have.

    Attributes:
        level: 2 to 5.
        current: Mean excess under the current order, -2 to 2.
        legacy: The same under the legacy order.
        current_errors: The first over its standard error among the filters.
        legacy_errors: The same under the legacy order.
    """

    level: int
    current: float
    legacy: float
    current_errors: float
    legacy_errors: float


@dataclass(frozen=True, slots=True)
class PatchOrderEvidence:
    """What the weights say about their order, all levels together."""

    levels: tuple[LevelEvidence, ...]

    @property
    def current(self) -> float:
        """Standard errors for the current order: of the levels' sum, each level counted alike (Stouffer)."""
        return sum(level.current_errors for level in self.levels) / len(self.levels) ** 0.5

    @property
    def legacy(self) -> float:
        """Standard errors for the legacy order."""
        return sum(level.legacy_errors for level in self.levels) / len(self.levels) ** 0.5

    @property
    def decision(self) -> Literal["current", "legacy", "undecided"]:
        """The order that stands out from chance and from the other, if one does."""
        stronger, weaker = max(self.current, self.legacy), min(self.current, self.legacy)
        if stronger < MIN_EVIDENCE or weaker > MAX_RIVAL * stronger:
            return "undecided"
        return "current" if self.current > self.legacy else "legacy"

    def __str__(self) -> str:
        levels = ", ".join(
            f"ipt_blk{level.level} {level.current:+.3f} ({level.current_errors:+.1f}) / "
            f"{level.legacy:+.3f} ({level.legacy_errors:+.1f})"
            for level in self.levels
        )
        return (
            f"{self.decision}: current {self.current:+.1f}, legacy {self.legacy:+.1f} standard errors, "
            f"{MIN_EVIDENCE:g} needed and the other at most {MAX_RIVAL:.0%} of it; "
            f"excess of colour correlation, current / legacy: {levels}"
        )


def legacy_to_current(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights trained for the legacy order as the network, which stacks tiles in the current one, needs them.

    Args:
        state: Tensors by official key. Not changed; the result shares all but the four permuted weights.

    Raises:
        ValueError: A weight is missing or does not have the channels of its level.
    """
    return {**state, **{key: _swapped(weight, (side, side, COLOURS)) for key, weight, side in _weights(state)}}


def current_to_legacy(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `legacy_to_current`."""
    return {**state, **{key: _swapped(weight, (COLOURS, side, side)) for key, weight, side in _weights(state)}}


def detect_patch_order(
    state: Mapping[str, Tensor], levels: Iterable[int] = tuple(TILES_PER_SIDE)
) -> PatchOrderEvidence:
    """Read the patch order off the filters.

    The three filters that see one tile in red, green and blue resemble each other, because the three planes do. But so
    do those of neighbouring tiles, which under the wrong order sit where the colours should be; correlation alone
    therefore points the wrong way as easily as the right one. What counts is its excess over channels that are as far
    apart in the file without being the same tile. Under the current order those are three tiles beside (colours are
    g * g channels apart); under the legacy one, adjacent channels of two tiles (colours are adjacent). Each excess is
    zero in expectation for the other order and for random weights. The filters are independent samples, which gives
    the standard error.

    Args:
        state: Tensors by official key, floating point.
        levels: Of those in `TILES_PER_SIDE`.

    Raises:
        ValueError: A weight is missing or does not have the channels of its level.
    """
    wanted = set(levels)
    evidence = []
    for (_, weight, side), level in zip(_weights(state), TILES_PER_SIDE, strict=True):
        if level in wanted:
            filters = _normalised(weight)
            current, legacy = _excess_if_current(filters, side * side), _excess_if_legacy(filters)
            evidence.append(
                LevelEvidence(level, *(float(x.mean()) for x in (current, legacy)), *map(_errors, (current, legacy)))
            )
    return PatchOrderEvidence(tuple(evidence))


def _weights(state: Mapping[str, Tensor]) -> list[tuple[str, Tensor, int]]:
    """(key, weight, tiles per side) of every level in the order of `TILES_PER_SIDE`."""
    found = []
    for level, side in TILES_PER_SIDE.items():
        key = f"decoder.ipt_blk{level}.conv1.weight"
        weight = state.get(key)
        if weight is None or weight.ndim != 4 or weight.shape[1] != COLOURS * side * side:
            shape = "none" if weight is None else tuple(weight.shape)
            raise ValueError(f"expected {key} with {COLOURS * side * side} input channels, found {shape}")
        found.append((key, weight, side))
    return found


def _swapped(weight: Tensor, axes: tuple[int, int, int]) -> Tensor:
    """The weight with the first and the last of the three axes that its input channels are made of exchanged."""
    return weight.unflatten(1, axes).transpose(1, 3).flatten(1, 3).contiguous()


def _normalised(weight: Tensor) -> Tensor:
    """(filters, channels, taps) float64, each channel with a mean square of one per filter: products correlate."""
    flat = weight.detach().double().flatten(2)
    norms = flat.square().sum((0, 2), keepdim=True).sqrt().clamp_min(torch.finfo(torch.float64).tiny)
    return flat / norms * flat.shape[0] ** 0.5


def _excess_if_current(filters: Tensor, tiles: int) -> Tensor:
    """Per filter: correlation of two colours of a tile, less that with the tile three channels before and behind."""
    excess = []
    for first, second in ((0, 1), (1, 2), (0, 2)):
        one, other = (filters[:, colour * tiles : (colour + 1) * tiles] for colour in (first, second))
        same = (one * other).sum(2).mean(1)
        behind = (one[:, :-_CONTROL_SHIFT] * other[:, _CONTROL_SHIFT:]).sum(2).mean(1)
        before = (one[:, _CONTROL_SHIFT:] * other[:, :-_CONTROL_SHIFT]).sum(2).mean(1)
        excess.append(same - (behind + before) / 2)
    return torch.stack(excess).mean(0)


def _excess_if_legacy(filters: Tensor) -> Tensor:
    """Per filter: correlation of channels of one triple, less that of channels as far apart in two triples."""
    excess = []
    for distance in (1, 2):
        products = (filters[:, :-distance] * filters[:, distance:]).sum(2)
        within = torch.arange(products.shape[1]) % COLOURS + distance < COLOURS
        excess.append((COLOURS - distance) * (products[:, within].mean(1) - products[:, ~within].mean(1)))
    return torch.stack(excess).sum(0) / COLOURS


def _errors(samples: Tensor) -> float:
    """The mean over its standard error; 0 where that cannot be told."""
    if samples.shape[0] < 2:
        return 0.0
    error = float(samples.std() / samples.shape[0] ** 0.5)
    return float(samples.mean()) / error if error > 0 else 0.0

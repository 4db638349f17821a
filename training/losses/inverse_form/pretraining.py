"""How an inverse network learns: it is shown pairs, and asked for the transformation."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from training.losses.inverse_form.boundary import soft_boundary
from training.losses.inverse_form.distance import euclidean
from training.losses.inverse_form.network import InverseNetwork, InverseNetworkConfig
from training.losses.inverse_form.pairs import make_pairs, shapes
from training.losses.inverse_form.tiles import with_boundary

_MINIMUM_SHARE = 0.01
_HELD_OUT = 1_000_003


@dataclass(frozen=True)
class Pretraining:
    """What decides the outcome, besides the network's configuration.

    Attributes:
        steps: Updates.
        batch: Pairs of each.
        pool: Shapes that the pairs are windows of.
        rate: Peak learning rate; it falls by half a cosine to 0.
        seed: Of weights, shapes and pairs.
    """

    steps: int = 1000
    batch: int = 64
    pool: int = 4000
    rate: float = 2e-3
    seed: int = 7


def pretrain(
    config: InverseNetworkConfig, options: Pretraining, report: Callable[[int, float], None] | None = None
) -> InverseNetwork:
    """A network trained on warped procedural boundaries; the same for the same options, on one processor and thread.

    Args:
        config: Which network.
        options: How long, on what.
        report: Told the step and the error averaged over about fifty steps, after each step.

    Returns:
        The network in evaluation mode.
    """
    generator = torch.Generator().manual_seed(options.seed)
    with torch.random.fork_rng():
        torch.manual_seed(options.seed)
        network = InverseNetwork(config)
    pool = shapes(options.seed, options.pool)
    optimizer = torch.optim.Adam(network.parameters(), lr=options.rate)
    average: float | None = None
    for step in range(options.steps):
        for group in optimizer.param_groups:
            group["lr"] = options.rate * 0.5 * (1 + math.cos(math.pi * step / options.steps))
        pairs = make_pairs(pool, generator, options.batch, config.side)
        seen = with_boundary(pairs.first, _MINIMUM_SHARE)
        found = network(pairs.first[seen], pairs.second[seen])
        loss = F.smooth_l1_loss(found, pairs.parameters[seen], beta=0.2)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        error = (found.detach() - pairs.parameters[seen]).abs().mean().item()
        average = error if average is None else 0.98 * average + 0.02 * error
        if report:
            report(step + 1, average)
    return network.eval()


@torch.no_grad()
def shift_table(network: InverseNetwork, largest: int = 8, count: int = 200, seed: int = _HELD_OUT) -> list[float]:
    """The mean distance that the network gives for held-out shapes shifted by 0 to `largest` pixels.

    Args:
        network: In evaluation mode.
        largest: In pixels of a tile.
        count: Shapes.
        seed: Not that of a pre-training.

    Returns:
        One figure for each shift; each shape is shifted in a direction of its own, and cut from the middle.
    """
    side = network.config.side
    pool = shapes(seed, count)
    border = (pool.shape[-1] - side) // 2
    generator = torch.Generator().manual_seed(seed)
    sign = torch.randint(3, (count, 2), generator=generator) - 1
    sign[(sign == 0).all(dim=1)] = 1

    def window(shift: int) -> Tensor:
        rows = [
            shape[:, border + shift * dy : border + shift * dy + side, border + shift * dx : border + shift * dx + side]
            for shape, (dy, dx) in zip(pool, sign.tolist(), strict=True)
        ]
        return soft_boundary(torch.stack(rows))

    truth = window(0)
    seen = with_boundary(truth, _MINIMUM_SHARE)
    return [euclidean(network(truth[seen], window(shift)[seen])).mean().item() for shift in range(largest + 1)]

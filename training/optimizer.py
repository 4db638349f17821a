"""The optimiser, and the rate at which each part of a network learns."""

import math
import re
from collections.abc import Callable
from itertools import groupby
from typing import Protocol

from torch import nn
from torch.optim import AdamW, Optimizer

_STAGES = 4
_STAGE = re.compile(r"bb\.(?:(?:layers\.|norm)(?P<swin>[0-3])|layer(?P<residual>[1-4]))\.")


class Schedule(Protocol):
    """What of a configuration the optimiser follows, whatever the network."""

    @property
    def learning_rate(self) -> float: ...
    @property
    def final_rate(self) -> float: ...
    @property
    def warmup(self) -> float: ...
    @property
    def weight_decay(self) -> float: ...


def learning_rate(config: Schedule, share: float) -> float:
    """Linear warm-up, then half a cosine down to `final_rate` of the peak, by the share of the budget spent."""
    if share < config.warmup:
        return config.learning_rate * max(share / config.warmup, 0.01)
    turn = math.pi * min(1.0, (share - config.warmup) / (1.0 - config.warmup))
    return config.learning_rate * (config.final_rate + (1.0 - config.final_rate) * 0.5 * (1.0 + math.cos(turn)))


def make_optimizer(network: nn.Module, config: Schedule, factor: Callable[[str], float]) -> AdamW:
    """AdamW; norms, biases and position tables are not decayed.

    Args:
        network: Its parameters, those of factor 0 frozen.
        config: Rate and decay.
        factor: Of the rate, by the parameter's name; kept as `factor` in the parameter groups.

    Returns:
        An optimiser that numbers the parameters in the same order whatever the factors, so that a checkpoint's state
        belongs to the same parameters after a change of them.
    """
    decayed: list[tuple[float, nn.Parameter]] = []
    free: list[tuple[float, nn.Parameter]] = []
    for name, parameter in network.named_parameters():
        share = factor(name)
        parameter.requires_grad_(share > 0)
        (free if parameter.ndim < 2 or "relative_position" in name else decayed).append((share, parameter))
    groups = [
        {"params": [parameter for _, parameter in run], "weight_decay": decay, "factor": share}
        for kind, decay in ((decayed, config.weight_decay), (free, 0.0))
        for share, run in groupby(kind, key=lambda each: each[0])
    ]
    return AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.99))


def set_rate(optimizer: Optimizer, rate: float) -> None:
    """Let every group learn at its own factor of a rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["factor"]


def backbone_factor(name: str, backbone_rate: float, layer_decay: float) -> float:
    """The factor of a BiRefNet's parameter: 1 outside of the backbone, less the nearer to the image.

    Fine-tuning changes the general first stages least (Howard & Ruder 2018, "Universal language model fine-tuning",
    section 3.2; Bao et al. 2022, "BEiT", by layers). The official recipe has one rate for all.

    Args:
        name: The parameter's official key.
        backbone_rate: Of the last stage; 0 freezes the backbone.
        layer_decay: Of each further stage towards the image, as a factor of the one after it; what comes
            before the first counts as one, too.
    """
    if not name.startswith("bb."):
        return 1.0
    return backbone_rate * layer_decay ** (_STAGES - _stage(name))


def _stage(name: str) -> int:
    """1 to 4 of a Swin or a residual backbone, the finest first; 0 is what comes before."""
    found = _STAGE.match(name)
    if found is None:
        return 0
    return int(found["residual"]) if found["residual"] else int(found["swin"]) + 1

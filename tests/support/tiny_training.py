"""A network and a run small enough for tests of the training loop."""

import contextlib
from pathlib import Path

import numpy as np
import pytest
import torch

from modeling.birefnet.config import BiRefNetConfig, SwinConfig
from training.config import Budget, Phase, TrainingConfig
from training.data.sets import ProceduralSet
from training.loop import Cadence, Run
from training.losses import PRESETS
from training.parallel import Group
from training.session import RunOptions, train_in_group

TINY_NETWORK = BiRefNetConfig(
    SwinConfig(embed_dim=8, depths=(1, 1, 1, 1), heads=(1, 1, 2, 2), window=4, drop_path_rate=0.0),
    inter_channels=8,
    aspp_channels=8,
    aspp_kernels=(1, 3),
    patch_inner_channels=4,
    aspp_dropout=0.1,
)


def tiny_config(steps: int = 6, size: int = 32, batch: int = 2, **changes) -> TrainingConfig:
    options = {"loss": PRESETS["general"], "learning_rate": 3e-3, "warmup": 0.1, **changes}
    return TrainingConfig(TINY_NETWORK, (Phase(1.0, size, batch),), Budget(steps=steps), **options)


def tiny_run(folder: Path, config: TrainingConfig | None = None, source=None, group: Group | None = None) -> Run:
    return Run(config or tiny_config(), folder, Cadence(log_steps=1), group, source)


def average_and_train(group: Group, config: TrainingConfig, options: RunOptions) -> None:
    """What each of two processes does in a test: check what they do together, then train."""
    gradient = torch.full((3,), 1.0 + group.rank)
    group.average([gradient])
    assert gradient.tolist() == [1.5] * 3
    assert group.agree(10.0 + group.rank) == 10.0
    group.check_alike([torch.ones(2), torch.zeros(1)])
    different = contextlib.nullcontext() if group.rank == 0 else pytest.raises(RuntimeError, match="process 1 of 2")
    with different:
        group.check_alike([torch.full((2,), 1.0 + group.rank)])
    train_in_group(group, config, options)


class OneImage:
    """A source that has a single photograph, under every index."""

    def __init__(self, index: int = 0) -> None:
        self._set = ProceduralSet(5, "easy")
        self._index = index

    def item(self, index: int, size: int) -> tuple[np.ndarray, np.ndarray]:
        return self._set.item(self._index, size)

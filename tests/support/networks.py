"""Small networks with weights that exercise every part, and checkpoints of them."""

import dataclasses
import functools
from pathlib import Path

from torch import nn

from modeling.birefnet.config import BiRefNetConfig, ResNetConfig, SwinConfig
from modeling.birefnet.network import BiRefNet
from modeling.weights import save_state
from tests.support.seeded import seeded

TINY = BiRefNetConfig(
    SwinConfig(embed_dim=8, depths=(1, 2, 1, 1), heads=(1, 2, 2, 4), window=4),
    inter_channels=8,
    aspp_channels=8,
    aspp_kernels=(1, 3),
    gradient_channels=4,
    patch_inner_channels=8,
)
"""Every kind of part once: shifted windows and plain ones, deformable kernels of one and of three."""

TINY_RESNET = dataclasses.replace(TINY, backbone=ResNetConfig(channels=(8, 16, 24, 32), depths=(1, 2, 1, 1)))
"""The same decoder behind a residual backbone, with every kind of block."""


def swin(config: BiRefNetConfig) -> SwinConfig:
    """The backbone of a configuration that has a Swin."""
    assert isinstance(config.backbone, SwinConfig)
    return config.backbone


def seeded_network(config: BiRefNetConfig = TINY) -> BiRefNet:
    """A network in evaluation mode with the oracle's weights for its configuration."""
    network = BiRefNet(config)
    state = network.state_dict()
    index = "relative_position_index"
    network.load_state_dict(
        {key: value if key.endswith(index) else seeded(key, tuple(value.shape)) for key, value in state.items()}
    )
    for module in network.bb.modules():
        # The sums of a residual backbone are not normalised; trained ones are of the order of 1, as these are then.
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data *= 0.1
    return network.eval()


@functools.cache
def tiny_network() -> BiRefNet:
    """TINY with seeded weights; shared, so not to be changed."""
    return seeded_network()


def tiny_checkpoint(directory: Path) -> Path:
    """A checkpoint file of `tiny_network` in a directory."""
    path = directory / "tiny.safetensors"
    save_state(tiny_network(), path)
    return path

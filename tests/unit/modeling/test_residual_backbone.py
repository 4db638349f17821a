"""The residual backbone: its maps, and how it begins."""

import pytest
import torch
from torch.nn import functional as F

from modeling.birefnet.config import ResNetConfig
from modeling.birefnet.residual_backbone import ResNetBackbone

CONFIG = ResNetConfig(channels=(8, 16, 24, 32), depths=(1, 2, 1, 1))


@pytest.mark.parametrize(("height", "width"), [(64, 96), (32, 32), (48, 80)])
def test_maps_have_strides_4_to_32(height: int, width: int):
    maps = ResNetBackbone(CONFIG).eval()(torch.randn(2, 3, height, width))
    expected = [
        (2, channels, -(-height // stride), -(-width // stride))
        for channels, stride in zip(CONFIG.channels, (4, 8, 16, 32), strict=True)
    ]
    assert [tuple(each.shape) for each in maps] == expected


def test_depths_and_channels_are_the_configurations():
    backbone = ResNetBackbone(CONFIG)
    stages = [list(backbone.get_submodule(f"layer{stage}").children()) for stage in (1, 2, 3, 4)]
    assert [len(blocks) for blocks in stages] == [1, 2, 1, 1]
    assert [len(blocks[-1].get_parameter("conv2.weight")) for blocks in stages] == [8, 16, 24, 32]


def test_a_fresh_block_adds_nothing_yet():
    backbone = ResNetBackbone(CONFIG).eval()
    first = backbone.get_submodule("layer1").get_submodule("0")
    x = torch.randn(1, 8, 6, 6)
    torch.testing.assert_close(first(x), F.relu(x))

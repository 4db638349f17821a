"""Configurations: their derived widths, their round trip, and what they refuse."""

import dataclasses
import json

import pytest

from modeling.birefnet.config import (
    COMPACT,
    SWIN_B,
    SWIN_L,
    SWIN_S,
    SWIN_T,
    BiRefNetConfig,
    ResNetConfig,
    SwinConfig,
    backbone_name,
)
from tests.support.networks import TINY_RESNET, swin


@pytest.mark.parametrize("config", [COMPACT, SWIN_T, SWIN_S, SWIN_B, SWIN_L, TINY_RESNET])
def test_round_trip_through_json(config: BiRefNetConfig):
    assert BiRefNetConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_round_trip_keeps_what_is_not_the_default():
    config = dataclasses.replace(
        COMPACT,
        backbone=dataclasses.replace(swin(COMPACT), drop_path_rate=0.4, mlp_ratio=2),
        aspp_kernels=(3, 5, 7, 9),
        auxiliary_classes=219,
    )
    assert BiRefNetConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_configurations_are_values():
    assert hash(SWIN_T) != hash(SWIN_L)
    with pytest.raises(dataclasses.FrozenInstanceError):
        SWIN_T.inter_channels = 1  # type: ignore[misc]


def test_encoder_channels_are_both_scales():
    assert SWIN_L.encoder_channels == (384, 768, 1536, 3072)


def test_unknown_and_missing_fields_are_named():
    with pytest.raises(ValueError, match="BiRefNetConfig has no field depth; it has "):
        BiRefNetConfig.from_dict({**SWIN_T.to_dict(), "depth": 3})
    with pytest.raises(ValueError, match="SwinConfig needs window"):
        BiRefNetConfig.from_dict({"backbone": {"embed_dim": 96, "depths": [2, 2, 6, 2], "heads": [3, 6, 12, 24]}})
    with pytest.raises(ValueError, match="ResNetConfig needs channels"):
        BiRefNetConfig.from_dict({"backbone": {"depths": [2, 2, 6, 2]}})
    with pytest.raises(ValueError, match="BiRefNetConfig needs backbone"):
        BiRefNetConfig.from_dict({})


def test_impossible_shapes_are_refused():
    with pytest.raises(ValueError, match="4 stages"):
        SwinConfig(32, (2, 2, 2), (1, 2, 4), 8)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="4 stages"):
        ResNetConfig((8, 16, 32), (1, 1, 1, 1))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="32 channels cannot be split into 3"):
        SwinConfig(32, (2, 2, 2, 2), (3, 3, 4, 8), 8)
    with pytest.raises(ValueError, match=r"odd.*\(1, 4\)"):
        dataclasses.replace(COMPACT, aspp_kernels=(1, 4))


def test_names_of_backbones():
    assert [backbone_name(config) for config in (SWIN_T, SWIN_S, SWIN_B, SWIN_L)] == [
        f"swin_v1_{letter}" for letter in "tsbl"
    ]
    assert backbone_name(TINY_RESNET) == "resnet_c8-16-24-32d1-2-1-1"

"""Configurations: their derived widths, their round trip, and what they refuse."""

import dataclasses
import json

import pytest

from modeling.birefnet.config import COMPACT, SWIN_B, SWIN_L, SWIN_S, SWIN_T, BiRefNetConfig, SwinConfig


@pytest.mark.parametrize("config", [COMPACT, SWIN_T, SWIN_S, SWIN_B, SWIN_L])
def test_round_trip_through_json(config: BiRefNetConfig):
    assert BiRefNetConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_round_trip_keeps_what_is_not_the_default():
    config = dataclasses.replace(
        COMPACT,
        backbone=dataclasses.replace(COMPACT.backbone, drop_path_rate=0.4, mlp_ratio=2),
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
    with pytest.raises(ValueError, match="BiRefNetConfig needs backbone"):
        BiRefNetConfig.from_dict({})


def test_impossible_shapes_are_refused():
    with pytest.raises(ValueError, match="4 stages"):
        SwinConfig(32, (2, 2, 2), (1, 2, 4), 8)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="32 channels cannot be split into 3"):
        SwinConfig(32, (2, 2, 2, 2), (3, 3, 4, 8), 8)
    with pytest.raises(ValueError, match=r"odd.*\(1, 4\)"):
        dataclasses.replace(COMPACT, aspp_kernels=(1, 4))

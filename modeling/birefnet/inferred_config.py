"""Reading a network's configuration off the shapes of its tensors."""

import math
import re
from collections.abc import Mapping

from modeling.birefnet.config import HEAD_STAGES, BiRefNetConfig, ResNetConfig, SwinConfig

Shapes = Mapping[str, tuple[int, ...]]


class ArchitectureError(ValueError):
    """The tensors are not those of the architecture of the released checkpoints."""


def config_from_shapes(shapes: Shapes) -> BiRefNetConfig:
    """The configuration that has tensors of these shapes; rates that only training uses are the defaults.

    Args:
        shapes: Shape by official key. Extra keys are not looked at.

    Raises:
        ArchitectureError: A tensor that tells a width is absent, or of an impossible shape.
    """
    if not any(key.startswith("bb.") for key in shapes) or not any(key.startswith("decoder.") for key in shapes):
        raise ArchitectureError(
            f"not a BiRefNet checkpoint: expected keys that start with bb. and decoder., found {_sample(shapes)}"
        )
    if "decoder.ipt_blk5.conv1.weight" not in shapes:
        raise ArchitectureError(
            "a checkpoint of BiRefNet's architecture of before May 2024, which is not supported: it has no "
            "decoder.ipt_blk5; every checkpoint on the authors' Hugging Face page has"
        )
    pyramid = "squeeze_module.0.dec_att"
    branches = _count(shapes, pyramid + r"\.aspp_deforms\.(\d+)\.")
    classes = shapes.get("cls_head.0.weight")
    return BiRefNetConfig(
        backbone=_backbone(shapes),
        inter_channels=_size(shapes, "squeeze_module.0.conv_in.weight", 0),
        aspp_channels=_size(shapes, f"{pyramid}.aspp1.atrous_conv.regular_conv.weight", 0),
        aspp_kernels=tuple(
            _size(shapes, f"{pyramid}.aspp_deforms.{index}.atrous_conv.regular_conv.weight", 2)
            for index in range(branches)
        ),
        gradient_channels=_size(shapes, "decoder.gdt_convs_4.0.weight", 0),
        patch_inner_channels=_size(shapes, "decoder.ipt_blk5.conv1.weight", 0),
        auxiliary_classes=classes[0] if classes else None,
    )


def _backbone(shapes: Shapes) -> SwinConfig | ResNetConfig:
    return _resnet(shapes) if "bb.stem.0.weight" in shapes else _swin(shapes)


def _resnet(shapes: Shapes) -> ResNetConfig:
    stages = range(1, HEAD_STAGES + 1)
    first, second, third, fourth = (_size(shapes, f"bb.layer{stage}.0.conv1.weight", 0) for stage in stages)
    depths = [_count(shapes, rf"bb\.layer{stage}\.(\d+)\.") for stage in stages]
    return ResNetConfig((first, second, third, fourth), (depths[0], depths[1], depths[2], depths[3]))


def _swin(shapes: Shapes) -> SwinConfig:
    embed_dim = _size(shapes, "bb.patch_embed.proj.weight", 0)
    table = "bb.layers.{}.blocks.0.attn.relative_position_bias_table"
    depths = [_count(shapes, rf"bb\.layers\.{stage}\.blocks\.(\d+)\.") for stage in range(HEAD_STAGES)]
    heads = [_size(shapes, table.format(stage), 1) for stage in range(HEAD_STAGES)]
    rows = _size(shapes, table.format(0), 0)
    side = math.isqrt(rows)
    if side * side != rows or side % 2 == 0:
        raise ArchitectureError(f"{table.format(0)} must have (2 window - 1)^2 rows, found {rows}")
    hidden = _size(shapes, "bb.layers.0.blocks.0.mlp.fc1.weight", 0)
    return SwinConfig(
        embed_dim=embed_dim,
        depths=(depths[0], depths[1], depths[2], depths[3]),
        heads=(heads[0], heads[1], heads[2], heads[3]),
        window=(side + 1) // 2,
        mlp_ratio=hidden // embed_dim,
    )


def _size(shapes: Shapes, key: str, axis: int) -> int:
    if key not in shapes:
        raise ArchitectureError(f"cannot tell the configuration: {key} is missing")
    if len(shapes[key]) <= axis:
        raise ArchitectureError(f"cannot tell the configuration: {key} has only {len(shapes[key])} axes")
    return shapes[key][axis]


def _count(shapes: Shapes, pattern: str) -> int:
    found = {int(match.group(1)) for key in shapes if (match := re.match(pattern, key))}
    return max(found, default=-1) + 1


def _sample(shapes: Shapes) -> str:
    keys = sorted(shapes)
    return ", ".join(keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "") if keys else "no tensors"

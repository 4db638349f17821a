"""What is compared: loss terms on and off at the same number of steps, and networks at the same running time."""

from dataclasses import replace

from modeling.birefnet.config import COMPACT, BiRefNetConfig, ResNetConfig, SwinConfig
from training.config import Budget, Phase, TrainingConfig
from training.losses import FINE_TUNING, PRESETS
from training.losses.inverse_form import InverseFormOptions

SMALL = BiRefNetConfig(
    SwinConfig(embed_dim=16, depths=(1, 1, 2, 1), heads=(1, 2, 4, 8), window=8, drop_path_rate=0.0),
    inter_channels=16,
    aspp_channels=24,
    aspp_kernels=(3,),
    patch_inner_channels=8,
    aspp_dropout=0.0,
)
"""A network that minutes can train, with every part that a loss term supervises."""

_AVERAGE = 0.98
"""Of the average of weights, over some fifty steps: a longer one would still remember a short run's beginning."""

RESIDUAL = replace(COMPACT, backbone=ResNetConfig((32, 64, 128, 256), (2, 3, 4, 3)))


def loss_variants(steps: int, size: int, batch: int) -> dict[str, TrainingConfig]:
    """BiRefNet's general loss, with each of its terms left out, and with each optional one added."""
    general = PRESETS["general"]
    base = TrainingConfig(
        SMALL,
        (Phase(1.0, size, batch),),
        Budget(steps=steps),
        learning_rate=2e-3,
        loss=general,
        ema_decay=_AVERAGE,
        precision="bf16",
    )
    variants = {"general: bce, iou, ssim, mae, gradient": base}
    for term in ("bce", "iou", "ssim", "mae", "gradient"):
        variants[f"without {term}"] = replace(base, loss=replace(general, **{term: 0.0}))
    return variants | {
        "gradient label dilated, 4 px": replace(base, gradient_dilation=4),
        "with structure, 10": replace(base, loss=replace(general, structure=10.0)),
        "with contour, 1": replace(base, loss=replace(general, contour=1.0)),
        "with RefineMask's rule, 30": replace(base, loss=replace(general, refine_mask=30.0)),
        "with InverseForm, 3": replace(base, inverse_form=InverseFormOptions(3.0)),
        "region-level fine-tuning": replace(base, fine_tuning=replace(FINE_TUNING["general"], begins=0.9)),
    }


def _swin(channels: int) -> SwinConfig:
    """The compact backbone in another width."""
    return SwinConfig(channels, (2, 2, 4, 2), (1, 2, 4, 8), window=8, drop_path_rate=0.05)


def network_variants(seconds: float, size: int, batch: int) -> dict[str, TrainingConfig]:
    """Small backbones and decoder widths."""
    narrow = replace(COMPACT, inter_channels=16, aspp_channels=32, aspp_kernels=(3,))
    wide = replace(COMPACT, inter_channels=32, aspp_channels=64)
    networks = {
        "Swin 32, depths 2 2 4 2 (compact)": COMPACT,
        "Swin 24, depths 2 2 4 2": replace(COMPACT, backbone=_swin(24)),
        "Swin 48, depths 2 2 4 2": replace(COMPACT, backbone=_swin(48)),
        "residual 32 64 128 256, depths 2 2 2 2": replace(
            RESIDUAL, backbone=ResNetConfig((32, 64, 128, 256), (2, 2, 2, 2))
        ),
        "residual 32 64 128 256, depths 2 3 4 3": RESIDUAL,
        "residual 24 48 96 192, depths 2 2 4 2": replace(
            RESIDUAL, backbone=ResNetConfig((24, 48, 96, 192), (2, 2, 4, 2))
        ),
        "compact, narrow decoder: 16, pyramid 32, kernel 3": narrow,
        "compact, wide decoder: 32, pyramid 64": wide,
        "residual 2 3 4 3, narrow decoder": replace(narrow, backbone=RESIDUAL.backbone),
    }
    phases = (Phase(1.0, size, batch),)
    return {
        name: TrainingConfig(
            network,
            phases,
            Budget(seconds=seconds),
            learning_rate=1.5e-3,
            loss=PRESETS["general"],
            ema_decay=_AVERAGE,
            precision="bf16",
        )
        for name, network in networks.items()
    }

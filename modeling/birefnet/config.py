"""What distinguishes one BiRefNet from another: the widths and depths that its tensors' shapes follow from."""

from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields, replace
from typing import Any, Self

HEAD_STAGES = 4


@dataclass(frozen=True)
class SwinConfig:
    """A Swin backbone with four stages at strides 4, 8, 16 and 32.

    Attributes:
        embed_dim: Channels of the first stage; every later stage has twice as many.
        depths: Blocks per stage.
        heads: Attention heads per stage.
        window: Side of an attention window, in tokens.
        drop_path_rate: Probability of skipping the last block's residual in training; earlier blocks less, linearly.
        mlp_ratio: Hidden width of a block's perceptron over its channels.
    """

    embed_dim: int
    depths: tuple[int, int, int, int]
    heads: tuple[int, int, int, int]
    window: int
    drop_path_rate: float = 0.2
    mlp_ratio: int = 4

    def __post_init__(self) -> None:
        if len(self.depths) != HEAD_STAGES or len(self.heads) != HEAD_STAGES:
            raise ValueError(f"a Swin backbone has 4 stages, found depths {self.depths} and heads {self.heads}")
        for channels, heads in zip(self.channels, self.heads, strict=True):
            if channels % heads:
                raise ValueError(f"{channels} channels cannot be split into {heads} attention heads")

    @property
    def channels(self) -> tuple[int, int, int, int]:
        """Channels of the four stages, finest first."""
        return (self.embed_dim, 2 * self.embed_dim, 4 * self.embed_dim, 8 * self.embed_dim)


@dataclass(frozen=True)
class ResNetConfig:
    """A residual backbone of basic blocks with four stages at strides 4, 8, 16 and 32.

    Attributes:
        channels: Of the four stages, finest first.
        depths: Blocks per stage.
    """

    channels: tuple[int, int, int, int]
    depths: tuple[int, int, int, int]

    def __post_init__(self) -> None:
        if len(self.channels) != HEAD_STAGES or len(self.depths) != HEAD_STAGES:
            raise ValueError(f"a backbone has 4 stages, found channels {self.channels} and depths {self.depths}")


@dataclass(frozen=True)
class BiRefNetConfig:
    """One BiRefNet. The defaults are those of every released checkpoint; only the backbone differs between them.

    Attributes:
        backbone: The encoder that is run at full and at half scale.
        inter_channels: Width inside every decoder block.
        aspp_channels: Width of each branch of the deformable pyramid.
        aspp_kernels: Kernel sizes of the pyramid's branches beside its first, which is always 1x1.
        gradient_channels: Width of the outward reference (gradient attention).
        patch_inner_channels: Width inside the blocks that read image patches (inward reference).
        aspp_dropout: Dropout after the pyramid, in training.
        auxiliary_classes: Classes of the auxiliary classification head; None leaves the head out.
    """

    backbone: SwinConfig | ResNetConfig
    inter_channels: int = 64
    aspp_channels: int = 256
    aspp_kernels: tuple[int, ...] = (1, 3, 7)
    gradient_channels: int = 16
    patch_inner_channels: int = 64
    aspp_dropout: float = 0.5
    auxiliary_classes: int | None = None

    def __post_init__(self) -> None:
        if any(kernel % 2 == 0 or kernel < 1 for kernel in self.aspp_kernels):
            raise ValueError(f"pyramid kernels must be odd to keep the map's size, found {self.aspp_kernels}")

    @property
    def encoder_channels(self) -> tuple[int, int, int, int]:
        """Channels of the fused encoder maps, finest first: full and half scale are concatenated."""
        first, second, third, fourth = self.backbone.channels
        return (2 * first, 2 * second, 2 * third, 2 * fourth)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-ready values, for checkpoints and manifests; `from_dict` reads them back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The configuration that `to_dict` wrote; lists stand for tuples as JSON has none.

        Raises:
            ValueError: A field is unknown or missing.
        """
        plain = dict(values)
        _check_fields(cls, plain)
        backbone = dict(plain.pop("backbone"))
        kind: type[SwinConfig] | type[ResNetConfig] = SwinConfig if "embed_dim" in backbone else ResNetConfig
        _check_fields(kind, backbone)
        return cls(backbone=kind(**_with_tuples(backbone)), **_with_tuples(plain))


def _check_fields(
    kind: type[SwinConfig] | type[ResNetConfig] | type[BiRefNetConfig], values: Mapping[str, Any]
) -> None:
    known = {field.name for field in fields(kind)}
    if unknown := sorted(set(values) - known):
        raise ValueError(f"{kind.__name__} has no field {', '.join(unknown)}; it has {', '.join(sorted(known))}")
    required = {each.name for each in fields(kind) if each.default is MISSING}
    if missing := sorted(required - set(values)):
        raise ValueError(f"{kind.__name__} needs {', '.join(missing)}")


def _with_tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


SWIN_T = BiRefNetConfig(SwinConfig(embed_dim=96, depths=(2, 2, 6, 2), heads=(3, 6, 12, 24), window=7))
SWIN_S = BiRefNetConfig(SwinConfig(embed_dim=96, depths=(2, 2, 18, 2), heads=(3, 6, 12, 24), window=7))
SWIN_B = BiRefNetConfig(SwinConfig(embed_dim=128, depths=(2, 2, 18, 2), heads=(4, 8, 16, 32), window=12))
SWIN_L = BiRefNetConfig(SwinConfig(embed_dim=192, depths=(2, 2, 18, 2), heads=(6, 12, 24, 48), window=12))

# The embedded model: a CPU trains it in hours and runs it in a fraction of a second. 4.2 M parameters;
# on one EPYC core with AVX512-BF16 0.17 s per 512x512 in ONNX Runtime, 0.14 s of bf16 training per 256x256.
COMPACT = BiRefNetConfig(
    SwinConfig(embed_dim=32, depths=(2, 2, 4, 2), heads=(1, 2, 4, 8), window=8, drop_path_rate=0.05),
    inter_channels=24,
    aspp_channels=48,
    aspp_kernels=(1, 3),
    patch_inner_channels=16,
    aspp_dropout=0.1,
)


def backbone_name(config: BiRefNetConfig) -> str:
    """`swin_v1_t`, `…_s`, `…_b`, `…_l`, or the shape of one that has no name."""
    backbone = config.backbone
    if isinstance(backbone, ResNetConfig):
        return f"resnet_c{'-'.join(map(str, backbone.channels))}d{'-'.join(map(str, backbone.depths))}"
    for letter, known in (("t", SWIN_T), ("s", SWIN_S), ("b", SWIN_B), ("l", SWIN_L)):
        if known.backbone == replace(backbone, drop_path_rate=SwinConfig.drop_path_rate):
            return f"swin_v1_{letter}"
    return f"swin_v1_e{backbone.embed_dim}d{'-'.join(map(str, backbone.depths))}w{backbone.window}"

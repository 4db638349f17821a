"""What distinguishes one refiner from another: the encoder's shape, the latent's and the decoder's widths."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, Self

ALIGNMENT = 8
"""The coarsest stride: frames are extended to its multiples, and tiles begin at them."""

STRIDE = 2
"""Of the latent."""

HINTS = 2
"""Ways in which the decoder may use a colour cue: where the mask is undecided, and everywhere."""

POSITIONS = 6
"""Channels of the positional block: C_r, C_t and r, rows before columns."""


@dataclass(frozen=True)
class StageConfig:
    """Residual blocks of one width.

    Attributes:
        blocks: How many.
        width: Channels inside a block; a bottleneck gives four times as many, a basic block as many.
        stride: Of the first block.
        dilation: Of the blocks from the second on.
    """

    blocks: int
    width: int
    stride: int
    dilation: int = 1


@dataclass(frozen=True)
class CrmConfig:
    """One CRM.

    Attributes:
        stem: Channels of the stem, which is the tap at stride 2.
        stem_kernel: Side of its window.
        pooled: Whether a 3x3 max-pooling of stride 2 follows the stem, as in a ResNet.
        block: Kind of the residual blocks.
        stages: Of the encoder, in their order.
        taps: Which stages end at stride 4 and at stride 8 and are read, by their index.
        fused: Channels that the taps at strides 2, 4 and 8 are brought to.
        latent: Channels of the latent, at stride 2.
        hidden: Width of the decoder's hidden layers.
        hidden_layers: How many there are.
        dropout: In the fusion, in training.
        double_norm: Whether the fused taps pass a second normalisation, as the published network's do.
        residual: Whether the decoder gives a correction to the mask's own logit instead of the logit.
        colour_cues: Box widths, in cells of half the resolution, of the colour cues that are fused as one more
            tap and that the decoder weighs (`modeling.crm.colour_cue`); none in the published network.
        fused_cues: Channels that the cues are brought to.
    """

    stem: int
    stem_kernel: int
    pooled: bool
    block: Literal["bottleneck", "basic"]
    stages: tuple[StageConfig, ...]
    taps: tuple[int, int]
    fused: tuple[int, int, int]
    latent: int
    hidden: int
    hidden_layers: int
    dropout: float = 0.0
    double_norm: bool = False
    residual: bool = False
    colour_cues: tuple[int, ...] = ()
    fused_cues: int = 0

    def __post_init__(self) -> None:
        strides = [4 if self.pooled else 2]
        for stage in self.stages:
            strides.append(strides[-1] * stage.stride)
        found = (strides[self.taps[0] + 1], strides[self.taps[1] + 1])
        if found != (4, ALIGNMENT) or strides[-1] != ALIGNMENT:
            raise ValueError(f"a refiner's taps are at strides 4 and 8, and nothing is coarser; found {found}")
        if any(width < 1 or width % 2 == 0 for width in self.colour_cues):
            raise ValueError(f"the boxes of colour cues have odd widths, found {self.colour_cues}")
        if bool(self.colour_cues) != bool(self.fused_cues) or (self.colour_cues and not self.residual):
            raise ValueError("colour cues need channels of their own and a residual decoder, and nothing else does")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-ready values, for checkpoints and manifests; `from_dict` reads them back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The configuration that `to_dict` wrote.

        Raises:
            ValueError: A field is unknown or missing.
        """
        plain = dict(values)
        known = {field.name for field in fields(cls)}
        if unknown := sorted(set(plain) - known):
            raise ValueError(f"CrmConfig has no field {', '.join(unknown)}; it has {', '.join(sorted(known))}")
        try:
            stages = tuple(StageConfig(**stage) for stage in plain.pop("stages"))
            tuples: dict[str, Any] = {
                name: tuple(value) if isinstance(value, list) else value for name, value in plain.items()
            }
            return cls(stages=stages, **tuples)
        except (KeyError, TypeError) as error:
            raise ValueError(f"not the fields of a CrmConfig: {error}") from error


RESNET50 = CrmConfig(
    stem=64,
    stem_kernel=7,
    pooled=True,
    block="bottleneck",
    stages=(StageConfig(3, 64, 1), StageConfig(4, 128, 2), StageConfig(6, 256, 1, dilation=2)),
    taps=(0, 2),
    fused=(64, 64, 128),
    latent=256,
    hidden=32,
    hidden_layers=4,
    dropout=0.5,
    double_norm=True,
)
"""The published network, without the layer4 that it runs and throws away."""

COMPACT = CrmConfig(
    stem=32,
    stem_kernel=5,
    pooled=False,
    block="basic",
    stages=(StageConfig(1, 64, 2), StageConfig(1, 96, 2)),
    taps=(0, 1),
    fused=(16, 16, 16),
    latent=48,
    hidden=16,
    hidden_layers=2,
    residual=True,
    colour_cues=(1, 3, 7, 15),
    fused_cues=16,
)
"""The embedded refiner."""

CONFIGS: Mapping[str, CrmConfig] = {"compact": COMPACT, "resnet50": RESNET50}

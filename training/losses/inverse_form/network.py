"""The inverse transformation network: from two boundary maps to the transformation between them."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modeling.weights import WeightsError, read_metadata, read_state, write_state
from training.losses.inverse_form.transform import PARAMETERS

CONFIG_KEY = "inverse_form_config"
Kind = Literal["convolutional", "flat"]


@dataclass(frozen=True)
class InverseNetworkConfig:
    """Which network.

    Attributes:
        kind: `convolutional`, or `flat`: the published one, which flattens both maps.
        side: Of a tile, a multiple of 16.
        widths: Channels of the four convolutions, or units of the flat network's two hidden layers.
        hidden: Units between the last convolution and the answer.
    """

    kind: Kind = "convolutional"
    side: int = 64
    widths: tuple[int, ...] = (16, 32, 48, 64)
    hidden: int = 64

    def __post_init__(self) -> None:
        wanted = {"convolutional": 4, "flat": 2}
        if self.kind not in wanted or len(self.widths) != wanted[self.kind] or self.side <= 0 or self.side % 16:
            raise ValueError(
                f"expected a convolutional network of 4 widths or a flat one of 2, and a side that is a multiple of "
                f"16, found {self}"
            )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The configuration that `asdict` wrote."""
        return cls(**{**values, "widths": tuple(values["widths"])})


FLAT = InverseNetworkConfig("flat", widths=(1000, 32))


class InverseNetwork(nn.Module):
    """θ(a, b) = (g(a, b) - g(b, a)) / 2 of a network g: exactly 0 for equal maps, and of opposite sign when exchanged.

    The published network is g itself, whose answer for equal maps is noise (0.29 in reference D.3, as much as for a
    shift of one pixel).
    """

    def __init__(self, config: InverseNetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.body = _convolutional(config) if config.kind == "convolutional" else _flat(config)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Boundary maps (N, 1, S, S) in [0, 1] to (N, 6) normalised parameters: second(x) = first(θ x)."""
        both = torch.cat((torch.cat((first, second), dim=1), torch.cat((second, first), dim=1)))
        there, back = self.body(both).chunk(2)
        return (there - back) / 2


class _Halving(nn.Module):
    """The mean of 2 x 2 pixels; a boundary five pixels wide keeps its place to a fraction of one."""

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, 2)


def _convolutional(config: InverseNetworkConfig) -> nn.Sequential:
    layers: list[nn.Module] = [_Halving()]
    channels = 2
    for index, width in enumerate(config.widths):
        layers += [nn.Conv2d(channels, width, 3, stride=2 if index else 1, padding=1), nn.ReLU()]
        channels = width
    cells = (config.side // 16) ** 2
    layers += [nn.Flatten(), nn.Linear(channels * cells, config.hidden), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(config.hidden, PARAMETERS))


def _flat(config: InverseNetworkConfig) -> nn.Sequential:
    first, second = config.widths
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(2 * config.side**2, first),
        nn.ReLU(),
        nn.Linear(first, second),
        nn.ReLU(),
        nn.Linear(second, PARAMETERS),
    )


def save_inverse(network: InverseNetwork, path: Path | str, metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file that `load_inverse` reads back whole, by an atomic rename."""
    write_state(network.state_dict(), path, metadata, (CONFIG_KEY, json.dumps(asdict(network.config))))


def load_inverse(path: Path | str) -> InverseNetwork:
    """The network of a file, in fp32 on the CPU and in evaluation mode.

    Raises:
        WeightsError: The file cannot be read, was not written by `save_inverse`, or its keys do not fit.
        FileNotFoundError: There is no such file.
    """
    metadata = read_metadata(path)
    if CONFIG_KEY not in metadata:
        raise WeightsError(f"{path}: expected an inverse network's configuration under `{CONFIG_KEY}`, found none")
    try:
        network = InverseNetwork(InverseNetworkConfig.from_dict(json.loads(metadata[CONFIG_KEY])))
        network.load_state_dict(read_state(path))
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise WeightsError(f"{path}: not an inverse network: {error}") from error
    return network.eval()

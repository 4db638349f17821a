"""The loss: distances of the transformations between predicted and true boundaries, and when they count."""

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn
from torch.nn import functional as F

from training.losses.inverse_form.boundary import check_range, soft_boundary
from training.losses.inverse_form.distance import DISTANCES
from training.losses.inverse_form.network import InverseNetwork, load_inverse
from training.losses.inverse_form.tiles import cut, with_boundary

COMMITTED = Path(__file__).resolve().parents[2] / "checkpoints" / "inverse_form.safetensors"


@dataclass(frozen=True)
class InverseFormOptions:
    """How the loss enters a run. By default it does not.

    Attributes:
        weight: Of the loss, among those of the other terms; 0 leaves it out.
        begins: Share of the budget at which it enters: the subject has to be found first.
        ramp: Share over which it rises to its weight.
        ends: Share at which it leaves: it moves boundaries, and does not sharpen them.
        distance: `euclidean` or `geodesic`.
        reduction: Mattes are averaged by this factor first, so that a tile sees farther.
        minimum_share: Of a tile that has to be boundary.
        network: A file of `save_inverse`; empty for the committed one.
    """

    weight: float = 0.0
    begins: float = 0.2
    ramp: float = 0.1
    ends: float = 0.9
    distance: str = "euclidean"
    reduction: int = 1
    minimum_share: float = 0.01
    network: str = ""

    def __post_init__(self) -> None:
        if self.distance not in DISTANCES or self.weight < 0 or self.reduction < 1 or not self.begins < self.ends:
            raise ValueError(
                f"InverseForm: expected a weight of 0 or more, a distance of {', '.join(DISTANCES)}, a reduction of 1 "
                f"or more and begins before ends, found {self}"
            )

    def weight_at(self, share: float) -> float:
        """The weight when `share` of the budget is spent."""
        if not self.begins <= share < self.ends:
            return 0.0
        return self.weight * min(1.0, (share - self.begins) / self.ramp) if self.ramp else self.weight


class InverseForm(nn.Module):
    """The mean distance over the tiles that have a true boundary; 0 where none has. The network is frozen."""

    def __init__(self, network: InverseNetwork, options: InverseFormOptions) -> None:
        super().__init__()
        self.network = network.eval().requires_grad_(False)
        self.options = options

    @classmethod
    def of(cls, options: InverseFormOptions) -> "InverseForm":
        """The loss with the network of the options' file.

        Raises:
            WeightsError: The file holds no inverse network.
            FileNotFoundError: There is no such file.
        """
        return cls(load_inverse(options.network or COMMITTED), options)

    def forward(self, alpha: Tensor, truth: Tensor) -> Tensor:
        """Compare (B, 1, H, W) predicted and true alpha.

        Raises:
            ValueError: One of them is not in [0, 1], or their shapes differ.
        """
        if alpha.shape != truth.shape:
            raise ValueError(f"InverseForm: expected mattes of one shape, found {alpha.shape} and {truth.shape}")
        check_range(alpha, "the matte")
        check_range(truth, "the truth")
        if self.options.reduction > 1:
            alpha, truth = (F.avg_pool2d(each, self.options.reduction, ceil_mode=True) for each in (alpha, truth))
        side = self.network.config.side
        found, wanted = (cut(soft_boundary(each), side) for each in (alpha, truth))
        seen = with_boundary(wanted, self.options.minimum_share)
        if not bool(seen.any()):
            return alpha.sum() * 0.0
        return DISTANCES[self.options.distance](self.network(wanted[seen], found[seen])).mean()

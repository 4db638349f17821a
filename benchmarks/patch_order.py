"""How far the patch-order detector is from a wrong decision: on trained weights, permuted ones, and random ones.

    python -m benchmarks.patch_order --folder runs/patch_order

trains small networks from several seeds (half a minute of one core each; those that the folder has are not trained
again) and prints the table of docs/export.md.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from modeling.birefnet.config import COMPACT, SWIN_L, BiRefNetConfig, SwinConfig
from modeling.birefnet.network import BiRefNet
from modeling.patch_order import TILES_PER_SIDE, current_to_legacy, detect_patch_order
from modeling.weights import read_state, save_state
from tests.support.seeded import seeded
from training.config import Budget, Phase, TrainingConfig
from training.data.degrade import Photo
from training.data.raster import Plane
from training.data.sets import SETS
from training.loop import Cadence, Run

EMBEDDED = Path(__file__).parents[1] / "training" / "checkpoints" / "compact.safetensors"
SMALL = BiRefNetConfig(
    SwinConfig(embed_dim=8, depths=(1, 1, 1, 1), heads=(1, 1, 2, 2), window=4, drop_path_rate=0.0),
    inter_channels=8,
    aspp_channels=8,
    aspp_kernels=(1, 3),
    patch_inner_channels=16,
    aspp_dropout=0.0,
)
STEPS, SIZE, BATCH, IMAGES = 200, 64, 8, 64
RANDOM_DRAWS, RANDOM_FILTERS = 200, 16


class Few:
    """A handful of photographs, made once: drawing them takes longer than a step of so small a network."""

    def __init__(self, seed: int) -> None:
        self._first = 1000 * seed
        self._kept: dict[int, tuple[Photo, Plane]] = {}

    def item(self, index: int, size: int) -> tuple[Photo, Plane]:
        """As every source of the training loop."""
        chosen = self._first + index % IMAGES
        if chosen not in self._kept:
            self._kept[chosen] = SETS["train"].item(chosen, size)
        return self._kept[chosen]


def trained(seed: int, folder: Path) -> dict[str, Tensor]:
    """The weights of a small network trained from a seed, from the folder if they are there."""
    path = folder / f"seed-{seed}.safetensors"
    if not path.exists():
        phases = (Phase(1.0, SIZE, BATCH),)
        config = TrainingConfig(SMALL, phases, Budget(steps=STEPS), seed=seed, learning_rate=3e-3)
        run = Run(config, folder / f"run-{seed}", Cadence(workers=0), source=Few(seed))
        run.train()
        run.network.load_state_dict(run.ema.state)
        save_state(run.network, path)
    return read_state(path)


def row(name: str, state: Mapping[str, Tensor]) -> str:
    """One line of the table: standard errors and decisions, as the weights are and permuted."""
    cells = [name]
    for order in (dict(state), current_to_legacy(state)):
        evidence = detect_patch_order(order)
        alone = {level: detect_patch_order(order, [level]).decision for level in TILES_PER_SIDE}
        decided = [f"{level} {decision}" for level, decision in alone.items() if decision != "undecided"]
        cells += [f"{evidence.current:+.1f} / {evidence.legacy:+.1f}", evidence.decision, ", ".join(decided) or "none"]
    return "| " + " | ".join(cells) + " |"


def filters(network: nn.Module) -> dict[str, Tensor]:
    """The weights that have an order."""
    return {key: value for key, value in network.state_dict().items() if "ipt_blk" in key}


def patch_weights(count: int) -> dict[str, tuple[int, ...]]:
    """Shapes of the weights that have an order, for so many filters."""
    return {
        f"decoder.ipt_blk{level}.conv1.weight": (count, 3 * side**2, 3, 3) for level, side in TILES_PER_SIDE.items()
    }


def random_extreme(draws: int) -> tuple[float, int]:
    """The largest standard errors among random weights, either order, and how many of them were decided."""
    largest, decided = 0.0, 0
    generator = torch.Generator().manual_seed(0)
    for _ in range(draws):
        shapes = patch_weights(RANDOM_FILTERS).items()
        evidence = detect_patch_order({key: torch.randn(shape, generator=generator) for key, shape in shapes})
        largest = max(largest, abs(evidence.current), abs(evidence.legacy))
        decided += evidence.decision != "undecided"
    return largest, decided


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/patch_order"), help="where trained networks are kept")
    parser.add_argument("--seeds", type=int, nargs="+", default=[11, 12, 13, 14, 15])
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    columns = ("weights", "current / legacy", "decision", "levels alone", "permuted", "decision", "levels alone")
    print("| " + " | ".join(columns) + " |\n" + "|---" * len(columns) + "|")
    print(row("the embedded network", read_state(EMBEDDED)))
    for seed in options.seeds:
        print(row(f"small network, seed {seed}", trained(seed, options.folder)), flush=True)
    torch.manual_seed(1)
    print(row("the embedded network's, untrained", filters(BiRefNet(COMPACT))))
    released = patch_weights(SWIN_L.patch_inner_channels).items()
    print(row("the oracle's", {key: seeded(key, shape) for key, shape in released}))
    largest, decided = random_extreme(RANDOM_DRAWS)
    print(f"\n{RANDOM_DRAWS} random draws of {RANDOM_FILTERS} filters: at most {largest:.1f}, {decided} decided")


if __name__ == "__main__":
    main()

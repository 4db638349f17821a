"""How good a refiner is on held-out close-ups, against the coarse mask itself, for each kind of mask."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from matting.band import boundary_band
from modeling.crm.network import CRM
from training.data.closeups import closeup
from training.data.raster import Plane
from training.data.scene import Level
from training.data.shapes import Rng
from training.refiner.coarse import reduced, upsampled
from training.refiner.loop import image_planes
from training.refiner.perturbation import perturb

_SEED = 7101
LEVELS: tuple[Level, ...] = ("easy", "hard")
MASKS = ("averaged 2", "averaged 4", "perturbed")


@dataclass(frozen=True)
class RefinerFigures:
    """One window of one kind.

    Attributes:
        level: Of its colours.
        mask: How the coarse mask was made.
        before: Mean absolute error of the coarse mask in the truth's band.
        after: Of the refined matte.
        accuracy_before: Share of the band that is on the right side of one half in the mask.
        accuracy_after: In the refined matte.
    """

    level: str
    mask: str
    before: float
    after: float
    accuracy_before: float
    accuracy_after: float


def held_out_mask(kind: str, truth: Plane, rng: Rng) -> Plane:
    """A coarse mask of one of `MASKS`."""
    if kind == "perturbed":
        side = truth.shape[0] // 2
        wrong = perturb(rng, (reduced(truth, side) >= 0.5).astype(np.uint8), float(rng.uniform(0.8, 1.0)))
        return upsampled(wrong.astype(np.float32), truth.shape[0])
    factor = int(kind.split()[1])
    return upsampled(reduced(truth, truth.shape[0] // factor), truth.shape[0])


@torch.no_grad()
def refined(network: CRM, image: np.ndarray, mask: Plane) -> Plane:
    """One pass over a window, as a tile: (S, S, 3) uint8 and (S, S) to (S, S)."""
    alpha = network(image_planes(torch.from_numpy(image)[None]), torch.from_numpy(mask)[None])
    return np.asarray(alpha[0].numpy(), np.float32)


def evaluate_refiner(network: CRM, count: int, size: int = 256) -> list[RefinerFigures]:
    """Figures of `count` held-out close-ups for each level of difficulty and each kind of mask."""
    found = []
    for level in LEVELS:
        for index in range(count):
            image, truth = closeup(index, size, _SEED, level)
            band = boundary_band(truth, 5)
            if band.sum() < 100:
                continue
            for kind in MASKS:
                mask = held_out_mask(kind, truth, np.random.default_rng([_SEED, index]))
                after = refined(network, image, mask)
                errors = [float(np.abs(each - truth)[band].mean()) for each in (mask, after)]
                right = [float(((each >= 0.5) == (truth >= 0.5))[band].mean()) for each in (mask, after)]
                found.append(RefinerFigures(level, kind, errors[0], errors[1], right[0], right[1]))
    return found


def summary(figures: Sequence[RefinerFigures]) -> str:
    """A table of the means, and how many windows became worse."""
    lines = [f"{'':22}{'error':>8}{'refined':>9}{'change':>9}{'accuracy':>10}{'refined':>9}{'worse':>9}"]
    for level in LEVELS:
        for kind in MASKS:
            rows = [each for each in figures if each.level == level and each.mask == kind]
            before, after = (float(np.mean([getattr(r, name) for r in rows])) for name in ("before", "after"))
            first, last = (float(np.mean([getattr(r, n) for r in rows])) for n in ("accuracy_before", "accuracy_after"))
            worse = sum(each.after > each.before for each in rows)
            lines.append(
                f"{level + ', ' + kind:22}{before:8.4f}{after:9.4f}{after / before - 1:+9.1%}{first:10.3f}{last:9.3f}"
                f"{worse:5d}/{len(rows)}"
            )
    return "\n".join(lines)

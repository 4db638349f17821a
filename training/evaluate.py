"""How good a network is on the held-out procedural sets: figures of each image, and the files that keep them."""

import csv
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from tqdm import tqdm

from matting.quality import band_absolute_error, iou, mean_absolute_error
from training.data.stream import Source, batches, normalised

Plane = NDArray[np.float32]
_BAND_SHARE = 0.02


@dataclass(frozen=True)
class Figures:
    """One matte: mean absolute error, everywhere and in the boundary band; IoU of both thresholded at one half."""

    mae: float
    iou: float
    band: float


def measure(predicted: Plane, truth: Plane) -> Figures:
    """The figures of one matte (H, W) in [0, 1] against its truth.

    The band reaches 2 % of the image's longer side from the contour, so that it does not depend on the resolution.

    Raises:
        ValueError: They have different sizes.
    """
    radius = max(1, round(_BAND_SHARE * max(truth.shape)))
    return Figures(
        mean_absolute_error(predicted, truth), iou(predicted, truth), band_absolute_error(predicted, truth, radius)
    )


@torch.no_grad()
def evaluate(network: nn.Module, source: Source, size: int, count: int, workers: int = 0) -> list[Figures]:
    """Figures of the first `count` images of a procedural set at the working size."""
    network.eval()
    stream = batches(source, size, 1, 0, workers)
    figures = []
    for _ in tqdm(range(count), unit="image", mininterval=2.0, leave=False):
        images, truth = next(stream)
        alpha = torch.sigmoid(network(normalised(images)))
        figures.append(measure(alpha[0, 0].numpy(), truth[0, 0].numpy()))
    return figures


def means(figures: Iterable[Figures]) -> dict[str, float]:
    """The mean of each figure over the images."""
    rows = [asdict(one) for one in figures]
    return {field.name: float(np.mean([row[field.name] for row in rows])) for field in fields(Figures)}


def write(folder: Path, results: dict[str, list[Figures]], about: dict[str, object]) -> None:
    """`evaluation.json` (what was evaluated, the means) and `evaluation.csv` (every image)."""
    folder.mkdir(parents=True, exist_ok=True)
    summary = {name: means(figures) | {"images": len(figures)} for name, figures in results.items()}
    (folder / "evaluation.json").write_text(json.dumps({**about, "sets": summary}, indent=2) + "\n")
    with (folder / "evaluation.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["set", "index", "mae", "iou", "band"])
        for name, figures in results.items():
            writer.writerows(
                [name, index, f"{one.mae:.5f}", f"{one.iou:.5f}", f"{one.band:.5f}"]
                for index, one in enumerate(figures)
            )

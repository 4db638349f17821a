"""How good a network is on the held-out procedural sets: figures of each image, and the files that keep them."""

import csv
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from tqdm import tqdm

from training.data.stream import Source, batches, normalised

Plane = NDArray[np.float32]
_BAND_SHARE = 0.02


@dataclass(frozen=True)
class Figures:
    """One matte: mean absolute error, everywhere and in the boundary band; IoU of both thresholded at one half."""

    mae: float
    iou: float
    band: float


def boundary_band(truth: Plane) -> NDArray[np.bool_]:
    """Pixels within 2 % of the image's side of where the truth crosses one half, or is undecided."""
    radius = max(1, round(_BAND_SHARE * max(truth.shape)))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    inside = (truth >= 0.5).astype(np.uint8)
    undecided = ((truth > 0.05) & (truth < 0.95)).astype(np.uint8)
    edge = cv2.morphologyEx(inside, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8))
    return cv2.dilate(np.maximum(edge, undecided), kernel) > 0


def measure(predicted: Plane, truth: Plane) -> Figures:
    """The figures of one matte (H, W) in [0, 1] against its truth.

    An empty truth met by an empty matte has IoU 1; without a boundary the band's error is 0.
    """
    if predicted.shape != truth.shape:
        raise ValueError(f"a matte is measured at its truth's size {truth.shape}, found {predicted.shape}")
    error = np.abs(predicted - truth)
    found, wanted = predicted >= 0.5, truth >= 0.5
    union = int((found | wanted).sum())
    iou = float((found & wanted).sum()) / union if union else 1.0
    band = boundary_band(truth)
    return Figures(float(error.mean()), iou, float(error[band].mean()) if band.any() else 0.0)


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

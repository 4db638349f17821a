"""How good a network is on procedural sets or a folder: every figure of every image, by `matting.quality`."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from tqdm import tqdm

from matting.quality import (
    band_absolute_error,
    boundary_iou,
    connectivity_error,
    e_measure,
    gradient_error,
    human_correction_efforts,
    iou,
    mean_absolute_error,
    mean_boundary_accuracy,
    mean_squared_error,
    s_measure,
    sum_absolute_difference,
    weighted_f,
)
from matting.quality.overlap import REGION, overlap
from training.data.photographs import open_folder
from training.data.sets import SETS
from training.data.stream import Source, batches, normalised

Plane = NDArray[np.float32]
_BAND_SHARE = 0.02


@dataclass(frozen=True)
class Figures:
    """One matte at the working size; what each figure is, `matting.quality` says.

    Attributes:
        mae: Mean absolute error.
        mse: Mean squared error.
        sad: Sum of absolute differences, in thousands.
        grad: Gradient error, in thousands.
        conn: Connectivity error, in thousands.
        band: Mean absolute error in the boundary band.
        iou: Of both thresholded at one half.
        boundary_iou: Of the inner boundaries.
        mba: Mean boundary accuracy; None where the truth has no boundary.
        s: S-measure.
        weighted_f: Weighted F-measure.
        e_max: E-measure at the best threshold.
        e_mean: Over the thresholds.
        e_adaptive: At the adaptive threshold.
        hce: Human correction efforts.
        intersection: Pixels of both regions, for the pooled IoU of the set.
        union: Pixels of either.
    """

    mae: float
    mse: float
    sad: float
    grad: float
    conn: float
    band: float
    iou: float
    boundary_iou: float
    mba: float | None
    s: float
    weighted_f: float
    e_max: float
    e_mean: float
    e_adaptive: float
    hce: int
    intersection: int
    union: int


def measure(predicted: Plane, truth: Plane) -> Figures:
    """The figures of one matte (H, W) in [0, 1] against its truth.

    The band reaches 2 % of the image's longer side from the contour, so that it does not depend on the resolution.

    Raises:
        ValueError: They have different sizes.
    """
    radius = max(1, round(_BAND_SHARE * max(truth.shape)))
    alignment = e_measure(predicted, truth)
    both, either = overlap(predicted >= REGION, truth >= REGION)
    return Figures(
        mae=mean_absolute_error(predicted, truth),
        mse=mean_squared_error(predicted, truth),
        sad=sum_absolute_difference(predicted, truth),
        grad=gradient_error(predicted, truth),
        conn=connectivity_error(predicted, truth),
        band=band_absolute_error(predicted, truth, radius),
        iou=iou(predicted, truth),
        boundary_iou=boundary_iou(predicted, truth),
        mba=mean_boundary_accuracy(predicted, truth),
        s=s_measure(predicted, truth),
        weighted_f=weighted_f(predicted, truth),
        e_max=alignment.maximum,
        e_mean=alignment.mean,
        e_adaptive=alignment.adaptive,
        hce=human_correction_efforts(predicted, truth),
        intersection=both,
        union=either,
    )


@torch.no_grad()
def evaluate(network: nn.Module, source: Source, size: int, count: int, workers: int = 0) -> list[Figures]:
    """Figures of the first `count` images of a source at the working size."""
    network.eval()
    device = next(network.parameters()).device
    stream = batches(source, size, 1, 0, workers)
    figures = []
    for _ in tqdm(range(count), unit="image", mininterval=2.0, leave=False):
        images, truth = next(stream)
        alpha = torch.sigmoid(network(normalised(images.to(device))))
        figures.append(measure(alpha[0, 0].cpu().numpy(), truth[0, 0].numpy()))
    return figures


def held_out(folder: Path | None, sets: Sequence[str], count: int) -> dict[str, tuple[Source, int]]:
    """The sources by name and how many images of each: a folder, or procedural sets.

    Raises:
        FolderError: The folder does not hold photographs and mattes.
    """
    if folder is None:
        return {name: (SETS[name], count) for name in sets}
    found = open_folder(folder, 0, None)
    return {folder.name or str(folder): (found, min(count, len(found)))}


def means(figures: Iterable[Figures]) -> dict[str, float]:
    """The mean of each figure over the images that have it, and `pooled_iou` of the set; NaN where no image has it."""
    rows = [asdict(one) for one in figures]
    both, either = (sum(row.pop(name) for row in rows) for name in ("intersection", "union"))
    table: dict[str, float] = {}
    for name in rows[0]:
        values = [row[name] for row in rows if row[name] is not None]
        table[name] = float(np.mean(values)) if values else float("nan")
    return table | {"pooled_iou": both / either if either else 1.0}

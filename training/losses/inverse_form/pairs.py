"""Pairs of boundary maps with the transformation between them: procedural shapes, seen twice."""

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from training.data.shapes import Rng, blob, ellipse, limb, polygon, rough, superformula
from training.losses.inverse_form.boundary import soft_boundary
from training.losses.inverse_form.tiles import grid
from training.losses.inverse_form.transform import PARAMETERS, matrices

_SIDE = 128
_FINE = 2
_LARGEST = 1.25
_SOFT = 3


@dataclass(frozen=True)
class Pairs:
    """A batch.

    Attributes:
        first: (N, 1, S, S) boundary maps in [0, 1].
        second: (N, 1, S, S) the same shapes after the transformation: second(x) = first(θ x).
        parameters: (N, 6) the transformation, normalised.
    """

    first: Tensor
    second: Tensor
    parameters: Tensor


def shapes(seed: int, count: int) -> Tensor:
    """Soft masks of random outlines, (count, 1, 128, 128) float32 in [0, 1]; the same for the same seed."""
    return torch.from_numpy(np.stack([_shape(np.random.default_rng([seed, index])) for index in range(count)]))[:, None]


def _shape(rng: Rng) -> NDArray[np.float32]:
    fine = np.zeros((_SIDE * _FINE, _SIDE * _FINE), np.uint8)
    for _ in range(int(rng.integers(1, 4))):
        contour = _outline(rng) * _FINE
        value = 0 if fine.any() and rng.uniform() < 0.3 else 255
        cv2.fillPoly(fine, [np.round(np.clip(contour, -1e4, 1e4) * 16).astype(np.int32)], value, cv2.LINE_8, 4)
    small = cv2.resize(fine, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
    return (small / np.float32(255)).astype(np.float32)


def _outline(rng: Rng) -> NDArray[np.float64]:
    x, y = rng.uniform(0.2, 0.8, 2) * _SIDE
    radii = tuple(rng.uniform(0.08, 0.4, 2) * _SIDE)
    centre, reach = (float(x), float(y)), (float(radii[0]), float(radii[1]))
    kind = int(rng.integers(6))
    if kind == 0:
        return ellipse(centre, reach, float(rng.uniform(0, np.pi)), float(rng.uniform(1.5, 6)))
    if kind == 1:
        return superformula(rng, centre, reach)
    if kind == 2:
        return polygon(rng, centre, reach, int(rng.integers(3, 9)))
    if kind == 3:
        return limb(rng.uniform(0.05, 0.95, (4, 2)) * _SIDE, list(rng.uniform(4, 22, 3)))
    contour = blob(rng, centre, reach, float(rng.uniform(0.05, 0.5)))
    return rough(rng, contour, float(rng.uniform(0.3, 2.0)), 4.0) if kind == 4 else contour


def make_pairs(pool: Tensor, generator: torch.Generator, count: int, side: int) -> Pairs:
    """Random windows of random shapes, seen again after a random transformation.

    Half of the transformations are shifts alone. The largest is beyond what the loss is asked for, 10 pixels of 64.

    Args:
        pool: `shapes`.
        generator: Decides everything.
        count: N.
        side: S.
    """

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator) * 2 - 1

    chosen = pool[torch.randint(len(pool), (count,), generator=generator)]
    parameters = uniform(count, PARAMETERS) * _LARGEST
    shifted_only = torch.rand(count, 1, generator=generator) < 0.5
    linear = torch.tensor([1.0, 1.0, 0.0, 1.0, 1.0, 0.0])
    parameters = torch.where(shifted_only, parameters * (1 - linear), parameters)
    window = _windows(uniform(count, 4))
    first = _seen(chosen, window, side)
    second = _seen(chosen, window @ matrices(parameters), side)
    soft = torch.randint(_SOFT, (2,), generator=generator).tolist()
    return Pairs(soft_boundary(_softened(first, soft[0])), soft_boundary(_softened(second, soft[1])), parameters)


def _windows(random: Tensor) -> Tensor:
    """Where in a shape's picture the windows lie: about half its side, turned, anywhere. (N, 3, 3)."""
    angle, size = random[:, 0] * torch.pi, 0.5 + 0.15 * random[:, 1]
    cosine, sine = size * angle.cos(), size * angle.sin()
    zero, one = torch.zeros_like(size), torch.ones_like(size)
    rows = (cosine, -sine, 0.45 * random[:, 2], sine, cosine, 0.45 * random[:, 3], zero, zero, one)
    return torch.stack(rows, dim=1).view(-1, 3, 3)


def _seen(picture: Tensor, matrix: Tensor, side: int) -> Tensor:
    points = torch.einsum("nij,hwj->nhwi", matrix[:, :2], grid(side, picture))
    return F.grid_sample(picture, points, mode="bilinear", padding_mode="border", align_corners=False).clamp(0, 1)


def _softened(alpha: Tensor, radius: int) -> Tensor:
    """What a network is not sure of; the mean over a square, twice."""
    if not radius:
        return alpha
    for _ in range(2):
        alpha = F.avg_pool2d(alpha, 2 * radius + 1, 1, radius, count_include_pad=False)
    return alpha

"""Coarse masks as a refiner meets them: soft, blurred, and wrong as networks at a lower resolution are wrong.

CRM trains on perturbed binary masks alone and gives binary ones. These keep what is soft in the truth, so that hair and
translucency are learned as something to be kept.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from training.data.raster import Plane
from training.data.shapes import Rng
from training.refiner.perturbation import perturb


@dataclass(frozen=True)
class CoarseMix:
    """How often each kind of coarse mask is drawn; the rest is the truth itself, which is to be left alone.

    Attributes:
        averaged: The truth area-averaged and upsampled: the best that a network at a lower resolution can give.
        bent: The same with the contour moved, sharpened or thresholded as a network's is.
        perturbed: Perturbed as in CRM, at a lower resolution, and softened.
        binary: Perturbed as in CRM, and nothing else.
        soft: Share of all windows whose truth is blurred first: what the mattes of real networks look like, whose
            softness is to be kept even where the image has a sharp edge. Half of them are averaged then.
    """

    averaged: float = 0.35
    bent: float = 0.15
    perturbed: float = 0.35
    binary: float = 0.1
    soft: float = 0.05


def averaged(rng: Rng, truth: Plane, factor: float) -> Plane:
    """The truth averaged over squares of `factor` pixels and upsampled again, sometimes blurred in between."""
    size = truth.shape[0]
    side = max(4, round(size / factor))
    small = reduced(truth, side)
    if rng.uniform() < 0.3:
        small = _blurred(small, float(rng.uniform(0.3, 0.9)))
    return upsampled(small, size, cubic=rng.uniform() < 0.15)


def reduced(plane: Plane, side: int) -> Plane:
    """A square plane averaged over areas to a smaller side."""
    return np.asarray(cv2.resize(plane, (side, side), interpolation=cv2.INTER_AREA), np.float32)


def _blurred(plane: Plane, sigma: float) -> Plane:
    return np.asarray(cv2.GaussianBlur(plane, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE), np.float32)


def upsampled(small: Plane, size: int, cubic: bool = False) -> Plane:
    """A mask at a larger size, in [0, 1]."""
    how = cv2.INTER_CUBIC if cubic else cv2.INTER_LINEAR
    return np.clip(cv2.resize(small, (size, size), interpolation=how), 0, 1).astype(np.float32)


def factor_of(rng: Rng) -> float:
    """How much coarser the mask is: mostly twice, as between two stages, up to five times."""
    return 2.0 if rng.uniform() < 0.35 else float(np.exp(rng.uniform(np.log(1.3), np.log(5.0))))


def _bent(rng: Rng, truth: Plane) -> Plane:
    """The contour moved by a smooth field, and alpha through a steeper or shifted curve, at a lower resolution."""
    size, factor = truth.shape[0], factor_of(rng)
    knots = int(rng.integers(3, 9))
    reach = factor * float(rng.uniform(0.1, 0.8))
    field = [
        cv2.resize(rng.normal(0, reach, (knots, knots)).astype(np.float32), (size, size), interpolation=cv2.INTER_CUBIC)
        for _ in range(2)
    ]
    rows, columns = np.mgrid[0:size, 0:size].astype(np.float32)
    moved = cv2.remap(truth, columns + field[0], rows + field[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    coarse = averaged(rng, np.asarray(moved, np.float32), factor)
    if rng.uniform() < 0.6:
        steep, shift = float(np.exp(rng.uniform(-0.3, 1.2))), float(rng.normal(0, 0.5))
        odds = np.log((coarse + 1e-3) / (1.001 - coarse))
        coarse = (1 / (1 + np.exp(-np.clip(steep * odds + shift, -30, 30)))).astype(np.float32)
    return coarse


def _perturbed(rng: Rng, truth: Plane) -> Plane:
    """CRM's perturbation on a lower resolution; half the time what is soft stays soft where the mask is right."""
    size = truth.shape[0]
    side = max(24, round(size / factor_of(rng)))
    small = reduced(truth, side)
    binary = (small >= 0.5).astype(np.uint8)
    wrong = perturb(rng, binary, float(rng.uniform(0.8, 1.0)))
    if rng.uniform() < 0.5:
        mask = np.where(wrong == binary, small, wrong).astype(np.float32)
    else:
        mask = wrong.astype(np.float32)
    if rng.uniform() < 0.4:
        mask = _blurred(mask, float(rng.uniform(0.3, 1.2)))
    return upsampled(mask, size)


def coarse_pair(rng: Rng, truth: Plane, mix: CoarseMix) -> tuple[Plane, Plane]:
    """A coarse mask of a true matte, and the truth it belongs to.

    Args:
        rng: Decides everything.
        truth: (S, S) float32 in [0, 1].
        mix: How often each kind.

    Returns:
        Both (S, S) float32 in [0, 1], the mask in half of the cases on 256 levels. The truth is the given one, but for
        the share `soft`.
    """
    if rng.uniform() < mix.soft:
        sigma = float(np.exp(rng.uniform(np.log(1.0), np.log(6.0))))
        truth = _blurred(truth, sigma)
        mask = averaged(rng, truth, factor_of(rng)) if rng.uniform() < 0.5 else truth
    else:
        mask = _mask(rng, truth, mix)
    if rng.uniform() < 0.5:
        mask = (np.rint(mask * 255) / 255).astype(np.float32)
    return np.ascontiguousarray(mask, np.float32), truth


def _mask(rng: Rng, truth: Plane, mix: CoarseMix) -> Plane:
    kind = rng.uniform()
    if kind < mix.averaged:
        return averaged(rng, truth, factor_of(rng))
    if kind < mix.averaged + mix.bent:
        return _bent(rng, truth)
    if kind < mix.averaged + mix.bent + mix.perturbed:
        return _perturbed(rng, truth)
    if kind < mix.averaged + mix.bent + mix.perturbed + mix.binary:
        binary = (truth >= 0.5).astype(np.uint8)
        return perturb(rng, binary, float(rng.uniform(0.8, 1.0))).astype(np.float32)
    return truth

"""Coarse mattes to start from: the best there can be, a real network's, and one with a network's mistakes."""

from collections.abc import Callable, Mapping
from functools import cache

import cv2
import numpy as np
import onnxruntime
from numpy.typing import NDArray

from artifact import open_artifact
from benchmarks.inference import SessionSettings
from benchmarks.refinement.scenes import Image, Plane, Scene
from matting.geometry import fit
from server import default_model
from training.refiner.perturbation import perturb

SIDE = 1024
"""Of the working size that the truth is reduced to."""

_OVERLAP = (0.8, 1.0)


def area(scene: Scene, seed: int) -> Plane:
    """The truth, area-averaged to 1024 x 1024: no network of that size can give more."""
    return _reduced(scene.alpha, (SIDE, SIDE))


def network(scene: Scene, seed: int) -> Plane:
    """The embedded network's answer to the photograph, at its own working size."""
    return network_matte(scene.image)


def perturbed(scene: Scene, seed: int) -> Plane:
    """The area-averaged truth as a mask of 0 and 1, then spoilt as CRM's training does (A.4), IoU from U(0.8, 1)."""
    rng = np.random.default_rng([seed, *scene.alpha.shape])
    truth = (area(scene, seed) >= np.float32(0.5)).astype(np.uint8)
    return perturb(rng, truth, float(rng.uniform(*_OVERLAP))).astype(np.float32)


COARSE: Mapping[str, Callable[[Scene, int], Plane]] = {"area": area, "network": network, "perturbed": perturbed}
"""By name, from a scene and its seed to (h, w) float32 in [0, 1]."""


def network_matte(image: Image) -> Plane:
    """The embedded network's coarse mask of an image."""
    session, size = _embedded()
    canvas = fit(image, size)
    alpha: NDArray[np.float32] = session.run(None, {session.get_inputs()[0].name: canvas[None]})[0][0]
    return alpha


def reduced(alpha: Plane, factor: int) -> Plane:
    """Area-averaged to so many times less on each side."""
    return _reduced(alpha, (max(1, alpha.shape[0] // factor), max(1, alpha.shape[1] // factor)))


def _reduced(alpha: Plane, size: tuple[int, int]) -> Plane:
    found = cv2.resize(alpha, (size[1], size[0]), interpolation=cv2.INTER_AREA)
    return np.asarray(found, dtype=np.float32).clip(0, 1)


@cache
def _embedded() -> tuple[onnxruntime.InferenceSession, tuple[int, int]]:
    artifact = open_artifact(default_model.directory())
    session = onnxruntime.InferenceSession(artifact.file("model"), SessionSettings().options())
    return session, artifact.manifest.input_size

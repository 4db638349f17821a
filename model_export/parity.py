"""Whether an artifact computes what its network computes, in figures."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from artifact import Deviation
from matting.quality import band_absolute_error
from model_export.runner import AlphaRunner, NetworkRunner
from model_export.sample_inputs import sample_inputs, subject
from modeling.birefnet.network import BiRefNet

MAX_ABS_FP32 = 1e-4
"""Largest difference of alpha from the network's. Measured with random weights: 1e-5 on photographs."""

ROUNDING_FACTOR = 2.0
"""Where the network itself, in float32, is farther than the tolerance from float64 (4.2e-4 on white noise with random
weights, whose offsets are wild), the graph may be this many times as far: more would be a difference, not rounding."""

BATCH = 4

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class InputParity:
    """How far the artifact is from the network on one image.

    Attributes:
        name: Of the image.
        max_abs: The worst pixel.
        mean_abs: The mean over all pixels.
        band_abs: The mean over the boundary band.
        allowed: What `max_abs` may be.
    """

    name: str
    max_abs: float
    mean_abs: float
    band_abs: float
    allowed: float


@dataclass(frozen=True, slots=True)
class ParityReport:
    """Everything that was found out about one graph.

    Attributes:
        self_test: The artifact's own test.
        inputs: Against the network; empty where its weights were not at hand.
        batch: How many images the batch had; 1 where the graph takes no more.
        batch_max_abs: Largest difference between the batch and its images one by one.
        deterministic: Whether the same batch gave the same bits twice.
        tolerance: For the batch, and for `inputs` unless rounding alone exceeds it.
    """

    self_test: Deviation
    inputs: tuple[InputParity, ...]
    batch: int
    batch_max_abs: float
    deterministic: bool
    tolerance: float

    @property
    def passed(self) -> bool:
        """True when everything that was measured is within its tolerance; not-a-numbers are not."""
        near = all(parity.max_abs <= parity.allowed for parity in self.inputs)
        return near and self.self_test.passed and self.batch_max_abs <= self.tolerance and self.deterministic

    def to_mapping(self, versions: Mapping[str, str]) -> dict[str, Any]:
        """As JSON types, for the manifest."""
        inputs = {
            parity.name: {
                "max_abs": parity.max_abs,
                "mean_abs": parity.mean_abs,
                "band_abs": parity.band_abs,
                "allowed": parity.allowed,
            }
            for parity in self.inputs
        }
        against = {"max_abs": max(parity.max_abs for parity in self.inputs), "inputs": inputs} if inputs else None
        return {
            "passed": self.passed,
            "tolerance": self.tolerance,
            "network": against,
            "batch": {"size": self.batch, "max_abs": self.batch_max_abs},
            "deterministic": self.deterministic,
            "self_test": {"max_abs": self.self_test.max_abs, "mean_abs": self.self_test.mean_abs},
            "versions": dict(versions),
        }

    def table(self) -> str:
        """As lines of text for a person."""
        lines = [f"{'input':<16}{'max |d|':>12}{'mean |d|':>12}{'band |d|':>12}{'allowed':>12}"]
        lines += [
            f"{parity.name:<16}{parity.max_abs:>12.2e}{parity.mean_abs:>12.2e}{parity.band_abs:>12.2e}"
            f"{parity.allowed:>12.1e}"
            for parity in self.inputs
        ]
        if not self.inputs:
            lines.append("not compared with the network: its weights are not at hand (--source CHECKPOINT)")
        lines.append(f"self-test: {self.self_test}")
        lines.append(f"batch of {self.batch} against singles: max {self.batch_max_abs:.2e}")
        lines.append(f"same bits twice: {'yes' if self.deterministic else 'no'}")
        lines.append("within tolerance" if self.passed else "OUT OF TOLERANCE")
        return "\n".join(lines)


def compare(runner: AlphaRunner, network: BiRefNet, size: tuple[int, int], report: Report) -> tuple[InputParity, ...]:
    """Run network and artifact on every sample input of a working size."""
    reference = NetworkRunner(network, torch.float64)
    found = []
    for name, image in sample_inputs(size):
        report(f"comparing on `{name}`")
        alpha, truth = runner(image[None])[0], reference(image[None])[0]
        difference = np.abs(alpha - truth)
        worst, mean = float(difference.max()), float(difference.mean())
        allowed = MAX_ABS_FP32
        if worst > allowed:
            rounded = NetworkRunner(network, torch.float32)(image[None])[0]
            allowed = max(allowed, ROUNDING_FACTOR * float(np.abs(rounded - truth).max()))
        found.append(InputParity(name, worst, mean, band_absolute_error(alpha, truth), allowed))
    return tuple(found)


def batch_deviation(runner: AlphaRunner, size: tuple[int, int], batch: int) -> tuple[float, bool]:
    """Largest difference between a batch and its images one by one, and whether a second run gives the same bits."""
    images = _distinct_images(size, batch)
    together = runner(images)
    same = np.array_equal(together, runner(images))
    if batch == 1:
        return 0.0, same
    alone = np.concatenate([runner(image[None]) for image in images])
    return float(np.abs(together - alone).max()), same


def _distinct_images(size: tuple[int, int], count: int) -> NDArray[np.uint8]:
    """One picture, moved round by a different distance in each, so that a mixed-up batch cannot pass."""
    picture = subject(*size)
    return np.stack([np.roll(picture, index * size[1] // count, axis=1) for index in range(count)])

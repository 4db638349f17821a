"""Whether a graph computes what its network computes, in figures."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from artifact import Deviation, Tolerance
from matting.quality import band_absolute_error
from model_export.runner import AlphaRunner, NetworkRunner
from model_export.sample_inputs import sample_inputs, subject
from modeling.birefnet.network import BiRefNet

ROUNDING_FACTOR = 2.0
"""Where the network itself, at the graph's precision and as it is exported, is farther than the tolerance from float64
(4.2e-4 in fp32, on white noise with random weights, whose offsets are wild), the graph may be this many times as far:
more would be a difference, not rounding."""

MOST_ALLOWED: Mapping[str, Tolerance] = {"fp32": Tolerance(5e-3, 5e-4), "fp16": Tolerance(0.5, 5e-3)}
"""No graph of a precision may be farther than this, whatever the network's own rounding: a network that rounding moves
so far is not one for that precision. In fp16 that is for the mean to say: near a contour, random weights let a pixel
go anywhere (Swin-L at 512x512, in torch: 1.7e-3 in fp32, on noise; 0.10 in fp16, mean 1.5e-3, on a photograph)."""

BATCH = 4

REFERENCES = ("network", "source_graph")
"""Under these keys the manifest has what a graph was compared with."""

_DTYPES = {"fp32": torch.float32, "fp16": torch.float16}

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class InputParity:
    """How far a graph is from its reference on one image.

    Attributes:
        name: Of the image.
        max_abs: The worst pixel.
        mean_abs: The mean over all pixels.
        band_abs: The mean over the boundary band.
        allowed: What `max_abs` and `mean_abs` may be.
    """

    name: str
    max_abs: float
    mean_abs: float
    band_abs: float
    allowed: Tolerance

    @property
    def passed(self) -> bool:
        """False also for an answer that is not a number."""
        return self.max_abs <= self.allowed.max_abs and self.mean_abs <= self.allowed.mean_abs


@dataclass(frozen=True, slots=True)
class ParityReport:
    """Everything that was found out about one graph.

    Attributes:
        size: (height, width) of the images compared: the graph's own, or that of a smaller graph of the same network.
        self_test: The artifact's own test, at its own size.
        reference: What `inputs` are compared with: `network` or `source graph`.
        inputs: One by one; empty where there was nothing to compare with.
        batch: How many images the batch had; 1 where the graph takes no more.
        batch_max_abs: Largest difference between the batch and its images one by one.
        deterministic: Whether the same batch gave the same bits twice.
        tolerance: Of `inputs`, unless rounding alone exceeds it, and of the batch.
    """

    size: tuple[int, int]
    self_test: Deviation
    reference: str
    inputs: tuple[InputParity, ...]
    batch: int
    batch_max_abs: float
    deterministic: bool
    tolerance: Tolerance

    @property
    def passed(self) -> bool:
        """True when everything that was measured is within its tolerance; not-a-numbers are not."""
        near = all(parity.passed for parity in self.inputs)
        return near and self.self_test.passed and self.batch_max_abs <= self.tolerance.max_abs and self.deterministic

    def to_mapping(self, versions: Mapping[str, str]) -> dict[str, Any]:
        """As JSON types, for the manifest."""
        inputs = {
            parity.name: {
                "max_abs": parity.max_abs,
                "mean_abs": parity.mean_abs,
                "band_abs": parity.band_abs,
                "allowed": parity.allowed.to_mapping(),
            }
            for parity in self.inputs
        }
        against = (
            {
                "max_abs": float(np.max([parity.max_abs for parity in self.inputs])),
                "mean_abs": float(np.max([parity.mean_abs for parity in self.inputs])),
                "inputs": inputs,
            }
            if inputs
            else None
        )
        return {
            "passed": self.passed,
            "size": list(self.size),
            "tolerance": self.tolerance.to_mapping(),
            self.reference.replace(" ", "_"): against,
            "batch": {"size": self.batch, "max_abs": self.batch_max_abs},
            "deterministic": self.deterministic,
            "self_test": {"max_abs": self.self_test.max_abs, "mean_abs": self.self_test.mean_abs},
            "versions": dict(versions),
        }

    def table(self) -> str:
        """As lines of text for a person."""
        head = f"at {self.size[0]}x{self.size[1]}"
        lines = [f"{head:<16}{'max |d|':>12}{'allowed':>10}{'mean |d|':>12}{'allowed':>10}{'band |d|':>12}"]
        lines += [
            f"{parity.name:<16}{parity.max_abs:>12.2e}{parity.allowed.max_abs:>10.1e}{parity.mean_abs:>12.2e}"
            f"{parity.allowed.mean_abs:>10.1e}{parity.band_abs:>12.2e}"
            for parity in self.inputs
        ]
        if not self.inputs:
            lines.append(f"not compared with the {self.reference}: it is not at hand (--source)")
        lines.append(f"self-test: {self.self_test}")
        lines.append(f"batch of {self.batch} against singles: max {self.batch_max_abs:.2e}")
        lines.append(f"same bits twice: {'yes' if self.deterministic else 'no'}")
        lines.append("within tolerance" if self.passed else "OUT OF TOLERANCE")
        return "\n".join(lines)


class Answers(Protocol):
    """What a graph is held against.

    Attributes:
        name: `network` or `source graph`.
        size: (height, width) of the sample images.
    """

    name: str
    size: tuple[int, int]

    def truth(self, name: str, image: NDArray[np.uint8], /) -> NDArray[np.float32]:
        """(H, W) alpha of one sample image."""
        ...

    def rounding(self, name: str, image: NDArray[np.uint8], dtype: str, /) -> Tolerance:
        """How far a graph may be because of rounding alone."""
        ...


class Reference:
    """What a network answers to the sample images of a size, in float64; computed once for all its graphs."""

    name = "network"

    def __init__(self, network: BiRefNet, size: tuple[int, int]) -> None:
        self.size = size
        self.network = network
        self._exact = NetworkRunner(network, torch.float64)
        self._truths: dict[str, NDArray[np.float32]] = {}

    def truth(self, name: str, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(H, W) alpha of one sample image."""
        if name not in self._truths:
            self._truths[name] = self._exact(image[None])[0]
        return self._truths[name]

    def rounding(self, name: str, image: NDArray[np.uint8], dtype: str) -> Tolerance:
        """How far the network itself is from its truth at a precision, times what a graph may be farther."""
        rounded = NetworkRunner(self.network, _DTYPES[dtype])(image[None])[0]
        return rounding_of(np.abs(rounded - self.truth(name, image)))


class SourceRunner(AlphaRunner, Protocol):
    """A graph that can also be given images whose normalisation was rounded differently."""

    def rounded(self, images: NDArray[np.uint8]) -> NDArray[np.float32]: ...


class GraphReference:
    """What another graph answers: the one that was adopted."""

    name = "source graph"

    def __init__(self, source: SourceRunner, size: tuple[int, int]) -> None:
        self.size = size
        self._source = source

    def truth(self, _: str, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(H, W) alpha of one image."""
        return self._source(image[None])[0]

    def rounding(self, name: str, image: NDArray[np.uint8], _: str) -> Tolerance:
        """How far the last digits of the normalised image alone carry, times what a graph may be farther."""
        return rounding_of(np.abs(self._source.rounded(image[None])[0] - self.truth(name, image)))


def compare(
    runner: AlphaRunner, reference: Answers, tolerance: Tolerance, dtype: str, report: Report
) -> tuple[InputParity, ...]:
    """Hold a graph against its reference on every sample image."""
    found = []
    for name, image in sample_inputs(reference.size):
        report(f"comparing on `{name}`")
        alpha, truth = runner(image[None])[0], reference.truth(name, image)
        difference = np.abs(alpha - truth)
        worst, mean = float(difference.max()), float(difference.mean())
        allowed = tolerance
        if not (worst <= tolerance.max_abs and mean <= tolerance.mean_abs):
            allowed = excused(tolerance, reference.rounding(name, image, dtype), MOST_ALLOWED[dtype])
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


def excused(tolerance: Tolerance, rounding: Tolerance, most: Tolerance) -> Tolerance:
    """A tolerance, or what rounding excuses where that is more, up to a limit."""
    return Tolerance(
        _between(tolerance.max_abs, rounding.max_abs, most.max_abs),
        _between(tolerance.mean_abs, rounding.mean_abs, most.mean_abs),
    )


def _between(tolerance: float, rounding: float, most: float) -> float:
    return min(max(tolerance, rounding), most) if math.isfinite(rounding) else tolerance


def rounding_of(difference: NDArray[np.floating]) -> Tolerance:
    """What a graph may be farther from the truth, where the network itself is off by `difference`."""
    return Tolerance(ROUNDING_FACTOR * float(difference.max()), ROUNDING_FACTOR * float(difference.mean()))


def _distinct_images(size: tuple[int, int], count: int) -> NDArray[np.uint8]:
    """One picture, moved round by a different distance in each, so that a mixed-up batch cannot pass."""
    picture = subject(*size)
    return np.stack([np.roll(picture, index * size[1] // count, axis=1) for index in range(count)])

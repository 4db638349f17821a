"""The proof of a graph: its self-test, its answers beside the network's, its batches beside their images."""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from artifact import Deviation, Io, SelfTest, Tolerance
from model_export.graph import signature
from model_export.parity import (
    MOST_ALLOWED,
    Answers,
    InputParity,
    ParityReport,
    Reference,
    Report,
    batch_deviation,
    compare,
    excused,
    rounding_of,
)
from model_export.runner import AlphaRunner, NetworkRunner, OnnxRunner, logistic, normalised
from model_export.sample_inputs import sample_inputs, subject
from model_export.stages import stage_errors, stage_table
from modeling.birefnet.network import SIZE_MULTIPLE, BiRefNet
from modeling.folding import fold

PROVEN_PIXELS = 512 * 512
"""Up to this working size the whole proof is cheap enough to belong to every export."""

SELF_TEST_TOLERANCE: Mapping[Io, Mapping[str, Tolerance]] = {
    "image": {"fp32": Tolerance(1e-3, 1e-4), "fp16": Tolerance(5e-3, 5e-4)},
    # Alpha changes by at most a quarter of what logits change by; in fp16 the error of a logit grows with its size.
    "tensor": {"fp32": Tolerance(4e-3, 4e-4), "fp16": Tolerance(2e-1, 2e-2)},
}
"""Wider than the parity's: other processors and kernels round differently, and a wrong plan is off by tenths."""

_MOST_IN_HALF: Mapping[Io, Tolerance] = {"image": MOST_ALLOWED["fp16"], "tensor": Tolerance(1.0, 1e-1)}

SELF_TEST_LEVELS = 1 << 15
"""Expected values are stored in steps of 3e-5: they compress, and the tolerance is thirty times that."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A graph that is to be proven.

    Attributes:
        runner: Runs it.
        size: (height, width) that it takes.
        batch: Images of the batch that is held against its images one by one.
        dtype: `fp32` or `fp16`.
        tolerance: Of alpha against the reference.
    """

    runner: AlphaRunner
    size: tuple[int, int]
    batch: int
    dtype: str
    tolerance: Tolerance


@dataclass(frozen=True, slots=True)
class Proof:
    """What was found out about one graph.

    Attributes:
        report: The figures.
        stages: Where the digits went, of a half-precision graph that is outside its tolerance on some image.
    """

    report: ParityReport
    stages: Mapping[str, float]

    @property
    def passed(self) -> bool:
        """Whether everything is within its tolerance."""
        return self.report.passed

    def table(self) -> str:
        """As lines of text for a person."""
        return "\n".join([self.report.table(), *([stage_table(self.stages)] if self.stages else [])])

    def to_mapping(self, versions: Mapping[str, str]) -> dict[str, Any]:
        """As JSON types, for the manifest."""
        stages = {"stages": dict(self.stages)} if self.stages else {}
        return {**self.report.to_mapping(versions), **stages}


def proof_size(size: tuple[int, int]) -> tuple[int, int]:
    """The size itself, or the largest of its shape that the proof is cheap at, in multiples of 32."""
    pixels = size[0] * size[1]
    if pixels <= PROVEN_PIXELS:
        return size
    scale = math.sqrt(PROVEN_PIXELS / pixels)
    height, width = (max(SIZE_MULTIPLE, int(side * scale) // SIZE_MULTIPLE * SIZE_MULTIPLE) for side in size)
    longest = PROVEN_PIXELS // min(height, width) // SIZE_MULTIPLE * SIZE_MULTIPLE  # for what is thinner than 32
    return min(height, longest), min(width, longest)


def make_self_test(network: BiRefNet, io: Io, size: tuple[int, int]) -> SelfTest:
    """An input and what the network answers to it in float64.

    Folded: that is exact, and takes half the memory at 1024x1024 (3 GiB, not 7, for Swin-T). The proof is not folded.
    """
    image = subject(*size)[None]
    folded = fold(copy.deepcopy(network).double())
    logits = NetworkRunner(folded, torch.float64).logits(image)
    taken, given = signature(io, size)
    if io == "image":
        return SelfTest({taken.name: image}, {given.name: in_steps(logistic(logits[:, 0]))}, SELF_TEST_TOLERANCE[io])
    tensor = normalised(image).astype(np.float32)
    return SelfTest({taken.name: tensor}, {given.name: in_steps(logits)}, SELF_TEST_TOLERANCE[io])


def with_rounding(self_test: SelfTest, network: BiRefNet, io: Io, size: tuple[int, int]) -> SelfTest:
    """A self-test that allows fp16 what the network's own rounding in fp16 excuses: a GPU may lose as much."""
    logits = NetworkRunner(network, torch.float16).logits(subject(*size)[None])
    (expected,) = self_test.expected.values()
    rounding = rounding_of(np.abs((logistic(logits[:, 0]) if io == "image" else logits) - expected.astype(np.float64)))
    allowed = excused(self_test.tolerance["fp16"], rounding, _MOST_IN_HALF[io])
    return replace(self_test, tolerance={**self_test.tolerance, "fp16": allowed})


def write_self_test(self_test: SelfTest, path: Path) -> None:
    """Write the file in the role `self_test`."""
    np.savez_compressed(path, **self_test.inputs, **self_test.expected)  # type: ignore[arg-type]


def run_self_test(self_test: SelfTest, runner: OnnxRunner, dtype: str) -> Deviation:
    """How far a graph is from the answer that is expected."""
    (array,), (name,) = self_test.inputs.values(), self_test.expected
    return self_test.compare({name: runner.run(array)}, dtype)


def prove(candidate: Candidate, reference: Answers | None, self_test: Deviation, report: Report) -> Proof:
    """Measure a graph; without a reference, only against itself."""
    inputs: tuple[InputParity, ...] = ()
    if reference is not None:
        inputs = compare(candidate.runner, reference, candidate.tolerance, candidate.dtype, report)
    report("comparing a batch with its images one by one")
    batch_max_abs, deterministic = batch_deviation(candidate.runner, candidate.size, candidate.batch)
    figures = ParityReport(
        size=candidate.size,
        self_test=self_test,
        reference="network" if reference is None else reference.name,
        inputs=inputs,
        batch=candidate.batch,
        batch_max_abs=batch_max_abs,
        deterministic=deterministic,
        tolerance=candidate.tolerance,
    )
    return Proof(figures, _stages(candidate, reference, figures, report))


def _stages(
    candidate: Candidate, reference: Answers | None, figures: ParityReport, report: Report
) -> Mapping[str, float]:
    limit = candidate.tolerance
    far = [
        parity
        for parity in figures.inputs
        if not (parity.max_abs <= limit.max_abs and parity.mean_abs <= limit.mean_abs)
    ]
    if candidate.dtype != "fp16" or not isinstance(reference, Reference) or not far:
        return {}
    worst = max(far, key=lambda parity: parity.mean_abs)
    report(f"measuring the stages in fp16 on `{worst.name}`")
    return stage_errors(reference.network, dict(sample_inputs(candidate.size))[worst.name])


def in_steps(values: np.ndarray) -> np.ndarray:
    """Expected values as a self-test stores them."""
    return np.rint(values * SELF_TEST_LEVELS).astype(np.float32) / np.float32(SELF_TEST_LEVELS)

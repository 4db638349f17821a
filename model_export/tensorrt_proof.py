"""Whether a plan computes what the canonical graph of its artifact computes, in figures."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from artifact import Deviation, Manifest, SelfTest, Tolerance
from model_export.errors import ExportError
from model_export.refiner.tiles import tile_inputs
from model_export.sample_inputs import sample_inputs, subject

Arrays = Mapping[str, NDArray[np.generic]]
Run = Callable[[Arrays], Arrays]
Report = Callable[[str], None]

_SHIFT = 8


@dataclass(frozen=True, slots=True)
class PlanProof:
    """What was found out about a plan.

    Attributes:
        self_test: The artifact's own test.
        inputs: By the name of the sample image, against the canonical graph.
        batches: By their size, the largest difference between a batch and its images one by one.
        tolerance: Of the batches, in their worst pixel.
    """

    self_test: Deviation
    inputs: Mapping[str, Deviation]
    batches: Mapping[int, float]
    tolerance: Tolerance

    @property
    def passed(self) -> bool:
        """Whether everything is within its tolerance; not-a-numbers are not."""
        near = all(deviation.passed for deviation in (self.self_test, *self.inputs.values()))
        return near and all(difference <= self.tolerance.max_abs for difference in self.batches.values())

    def table(self) -> str:
        """As lines of text for a person."""
        rows = {"self-test": self.self_test, **self.inputs}
        lines = [f"{name:<16}{_verdict(deviation.passed)}  {deviation}" for name, deviation in rows.items()]
        batches = [
            f"{f'batch of {size}':<16}{_verdict(difference <= self.tolerance.max_abs)}  max {difference:.2e} from its "
            f"images one by one (at most {self.tolerance.max_abs:.0e})"
            for size, difference in self.batches.items()
        ]
        return "\n".join([*lines, *batches])

    def to_mapping(self, versions: Mapping[str, str]) -> dict[str, Any]:
        """As JSON types, for the manifest."""
        return {
            "passed": self.passed,
            "tolerance": self.tolerance.to_mapping(),
            "canonical_graph": {
                "max_abs": float(np.max([deviation.max_abs for deviation in self.inputs.values()])),
                "mean_abs": float(np.max([deviation.mean_abs for deviation in self.inputs.values()])),
                "inputs": {
                    name: {
                        "max_abs": deviation.max_abs,
                        "mean_abs": deviation.mean_abs,
                        "allowed": deviation.tolerance.to_mapping(),
                    }
                    for name, deviation in self.inputs.items()
                },
            },
            "batches": {str(size): difference for size, difference in self.batches.items()},
            "self_test": {"max_abs": self.self_test.max_abs, "mean_abs": self.self_test.mean_abs},
            "versions": dict(versions),
        }


@dataclass(frozen=True, slots=True)
class PlanCandidate:
    """A plan that is to be proven.

    Attributes:
        run: Runs it.
        manifest: Of its artifact.
        graph_role: Of the graph that it was built from.
        batches: Sizes to try.
    """

    run: Run
    manifest: Manifest
    graph_role: str
    batches: Sequence[int]

    @property
    def precision(self) -> str:
        """`fp32` or `fp16`, as its graph."""
        return self.manifest.files[self.graph_role].precision or "fp16"

    @property
    def tolerance(self) -> Tolerance:
        """Of alpha, as the self-test has it: wider where the network itself loses more at this precision."""
        tolerance = self.manifest.self_test.get(self.precision)
        if tolerance is None:
            raise ExportError(f"expected a self-test tolerance for {self.precision} in the manifest, found none")
        return tolerance

    def allowed(self, name: str) -> Tolerance:
        """Of one sample image: what its graph was allowed in the export's own proof, where that is more."""
        own = self.tolerance
        proof: Any = self.manifest.parity.get(self.graph_role)
        try:
            given = Tolerance.parse(proof["network"]["inputs"][name]["allowed"], name)
        except (KeyError, TypeError, ValueError):  # not proven with it, or by another version
            return own
        return Tolerance(max(own.max_abs, given.max_abs), max(own.mean_abs, given.mean_abs))


def prove_plan(candidate: PlanCandidate, canonical: Run, self_test: SelfTest, report: Report) -> PlanProof:
    """Measure a plan against the canonical graph, and its batches against their images.

    Args:
        candidate: The plan.
        canonical: Runs the fp32 graph.
        self_test: Of the artifact.
        report: Told what is being done.
    """
    report("running the self-test")
    deviation = self_test.compare(candidate.run(self_test.inputs), candidate.precision)
    inputs = {}
    for name, image in sample_inputs(candidate.manifest.input_size):
        report(f"comparing with the canonical graph on `{name}`")
        arrays = inputs_of(candidate.manifest, image[None])
        inputs[name] = _deviation(candidate.run(arrays), canonical(arrays), candidate.allowed(name))
    report("comparing batches with their images one by one")
    batches = {size: _batch_difference(candidate, size) for size in sorted(set(candidate.batches))}
    return PlanProof(deviation, inputs, batches, candidate.tolerance)


def inputs_of(manifest: Manifest, images: NDArray[np.uint8]) -> Arrays:
    """What a model takes, made of images (B, H, W, 3) of its working size."""
    if manifest.kind != "refine":
        return {manifest.inputs[0].name: images}
    return tile_inputs(images, int(manifest.outputs[0].shape[1]))


def _batch_difference(candidate: PlanCandidate, size: int) -> float:
    images = np.stack(list(_shifted(candidate.manifest.input_size, size)))
    together = _alpha(candidate.run(inputs_of(candidate.manifest, images)))
    worst = 0.0
    for index in range(size):
        alone = _alpha(candidate.run(inputs_of(candidate.manifest, images[index : index + 1])))[0]
        worst = float(np.maximum(worst, np.abs(together[index] - alone).max()))  # lets NaN through
    return worst


def _shifted(size: tuple[int, int], count: int) -> Iterator[NDArray[np.uint8]]:
    yield from (subject(*size, shift=_SHIFT * index) for index in range(count))


def _deviation(found: Arrays, expected: Arrays, tolerance: Tolerance) -> Deviation:
    difference = np.abs(_alpha(found) - _alpha(expected))
    return Deviation(float(difference.max()), float(difference.mean()), tolerance)


def _alpha(outputs: Arrays) -> NDArray[np.float32]:
    (alpha,) = outputs.values()
    return alpha.astype(np.float32)


def _verdict(passed: bool) -> str:
    return "ok " if passed else "BAD"

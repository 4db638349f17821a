"""The self-test that every artifact carries: an input, the answer it must give, and how far off is too far.

The file in the role `self_test` is an npz archive with one array per input and output of the graph, batch axis of one.
"""

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from artifact.directory import Artifact, ArtifactError
from artifact.manifest import TensorSpec, Tolerance

SELF_TEST_ROLE = "self_test"


@dataclass(frozen=True, slots=True)
class Deviation:
    """How far an answer is from the expected one, and whether that is near enough."""

    max_abs: float
    mean_abs: float
    tolerance: Tolerance

    @property
    def passed(self) -> bool:
        """False also for an answer that is not a number."""
        return self.max_abs <= self.tolerance.max_abs and self.mean_abs <= self.tolerance.mean_abs

    def __str__(self) -> str:
        return (
            f"max {self.max_abs:.2e} (at most {self.tolerance.max_abs:.0e}), "
            f"mean {self.mean_abs:.2e} (at most {self.tolerance.mean_abs:.0e})"
        )


@dataclass(frozen=True, slots=True)
class SelfTest:
    """Inputs, expected outputs and the tolerance by precision."""

    inputs: Mapping[str, NDArray[np.generic]]
    expected: Mapping[str, NDArray[np.generic]]
    tolerance: Mapping[str, Tolerance]

    def compare(self, outputs: Mapping[str, NDArray[np.generic]], precision: str = "fp32") -> Deviation:
        """Hold a device's answer to `inputs` against the expected one.

        Raises:
            ArtifactError: An output is missing or misshapen, or the manifest has no tolerance for the precision.
        """
        tolerance = self.tolerance.get(precision)
        if tolerance is None:
            known = ", ".join(sorted(self.tolerance)) or "none"
            raise ArtifactError(f"self-test: expected a tolerance for the precision `{precision}`, found {known}")
        worst, means = 0.0, []
        for name, expected in self.expected.items():
            found = outputs.get(name)
            if found is None or found.shape != expected.shape:
                shape = "nothing" if found is None else str(found.shape)
                raise ArtifactError(f"self-test: expected output `{name}` of shape {expected.shape}, found {shape}")
            difference = np.abs(found.astype(np.float32) - expected.astype(np.float32))
            worst = float(np.maximum(worst, difference.max()))  # np.maximum, unlike max, lets NaN through
            means.append(float(difference.mean()))
        return Deviation(worst, float(np.max(means)), tolerance)


def load_self_test(artifact: Artifact) -> SelfTest:
    """Read an artifact's self-test.

    Raises:
        ArtifactError: There is none, or it does not fit the graph's inputs and outputs.
    """
    path = artifact.file(SELF_TEST_ROLE)
    manifest = artifact.manifest
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise ArtifactError(f"{path}: expected an npz archive, found {error}") from error
    inputs = {spec.name: _fitting(arrays, spec, str(path)) for spec in manifest.inputs}
    expected = {spec.name: _fitting(arrays, spec, str(path)) for spec in manifest.outputs}
    return SelfTest(inputs, expected, manifest.self_test)


def _fitting(arrays: Mapping[str, NDArray[np.generic]], spec: TensorSpec, path: str) -> NDArray[np.generic]:
    array = arrays.get(spec.name)
    wanted = f"`{spec.name}` {spec.dtype} {list(spec.shape)}"
    if array is None:
        raise ArtifactError(f"{path}: expected the array {wanted}, found {', '.join(sorted(arrays)) or 'none'}")
    fits = len(array.shape) == len(spec.shape) and all(
        isinstance(axis, str) or axis == length for axis, length in zip(spec.shape, array.shape, strict=True)
    )
    if not fits or array.dtype != np.dtype(spec.dtype):
        raise ArtifactError(f"{path}: expected the array {wanted}, found {array.dtype} {list(array.shape)}")
    return array

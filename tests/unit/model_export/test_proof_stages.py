"""The stages of a half-precision graph are measured whenever it is outside its tolerance, passed or not."""

import numpy as np
import pytest
from numpy.typing import NDArray

from artifact import Deviation, Tolerance
from model_export.parity import Reference
from model_export.proof import Candidate, prove
from tests.support.networks import tiny_network

SIZE = (64, 96)
TOLERANCE = Tolerance(5e-3, 5e-4)


class Off:
    """The network's own answer, off by so much."""

    def __init__(self, reference: Reference, error: float) -> None:
        self._reference = reference
        self._error = error

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        truths = [self._reference.truth(str(image.tobytes()), image) for image in images]
        return np.stack(truths) + np.float32(self._error)


@pytest.mark.parametrize(
    ("error", "dtype", "measured"), [(0.02, "fp16", True), (0.0, "fp16", False), (0.02, "fp32", False)]
)
def test_stages(error: float, dtype: str, measured: bool) -> None:
    reference = Reference(tiny_network(), SIZE)
    candidate = Candidate(Off(reference, error), SIZE, 1, dtype, TOLERANCE)
    proof = prove(candidate, reference, Deviation(0.0, 0.0, TOLERANCE), lambda _: None)
    assert bool(proof.stages) is measured
    assert ("relative error in fp16" in proof.table()) is measured
    assert ("stages" in proof.to_mapping({})) is measured
    assert proof.passed is (error == 0.0)

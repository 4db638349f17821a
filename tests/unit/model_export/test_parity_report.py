"""The proof's own logic, with runners that misbehave on purpose."""

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray

from artifact import Deviation, Tolerance
from model_export.parity import MOST_ALLOWED, InputParity, ParityReport, batch_deviation, compare
from model_export.sample_inputs import sample_inputs, subject

SELF_TEST = Deviation(1e-5, 1e-6, Tolerance(1e-3, 1e-4))
TOLERANCE = Tolerance(1e-4, 1e-5)


def on(name: str, max_abs: float, mean_abs: float = 1e-6, allowed: Tolerance = TOLERANCE) -> InputParity:
    return InputParity(name, max_abs, mean_abs, 1e-6, allowed)


GOOD = on("subject", 5e-5)


def report(
    *inputs: InputParity, self_test: Deviation = SELF_TEST, batch_max_abs: float = 0.0, deterministic: bool = True
) -> ParityReport:
    return ParityReport((64, 96), self_test, "network", inputs, 4, batch_max_abs, deterministic, TOLERANCE)


def honest(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    return images[..., 0].astype(np.float32) / np.float32(255)


def mixed_up(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    return honest(images[::-1])


def test_an_honest_runner_has_no_deviation() -> None:
    assert batch_deviation(honest, (64, 96), 4) == (0.0, True)


def test_a_mixed_up_batch_is_found() -> None:
    deviation, same = batch_deviation(mixed_up, (64, 96), 4)
    assert deviation > 0.1
    assert same


def test_a_random_runner_is_found() -> None:
    counter = itertools.count()
    _, same = batch_deviation(lambda images: honest(images) + np.float32(1e-7 * next(counter)), (64, 96), 2)
    assert not same


def test_a_graph_of_one_is_not_asked_for_more() -> None:
    def single(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        assert len(images) == 1
        return honest(images)

    assert batch_deviation(single, (64, 96), 1) == (0.0, True)


@pytest.mark.parametrize(
    ("found", "passed"),
    [
        (report(GOOD), True),
        (report(), True),
        (report(GOOD, on("noise", 2e-4)), False),
        (report(GOOD, on("noise", 5e-5, mean_abs=2e-5)), False),
        (report(on("noise", 2e-4, allowed=Tolerance(4e-4, 1e-5))), True),
        (report(on("noise", np.nan)), False),
        (report(on("noise", 0.0, mean_abs=np.nan)), False),
        (report(GOOD, batch_max_abs=1e-3), False),
        (report(GOOD, deterministic=False), False),
        (report(GOOD, self_test=Deviation(1e-2, 0, SELF_TEST.tolerance)), False),
    ],
)
def test_everything_must_be_within_tolerance(found: ParityReport, passed: bool) -> None:
    assert found.passed is passed
    assert found.to_mapping({})["passed"] is passed
    assert ("OUT OF TOLERANCE" in found.table()) is not passed


class Reference:
    """Its truth is the honest runner's; its rounding what it is told."""

    name, size = "network", (64, 96)

    def __init__(self, rounding: Tolerance) -> None:
        self._rounding = rounding

    def truth(self, _: str, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        return honest(image[None])[0]

    def rounding(self, _: str, __: NDArray[np.uint8], dtype: str) -> Tolerance:
        assert dtype == "fp32"
        return self._rounding


@pytest.mark.parametrize(
    ("rounding", "passed"),
    [(Tolerance(1e-3, 1e-3), True), (Tolerance(1.2e-4, 1.2e-4), False), (Tolerance(np.nan, np.nan), False)],
)
def test_rounding_of_the_network_itself_widens_the_tolerance(rounding: Tolerance, passed: bool) -> None:
    def off(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        return honest(images) + np.float32(1.5e-4)

    wide = Tolerance(1e-4, 1e-4)
    parities = compare(off, Reference(rounding), wide, "fp32", lambda _: None)
    assert {parity.passed for parity in parities} == {passed}
    within = compare(honest, Reference(rounding), TOLERANCE, "fp32", lambda _: None)
    assert {parity.allowed for parity in within} == {TOLERANCE}


def test_there_is_an_end_to_what_rounding_excuses() -> None:
    def far(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        return honest(images) + np.float32(0.03)

    parities = compare(far, Reference(Tolerance(1.0, 1.0)), TOLERANCE, "fp32", lambda _: None)
    assert {parity.allowed for parity in parities} == {MOST_ALLOWED["fp32"]}
    assert not any(parity.passed for parity in parities)


def test_sample_inputs_are_the_same_every_time() -> None:
    first, second = dict(sample_inputs((64, 96))), dict(sample_inputs((64, 96)))
    assert list(first) == list(second)
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert {image.shape for image in first.values()} == {(64, 96, 3)}
    assert np.array_equal(first["one pixel off"][:, 1:], subject(64, 96)[:, :-1])

"""The proof's own logic, with runners that misbehave on purpose."""

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray

from artifact import Deviation, Tolerance
from model_export.parity import InputParity, ParityReport, batch_deviation
from model_export.sample_inputs import sample_inputs, subject

SELF_TEST = Deviation(1e-5, 1e-6, Tolerance(1e-3, 1e-4))
GOOD = InputParity("subject", 5e-5, 1e-6, 1e-6, 1e-4)


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
    ("report", "passed"),
    [
        (ParityReport(SELF_TEST, (GOOD,), 4, 0.0, True, 1e-4), True),
        (ParityReport(SELF_TEST, (), 4, 0.0, True, 1e-4), True),
        (ParityReport(SELF_TEST, (GOOD, InputParity("noise", 2e-4, 1e-6, 1e-6, 1e-4)), 4, 0.0, True, 1e-4), False),
        (ParityReport(SELF_TEST, (InputParity("noise", 2e-4, 1e-6, 1e-6, 4e-4),), 4, 0.0, True, 1e-4), True),
        (ParityReport(SELF_TEST, (InputParity("noise", np.nan, 0, 0, 1e-4),), 4, 0.0, True, 1e-4), False),
        (ParityReport(SELF_TEST, (GOOD,), 4, 1e-3, True, 1e-4), False),
        (ParityReport(SELF_TEST, (GOOD,), 4, 0.0, False, 1e-4), False),
        (ParityReport(Deviation(1e-2, 0, SELF_TEST.tolerance), (GOOD,), 4, 0.0, True, 1e-4), False),
    ],
)
def test_everything_must_be_within_tolerance(report: ParityReport, passed: bool) -> None:
    assert report.passed is passed
    assert report.to_mapping({})["passed"] is passed
    assert ("OUT OF TOLERANCE" in report.table()) is not passed


def test_sample_inputs_are_the_same_every_time() -> None:
    first, second = dict(sample_inputs((64, 96))), dict(sample_inputs((64, 96)))
    assert list(first) == list(second)
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert {image.shape for image in first.values()} == {(64, 96, 3)}
    assert np.array_equal(first["one pixel off"][:, 1:], subject(64, 96)[:, :-1])

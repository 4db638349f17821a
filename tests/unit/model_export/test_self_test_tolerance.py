"""In fp16 a self-test allows what the network itself loses there, and no more than has an end."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import model_export.proof
from artifact import Io, Tolerance
from model_export.parity import MOST_ALLOWED, ROUNDING_FACTOR
from model_export.proof import SELF_TEST_TOLERANCE, make_self_test, with_rounding
from model_export.runner import NetworkRunner
from model_export.sample_inputs import subject
from tests.support.networks import tiny_network

SIZE = (64, 96)
STRICT = {"fp32": Tolerance(1e-9, 1e-9), "fp16": Tolerance(1e-9, 1e-9)}


@pytest.mark.parametrize("io", ["image", "tensor"])
def test_it_is_twice_what_the_network_loses(io: Io) -> None:
    network = tiny_network()
    found = with_rounding(replace(make_self_test(network, io, SIZE), tolerance=STRICT), network, io, SIZE)
    image = subject(*SIZE)[None]
    half, exact = NetworkRunner(network, torch.float16), NetworkRunner(network, torch.float64)
    difference = np.abs(half(image) - exact(image) if io == "image" else half.logits(image) - exact.logits(image))
    step = 2**-15  # expected values are stored in steps
    assert found.tolerance["fp16"].max_abs == pytest.approx(ROUNDING_FACTOR * difference.max(), abs=4 * step)
    assert found.tolerance["fp16"].mean_abs == pytest.approx(ROUNDING_FACTOR * difference.mean(), abs=4 * step)
    assert found.tolerance["fp16"].max_abs > 4 * step
    assert found.tolerance["fp32"] == STRICT["fp32"]


def test_it_is_never_narrower_than_it_was() -> None:
    network = tiny_network()
    found = with_rounding(make_self_test(network, "image", SIZE), network, "image", SIZE)
    wanted = SELF_TEST_TOLERANCE["image"]["fp16"]
    assert found.tolerance["fp16"].max_abs >= wanted.max_abs
    assert found.tolerance["fp16"].mean_abs >= wanted.mean_abs


class Lost:
    """A network that half precision ruins."""

    def __init__(self, *_: object) -> None:
        pass

    def logits(self, images: np.ndarray) -> np.ndarray:
        return np.full((len(images), 1, *SIZE), 50.0)


def test_it_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    network = tiny_network()
    self_test = make_self_test(network, "image", SIZE)
    monkeypatch.setattr(model_export.proof, "NetworkRunner", Lost)
    assert with_rounding(self_test, network, "image", SIZE).tolerance["fp16"] == MOST_ALLOWED["fp16"]

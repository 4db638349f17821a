"""The measurement of half precision rounds the part it says, and nothing else."""

import pytest
import torch

from benchmarks.half import PARTS, coordinates_in_half, measure, part_in_half, table
from modeling.folding import fold
from tests.support.networks import tiny_network
from tests.support.seeded import seeded_input


def test_a_part_is_rounded_and_nothing_else() -> None:
    network, x = fold(tiny_network()), seeded_input(1, 64, 96)
    with torch.no_grad():
        exact = network(x)
    assert torch.equal(part_in_half(network, x, lambda _: False), exact)
    for name, part in PARTS.items():
        assert any(part(module) for module, _ in network.named_modules()), name
        assert not torch.equal(part_in_half(network, x, part), exact), name
    with torch.no_grad():
        assert torch.equal(network(x), exact)


def test_rounded_coordinates_are_a_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small but there; and nothing without the rounding, so the positions are the operator's own."""
    network, x = fold(tiny_network()), seeded_input(1, 64, 96)
    with torch.no_grad():
        exact = network(x)
    difference = torch.abs(coordinates_in_half(network, x) - exact).max()
    assert 1e-5 < difference < 0.3
    monkeypatch.setattr(torch.Tensor, "half", lambda tensor: tensor)
    assert torch.abs(coordinates_in_half(network, x) - exact).max() < 1e-4


def test_the_table_says_where_a_number_is_none() -> None:
    figures = measure(fold(tiny_network()), seeded_input(1, 64, 96))
    figures["everything"] = {"max_abs": None, "mean_abs": None}
    lines = table({"networks": {"tiny": figures}}).splitlines()
    assert len(lines) == 2 + len(PARTS) + 3
    assert lines[-2] == "| everything | overflow |"

"""The detector reads the patch order off trained weights, and claims nothing about others."""

import re

import pytest
import torch
from torch import Tensor

from modeling.birefnet.config import COMPACT
from modeling.birefnet.network import BiRefNet
from modeling.patch_order import (
    TILES_PER_SIDE,
    PatchOrderEvidence,
    current_to_legacy,
    detect_patch_order,
    legacy_to_current,
)
from modeling.weights import read_state
from tests.support.networks import tiny_network
from tests.support.processes import ROOT
from tests.support.seeded import seeded

TRAINED = ROOT / "training" / "checkpoints" / "compact.safetensors"


@pytest.fixture(scope="module")
def trained() -> dict[str, Tensor]:
    """The embedded network: the current order by construction."""
    return {key: value for key, value in read_state(TRAINED).items() if "ipt_blk" in key}


def random_filters(seed: int, filters: int = 64) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        f"decoder.ipt_blk{level}.conv1.weight": torch.randn(filters, 3 * side * side, 3, 3, generator=generator)
        for level, side in TILES_PER_SIDE.items()
    }


def smooth(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Filters of neighbouring tiles alike, in the current layout, but those of one tile's colours independent."""
    kernel = torch.ones(1, 1, 3, 3)

    def blurred(weight: Tensor, side: int) -> Tensor:
        planes = weight.reshape(-1, 3, side, side, 9).movedim(-1, 2).reshape(-1, 1, side, side)
        planes = torch.nn.functional.conv2d(planes, kernel, padding=1)
        return planes.reshape(-1, 3, 9, side, side).movedim(2, -1).reshape(weight.shape)

    sides = zip(state.items(), TILES_PER_SIDE.values(), strict=True)
    return {key: blurred(weight, side) for (key, weight), side in sides}


def test_the_embedded_network_is_current(trained: dict[str, Tensor]) -> None:
    evidence = detect_patch_order(trained)
    assert evidence.decision == "current"
    assert evidence.current > 12
    assert evidence.legacy < 2


def test_and_permuted_it_is_legacy(trained: dict[str, Tensor]) -> None:
    evidence = detect_patch_order(current_to_legacy(trained))
    assert evidence.decision == "legacy"
    assert evidence.legacy > 12
    assert evidence.current < 2
    assert detect_patch_order(legacy_to_current(current_to_legacy(trained))) == detect_patch_order(trained)


@pytest.mark.parametrize("level", TILES_PER_SIDE)
def test_no_level_alone_is_wrong(trained: dict[str, Tensor], level: int) -> None:
    forwards, backwards = detect_patch_order(trained, [level]), detect_patch_order(current_to_legacy(trained), [level])
    assert forwards.decision in ({"current"} if level > 3 else {"current", "undecided"})
    assert backwards.decision in ({"legacy"} if level > 2 else {"legacy", "undecided"})
    assert forwards.levels[0].level == level


def test_half_precision_does_not_matter(trained: dict[str, Tensor]) -> None:
    halves = {key: value.half() for key, value in trained.items()}
    assert detect_patch_order(halves).current == pytest.approx(detect_patch_order(trained).current, abs=0.01)


@pytest.mark.parametrize("seed", range(20))
def test_random_weights_are_undecided_by_far(seed: int) -> None:
    evidence = detect_patch_order(random_filters(seed, 8 + seed))
    assert evidence.decision == "undecided"
    assert max(abs(evidence.current), abs(evidence.legacy)) < 4.5


def test_a_fresh_and_a_seeded_network_are_undecided() -> None:
    torch.manual_seed(3)
    for state in (BiRefNet(COMPACT).state_dict(), tiny_network().state_dict()):
        assert detect_patch_order(state).decision == "undecided"
    oracle = {key: seeded(key, tuple(value.shape)) for key, value in random_filters(0).items()}
    assert detect_patch_order(oracle).decision == "undecided"


def test_smoothness_among_tiles_is_not_taken_for_colour() -> None:
    """Where the legacy order would have a tile's colours are its neighbours here, and plain correlation is deceived."""
    state = smooth(random_filters(1))
    filters = state["decoder.ipt_blk5.conv1.weight"].transpose(0, 1).flatten(1)
    assert torch.corrcoef(filters[300:303])[0, 1] > 0.5
    assert detect_patch_order(state).decision == "undecided"
    assert detect_patch_order(current_to_legacy(state)).decision == "undecided"


def test_weights_that_learnt_both_orders_are_undecided(trained: dict[str, Tensor]) -> None:
    other = current_to_legacy(trained)
    mixed = {key: value + other[key] for key, value in trained.items()}
    assert detect_patch_order(mixed).decision == "undecided"


def test_the_statistic_is_said(trained: dict[str, Tensor]) -> None:
    said = str(detect_patch_order(trained))
    assert re.match(r"current: current \+\d\d\.\d, legacy ", said)
    assert all(f"ipt_blk{level} " in said for level in TILES_PER_SIDE)


def test_degenerate_filters_are_undecided() -> None:
    zeros = {key: torch.zeros_like(value) for key, value in random_filters(0).items()}
    assert detect_patch_order(zeros).decision == "undecided"
    assert detect_patch_order(random_filters(0, 1)).decision == "undecided"
    assert PatchOrderEvidence(detect_patch_order(zeros).levels).current == 0


def test_other_weights_are_refused() -> None:
    state = random_filters(0)
    key = "decoder.ipt_blk3.conv1.weight"
    for change in ({key: torch.zeros(4, 48, 3, 3)}, {key: torch.zeros(3)}):
        with pytest.raises(ValueError, match=r"ipt_blk3.conv1.weight with 192 input channels, found \("):
            detect_patch_order({**state, **change})
    del state[key]
    with pytest.raises(ValueError, match="found none"):
        legacy_to_current(state)

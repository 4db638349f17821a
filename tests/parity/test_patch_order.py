"""Weights of the legacy patch order, permuted, give in the network what they gave with the gather of their time."""

import pytest
import torch
from torch import Tensor

import modeling.birefnet.decoder
from modeling.birefnet.config import SWIN_T
from modeling.birefnet.network import BiRefNet
from modeling.patch_order import TILES_PER_SIDE, current_to_legacy, legacy_to_current
from tests.support.networks import seeded_network
from tests.support.seeded import seeded_input
from tests.support.tolerance import ORACLE_LOGITS


def legacy_gather(image: Tensor, size: tuple[int, int]) -> Tensor:
    """As the official code had it until November 2024: columns of tiles from the left, in each the tiles from the top,
    all three planes of a tile together."""
    tiles = [
        image[:, :, top : top + size[0], left : left + size[1]]
        for left in range(0, image.shape[3], size[1])
        for top in range(0, image.shape[2], size[0])
    ]
    return torch.cat(tiles, dim=1)


@pytest.fixture(scope="module")
def official() -> BiRefNet:
    """Swin-T with the oracle's weights."""
    return seeded_network(SWIN_T)


def logits(network: BiRefNet, image: Tensor) -> Tensor:
    with torch.no_grad():
        found: Tensor = network(image)
    return found


def test_permuted_weights_equal_the_old_gather(official: BiRefNet, monkeypatch: pytest.MonkeyPatch) -> None:
    image = seeded_input(2, 64, 96)
    unconverted = logits(official, image)
    with monkeypatch.context() as patched:
        patched.setattr(modeling.birefnet.decoder, "image_patches", legacy_gather)
        expected = logits(official, image)
    state = official.state_dict()
    converted = BiRefNet(SWIN_T).eval()
    converted.load_state_dict(legacy_to_current(state))
    assert (logits(converted, image) - expected).abs().max() <= ORACLE_LOGITS
    # Today's official code does not convert.
    assert (unconverted - expected).abs().max() > 1.0


def test_there_and_back_is_the_identity(official: BiRefNet) -> None:
    state = official.state_dict()
    changed = {f"decoder.ipt_blk{level}.conv1.weight" for level in TILES_PER_SIDE}
    for there, back in ((legacy_to_current, current_to_legacy), (current_to_legacy, legacy_to_current)):
        moved = there(state)
        assert {key for key, value in state.items() if not torch.equal(value, moved[key])} == changed
        assert all(torch.equal(value, state[key]) for key, value in back(moved).items())

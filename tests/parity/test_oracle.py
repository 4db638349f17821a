"""The network answers what the official code answers, for seeded weights that exercise every part."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from modeling.birefnet.config import SWIN_L, SWIN_T, BiRefNetConfig
from modeling.birefnet.network import BiRefNet
from modeling.birefnet.window_attention import relative_position_index
from modeling.weights import infer_config
from tests.support.networks import swin
from tests.support.seeded import seeded, seeded_input
from tests.support.tolerance import BATCH_LOGITS, ORACLE_LOGITS

ORACLE = Path(__file__).parents[1] / "data" / "oracle"
BACKBONES = {"swin_v1_t": SWIN_T, "swin_v1_l": SWIN_L}
CASES = sorted(path.name for path in ORACLE.glob("logits-*.safetensors"))


def official_keys(backbone: str) -> dict[str, tuple[tuple[int, ...], str]]:
    stored = json.loads((ORACLE / f"keys-{backbone}.json").read_text())
    return {key: (tuple(shape), dtype) for key, (shape, dtype) in stored.items()}


def seeded_state(backbone: str) -> dict[str, Tensor]:
    """The oracle's weights, made from the official key list alone; the position index it does not cover is computed."""
    index = relative_position_index(swin(BACKBONES[backbone]).window)
    keys = official_keys(backbone)
    return {
        key: index if key.endswith("relative_position_index") else seeded(key, shape)
        for key, (shape, _) in keys.items()
    }


@pytest.fixture(scope="module")
def network_of():
    """Seeded networks, one at a time in memory."""
    kept: dict[str, BiRefNet] = {}

    def network(backbone: str) -> BiRefNet:
        if backbone not in kept:
            kept.clear()
            # Initialising Swin-L takes longer than running it.
            with torch.device("meta"):
                kept[backbone] = BiRefNet(BACKBONES[backbone]).eval()
            kept[backbone].load_state_dict(seeded_state(backbone), assign=True)
        return kept[backbone]

    return network


def test_all_oracle_files_are_here():
    assert len(CASES) == 5
    assert {name.split("-")[1] for name in CASES} == set(BACKBONES)


@pytest.mark.parametrize("case", CASES)
def test_logits_equal_the_official_ones(case: str, network_of):
    backbone, height, width, batch = re.findall(r"swin_v1_\w|\d+", case.removesuffix(".safetensors"))
    expected = load_file(ORACLE / case)["logits"]
    with torch.no_grad():
        found = network_of(backbone)(seeded_input(int(batch), int(height), int(width)))
    assert found.shape == expected.shape
    assert expected.std() > 0.5  # an oracle of near-constant logits would prove nothing
    assert (found - expected).abs().max() <= ORACLE_LOGITS


def test_batch_equals_singles(network_of):
    images = torch.cat([seeded_input(2, 64, 96), seeded_input(1, 64, 96).flip(3)])
    with torch.no_grad():
        together = network_of("swin_v1_t")(images)
        apart = torch.cat([network_of("swin_v1_t")(image[None]) for image in images])
    assert (together - apart).abs().max() <= BATCH_LOGITS


@pytest.mark.parametrize("backbone", BACKBONES)
def test_keys_shapes_and_types_are_the_official_ones(backbone: str):
    with torch.device("meta"):
        network = BiRefNet(BACKBONES[backbone])
    found = {key: (tuple(value.shape), str(value.dtype)) for key, value in network.state_dict().items()}
    assert found == official_keys(backbone)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_configuration_is_read_off_the_official_shapes(backbone: str):
    state = {key: torch.empty(shape, device="meta") for key, (shape, _) in official_keys(backbone).items()}
    config: BiRefNetConfig = infer_config(state)
    assert config == BACKBONES[backbone]

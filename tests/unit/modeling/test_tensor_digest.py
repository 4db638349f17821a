"""The digest names the weights: what a copy may change without changing it, and what it may not."""

import hashlib
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from modeling.patch_order import current_to_legacy
from modeling.tensor_digest import tensor_digest
from modeling.weights import MAY_BE_ABSENT, load_network, read_state
from tests.support.networks import tiny_checkpoint, tiny_network


@pytest.fixture
def state() -> dict[str, Tensor]:
    return tiny_network().state_dict()


def test_copies_of_the_same_weights_have_one_digest(state: dict[str, Tensor], tmp_path: Path) -> None:
    expected = tensor_digest(state)
    halves = {
        f"module._orig_mod.{key}": value.half() if value.is_floating_point() else value
        for key, value in reversed(state.items())
        if not MAY_BE_ABSENT.search(key)
    }
    torch.save(halves, tmp_path / "halves.pth")
    save_file(halves, tmp_path / "halves.safetensors")
    original = tiny_checkpoint(tmp_path)
    for path in (original, tmp_path / "halves.pth", tmp_path / "halves.safetensors"):
        assert tensor_digest(read_state(path)) == expected
    # What a file lacks is filled in on loading, and not digested.
    assert tensor_digest(load_network(tmp_path / "halves.pth").state_dict()) == expected


def test_other_weights_have_another(state: dict[str, Tensor]) -> None:
    key = "decoder.ipt_blk5.conv1.weight"
    changed = state[key].clone()
    changed[0, 0, 0, 0] += 0.01
    others = (
        {**state, key: changed},
        {**state, key: state[key].transpose(0, 1).contiguous()},
        {**state, key: state[key].bfloat16()},
        {name: value for name, value in state.items() if name != key},
        current_to_legacy(state),
    )
    digests = {tensor_digest(other) for other in (state, *others)}
    assert len(digests) == 1 + len(others)


def test_the_definition() -> None:
    """Digests are written into manifests and registries: a change of definition needs a new version line."""
    state = {
        "b.weight": torch.tensor([[1.0, -2.0]]),
        "a.bias": torch.tensor([0.1]),
        "a.num_batches_tracked": torch.tensor(3),
    }
    digested = (
        b"birefnet tensors 1\n",
        b"a.bias (1,)\n" + struct.pack("<e", 0.1),
        b"b.weight (1, 2)\n" + struct.pack("<2e", 1.0, -2.0),
    )
    assert tensor_digest(state) == hashlib.sha256(b"".join(digested)).hexdigest()

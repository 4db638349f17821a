"""What is concluded from a checkpoint: which one it is, in which patch order, of which size and licence."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from model_export.checkpoint import CheckpointOptions, Claim, load_reference, resolve_checkpoint, settle_patch_order
from model_export.errors import PatchOrderError, SourceError
from model_export.registry import KnownCheckpoint
from modeling.patch_order import LevelEvidence, PatchOrderEvidence, current_to_legacy
from modeling.tensor_digest import tensor_digest
from modeling.weights import load_network, read_state, save_state
from tests.support.networks import tiny_checkpoint
from tests.support.processes import ROOT

TRAINED = ROOT / "training" / "checkpoints" / "compact.safetensors"
COMPACT_NAME = "swin_v1_e32d2-2-4-2w8"
ROW = KnownCheckpoint("someone/compact", COMPACT_NAME, (384, 320), "current", task="matting", licence="CC-BY-NC-4.0")


class Said(list[str]):
    """A report, kept."""

    def __call__(self, message: str) -> None:
        self.append(message)

    @property
    def warnings(self) -> list[str]:
        return [message for message in self if message.startswith("WARNING")]


def copy_of(state: dict[str, Tensor], path: Path) -> str:
    """An fp16 `.pth` of a state, keys as a wrapper leaves them."""
    halves = {f"module.{key}": value.half() if value.is_floating_point() else value for key, value in state.items()}
    torch.save(halves, path)
    return str(path)


@pytest.fixture(scope="module")
def trained() -> dict[str, Tensor]:
    return read_state(TRAINED)


@pytest.fixture
def renamed(trained: dict[str, Tensor], tmp_path: Path) -> str:
    return copy_of(trained, tmp_path / "some_name.pth")


def test_a_renamed_copy_in_another_format_is_recognised(renamed: str, trained: dict[str, Tensor]) -> None:
    row = replace(ROW, tensor_sha256=frozenset({tensor_digest(trained)}))
    said = Said()
    found = resolve_checkpoint(renamed, CheckpointOptions(), said, [row])
    assert found.row == row
    assert (found.size, found.licence, found.patch_order) == ((384, 320), "CC-BY-NC-4.0", "current")
    assert found.name == "some_name"
    assert found.origin["recognised_as"] == "someone/compact"
    assert found.origin["task"] == "matting"
    assert found.origin["tensor_sha256"] == found.tensor_sha256 == tensor_digest(trained)
    assert any("working size 384x320, native to someone/compact" in message for message in said)
    assert any(f"tensor SHA-256 {found.tensor_sha256}: recognised as someone/compact" in message for message in said)
    assert len(said.warnings) == 1
    assert "CC-BY-NC-4.0 does not allow commercial use" in said.warnings[0]


def test_a_known_file_is_recognised_by_its_own_digest(renamed: str) -> None:
    unknown = resolve_checkpoint(renamed, CheckpointOptions(patch_order="current"), Said(), [])
    row = replace(ROW, sha256=frozenset({unknown.sha256}))
    assert resolve_checkpoint(renamed, CheckpointOptions(), Said(), [row]).row == row
    assert (unknown.row, unknown.size, unknown.licence) == (None, (1024, 1024), "unspecified")


def test_what_the_user_says_comes_first_but_the_known_licence_still_warns(
    renamed: str, trained: dict[str, Tensor]
) -> None:
    row = replace(ROW, tensor_sha256=frozenset({tensor_digest(trained)}))
    said = Said()
    options = CheckpointOptions(licence="bought", size=(64, 96))
    found = resolve_checkpoint(renamed, options, said, [row])
    assert (found.size, found.licence) == ((64, 96), "bought")
    assert "CC-BY-NC-4.0 does not allow commercial use" in said.warnings[0]


def test_a_legacy_file_is_converted(trained: dict[str, Tensor], tmp_path: Path) -> None:
    source = copy_of(current_to_legacy(trained), tmp_path / "old.pth")
    found = resolve_checkpoint(source, CheckpointOptions(patch_order="legacy"), Said(), [])
    assert found.patch_order == "legacy"
    assert found.tensor_sha256 == tensor_digest(current_to_legacy(trained))
    assert tensor_digest(found.network.state_dict()) == tensor_digest(trained)
    assert tensor_digest(load_reference(source, "legacy", Said()).state_dict()) == tensor_digest(trained)
    assert tensor_digest(load_reference(source, "current", Said()).state_dict()) == found.tensor_sha256


def test_registry_and_weights_must_agree(trained: dict[str, Tensor], tmp_path: Path) -> None:
    state = current_to_legacy(trained)
    source = copy_of(state, tmp_path / "old.pth")
    row = replace(ROW, tensor_sha256=frozenset({tensor_digest(state)}), certainty="inferred")
    with pytest.raises(
        PatchOrderError,
        match=r"patch order current \(the registry on someone/compact, inferred\), found legacy: .*--patch",
    ):
        resolve_checkpoint(source, CheckpointOptions(), Said(), [row])
    found = resolve_checkpoint(source, CheckpointOptions(patch_order="legacy"), Said(), [row])
    assert tensor_digest(found.network.state_dict()) == tensor_digest(trained)


def test_an_unknown_file_of_undecided_weights_must_be_told(tmp_path: Path) -> None:
    state = read_state(TRAINED)
    torch.manual_seed(0)
    for key in [key for key in state if "ipt_blk" in key]:
        state[key] = torch.randn_like(state[key])
    source = copy_of(state, tmp_path / "random.pth")
    with pytest.raises(PatchOrderError, match=r"found undecided: current .* standard errors.*ipt_blk2.*--patch-order"):
        resolve_checkpoint(source, CheckpointOptions(), Said(), [])
    said = Said()
    assert resolve_checkpoint(source, CheckpointOptions(patch_order="legacy"), said, []).patch_order == "legacy"
    assert said.warnings == []


def test_our_own_checkpoints_are_current_whatever_their_weights_show(tmp_path: Path) -> None:
    said = Said()
    found = resolve_checkpoint(str(tiny_checkpoint(tmp_path)), CheckpointOptions(), said, [])
    assert found.patch_order == "current"
    assert any("patch order current: written by this software" in message for message in said)


def test_but_not_against_what_their_weights_show(tmp_path: Path) -> None:
    network = load_network(TRAINED)
    network.load_state_dict(current_to_legacy(network.state_dict()))
    save_state(network, tmp_path / "loaded_unconverted.safetensors")
    with pytest.raises(PatchOrderError, match="written by this software"):
        resolve_checkpoint(str(tmp_path / "loaded_unconverted.safetensors"), CheckpointOptions(), Said(), [])


def test_another_backbone_than_the_registrys_is_another_checkpoint(renamed: str, trained: dict[str, Tensor]) -> None:
    row = replace(ROW, backbone="swin_v1_l", tensor_sha256=frozenset({tensor_digest(trained)}))
    with pytest.raises(SourceError, match=f"expected a swin_v1_l, which someone/compact is, found a {COMPACT_NAME}"):
        resolve_checkpoint(renamed, CheckpointOptions(), Said(), [row])


def evidence(current: float, legacy: float) -> PatchOrderEvidence:
    return PatchOrderEvidence((LevelEvidence(5, current / 40, legacy / 40, current, legacy),))


CURRENT, LEGACY, UNDECIDED = evidence(20, 1), evidence(-1, 20), evidence(2, 3)
CLAIM = Claim("legacy", "the registry")


@pytest.mark.parametrize(
    ("told", "claim", "found", "order", "warning"),
    [
        (None, CLAIM, LEGACY, "legacy", None),
        (None, replace(CLAIM, constructed=True), UNDECIDED, "legacy", None),
        ("current", None, UNDECIDED, "current", None),
        ("current", None, CURRENT, "current", None),
        ("current", None, LEGACY, "current", "the weights speak against it: legacy"),
        ("current", CLAIM, LEGACY, "current", "the weights speak against it: legacy"),
        ("current", CLAIM, UNDECIDED, "current", "the registry says legacy"),
        ("legacy", CLAIM, UNDECIDED, "legacy", None),
    ],
)
def test_the_rule(told, claim, found, order, warning) -> None:
    said = Said()
    assert settle_patch_order(told, claim, found, said) == order
    assert [warning in message for message in said.warnings] == ([] if warning is None else [True])


@pytest.mark.parametrize(("claim", "found"), [(None, UNDECIDED), (None, CURRENT), (CLAIM, UNDECIDED), (CLAIM, CURRENT)])
def test_the_rule_refuses(claim, found) -> None:
    with pytest.raises(PatchOrderError, match=r"ipt_blk5 .* --patch-order legacy"):
        settle_patch_order(None, claim, found, Said())

"""A Hugging Face id as SOURCE: recognised by its name, checked against its weights, verified with its own network."""

from dataclasses import replace
from pathlib import Path

import pytest

from model_export.checkpoint import CheckpointOptions, load_reference, resolve_checkpoint
from model_export.errors import SourceError
from model_export.hub import Hub
from model_export.registry import KnownCheckpoint
from modeling.tensor_digest import tensor_digest
from tests.support.hub import COMMIT, StubRepository, stub_hub
from tests.support.processes import ROOT

TRAINED = ROOT / "training" / "checkpoints" / "compact.safetensors"
ROW = KnownCheckpoint("Someone/Compact", "swin_v1_e32d2-2-4-2w8", (384, 320), "current", licence="MIT")


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """What is reported, while the embedded network's weights are on the hub as `someone/compact`."""
    files = {"model.safetensors": TRAINED.read_bytes()}
    with stub_hub(someone__compact=StubRepository(files, licence="cc-by-nc-4.0")) as stub:
        hub = Hub(stub.url, tmp_path / "cache", token=False)
        monkeypatch.setattr(Hub, "from_environment", lambda: hub)
        yield []


def test_a_known_id(said: list[str]) -> None:
    found = resolve_checkpoint(f"someone/compact@{COMMIT}", CheckpointOptions(), said.append, [ROW])
    assert found.row == ROW
    assert (found.name, found.size, found.licence, found.patch_order) == ("compact", (384, 320), "MIT", "current")
    assert any("WARNING: cc-by-nc-4.0 does not allow" in message for message in said)  # the card contradicts the row
    assert found.origin["recognised_as"] == "Someone/Compact"
    assert found.origin["hub"] == {
        "id": "someone/compact",
        "revision": COMMIT,
        "commit": COMMIT,
        "file": "model.safetensors",
    }
    reference = load_reference("someone/compact", "current", said.append)
    assert tensor_digest(reference.state_dict()) == found.tensor_sha256


def test_an_unknown_id_has_the_licence_of_its_card(said: list[str]) -> None:
    found = resolve_checkpoint("someone/compact", CheckpointOptions(patch_order="current"), said.append, [])
    assert (found.row, found.licence, found.size) == (None, "cc-by-nc-4.0", (1024, 1024))


def test_an_id_whose_weights_are_another_network(said: list[str]) -> None:
    with pytest.raises(SourceError, match="expected a swin_v1_l, which Someone/Compact is, found a swin_v1_e32"):
        resolve_checkpoint("someone/compact", CheckpointOptions(), said.append, [replace(ROW, backbone="swin_v1_l")])

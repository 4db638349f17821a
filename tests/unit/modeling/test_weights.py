"""The loader: what it reads, what it repairs, what it refuses and how it says so."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from modeling.birefnet.config import COMPACT, SWIN_B, SWIN_S, BiRefNetConfig, SwinConfig
from modeling.birefnet.network import BiRefNet
from modeling.weights import (
    WeightsError,
    infer_config,
    load_network,
    load_state,
    read_metadata,
    read_state,
    save_state,
)
from tests.support.networks import TINY_RESNET, seeded_network, swin

TINY = BiRefNetConfig(
    SwinConfig(embed_dim=8, depths=(1, 2, 1, 1), heads=(1, 2, 2, 4), window=4, mlp_ratio=2),
    inter_channels=8,
    aspp_channels=8,
    aspp_kernels=(1, 3),
    gradient_channels=4,
    patch_inner_channels=4,
)
DEAD = [
    f"decoder.{head}_{level}{tail}.{kind}"
    for head, tail in (("conv_ms_spvn", ""), ("gdt_convs_pred", ".0"))
    for level in (4, 3, 2)
    for kind in ("weight", "bias")
]


@pytest.fixture
def network() -> BiRefNet:
    torch.manual_seed(1)
    network = BiRefNet(TINY).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return network


@pytest.fixture
def state(network: BiRefNet) -> dict[str, Tensor]:
    return dict(network.state_dict())


def same(first: BiRefNet, second: BiRefNet) -> bool:
    one, other = first.state_dict(), second.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def halves(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value.half() if value.is_floating_point() else value for key, value in state.items()}


def test_what_is_saved_loads_back_whole(tmp_path: Path, network: BiRefNet):
    save_state(network, tmp_path / "net.safetensors", {"step": "12"})
    loaded = load_network(tmp_path / "net.safetensors")
    assert loaded.config == TINY
    assert not loaded.training
    assert same(loaded, network)
    assert read_metadata(tmp_path / "net.safetensors")["step"] == "12"
    image = torch.randn(1, 3, 64, 32)
    with torch.no_grad():
        assert torch.equal(loaded(image), network(image))


def test_a_loaded_network_trains(tmp_path: Path, network: BiRefNet):
    save_state(network, tmp_path / "net.safetensors")
    loaded = load_network(tmp_path / "net.safetensors").train()
    loaded(torch.randn(2, 3, 64, 64)).logits.sum().backward()
    assert loaded.bb.get_parameter("patch_embed.proj.weight").grad is not None


def test_saving_replaces_the_file_whole(tmp_path: Path, network: BiRefNet):
    path = tmp_path / "net.safetensors"
    path.write_bytes(b"old")
    save_state(network, path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["net.safetensors"]
    assert same(load_network(path), network)


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, network: BiRefNet, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "net.safetensors"
    path.write_bytes(b"old")

    def full_disk(*_: object, **__: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("modeling.weights.save_file", full_disk)
    with pytest.raises(OSError, match="no space"):
        save_state(network, path)
    assert [(entry.name, entry.read_bytes()) for entry in tmp_path.iterdir()] == [("net.safetensors", b"old")]


def test_a_residual_backbone_is_told_by_its_shapes(tmp_path: Path):
    network = seeded_network(TINY_RESNET)
    assert infer_config(network.state_dict()) == TINY_RESNET
    save_state(network, tmp_path / "net.safetensors")
    assert same(load_network(tmp_path / "net.safetensors"), network)


def test_saving_refuses_other_formats_and_a_stolen_key(tmp_path: Path, network: BiRefNet):
    with pytest.raises(ValueError, match=r"\.safetensors, found net\.pth"):
        save_state(network, tmp_path / "net.pth")
    with pytest.raises(ValueError, match="birefnet_config"):
        save_state(network, tmp_path / "net.safetensors", {"birefnet_config": "mine"})


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.module."])
def test_wrappers_and_half_precision(tmp_path: Path, state: dict[str, Tensor], suffix: str, prefix: str):
    path = tmp_path / f"net{suffix}"
    wrapped = {prefix + key: value for key, value in halves(state).items()}
    if suffix == ".pth":
        torch.save(wrapped, path)
    else:
        save_file(wrapped, path)
    loaded = load_network(path)
    assert swin(loaded.config).embed_dim == 8
    for key, value in loaded.state_dict().items():
        assert value.dtype == state[key].dtype
        torch.testing.assert_close(value, state[key], rtol=1e-3, atol=1e-6)
    assert read_metadata(path) == {}


def test_a_key_under_two_prefixes_is_refused(tmp_path: Path, state: dict[str, Tensor]):
    torch.save({**state, "module.bb.norm0.bias": state["bb.norm0.bias"]}, tmp_path / "net.pth")
    with pytest.raises(WeightsError, match=r"bb\.norm0\.bias is there twice"):
        read_state(tmp_path / "net.pth")


def test_every_wrong_key_is_named(network: BiRefNet, state: dict[str, Tensor]):
    before = {key: value.clone() for key, value in state.items()}
    wrong = {key: torch.zeros_like(value) for key, value in state.items()}
    del wrong["decoder.conv_out1.0.bias"], wrong["bb.norm3.weight"]
    wrong["refiner.weight"] = torch.zeros(2, 3)
    wrong["bb.norm0.bias"] = torch.zeros(3)
    with pytest.raises(WeightsError) as caught:
        load_state(network, wrong)
    message = str(caught.value)
    assert "4 keys do not fit" in message
    assert "missing decoder.conv_out1.0.bias (1)" in message
    assert "missing bb.norm3.weight (64)" in message
    assert "unknown refiner.weight (2, 3)" in message
    assert "misshapen bb.norm0.bias: expected (8), found (3)" in message
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_only_dead_and_recomputable_keys_may_be_absent(network: BiRefNet, state: dict[str, Tensor]):
    allowed = [key for key in state if key.endswith(("relative_position_index", "num_batches_tracked"))] + DEAD
    load_state(network, {key: value for key, value in state.items() if key not in allowed})
    for key in sorted(set(state) - set(allowed)):
        with pytest.raises(WeightsError, match="1 keys do not fit"):
            load_state(network, {other: value for other, value in state.items() if other != key})


def test_absent_keys_do_not_change_the_answer(tmp_path: Path, network: BiRefNet, state: dict[str, Tensor]):
    dropped = (*DEAD, "relative_position_index", "num_batches_tracked")
    save_file({key: value for key, value in state.items() if not key.endswith(dropped)}, tmp_path / "net.safetensors")
    loaded = load_network(tmp_path / "net.safetensors")
    image = torch.randn(1, 3, 64, 32)
    with torch.no_grad():
        assert torch.equal(loaded(image), network(image))
    assert loaded.state_dict().keys() == state.keys()


def test_a_position_index_of_another_order_is_refused(network: BiRefNet, state: dict[str, Tensor]):
    key = "bb.layers.0.blocks.0.attn.relative_position_index"
    with pytest.raises(WeightsError, match=r"positions unlike the network in bb\.layers\.0"):
        load_state(network, {**state, key: state[key].t().contiguous()})


@pytest.mark.parametrize(
    "config",
    [
        TINY,
        SWIN_S,
        SWIN_B,
        dataclasses.replace(COMPACT, aspp_dropout=0.5, auxiliary_classes=11),
        dataclasses.replace(TINY, aspp_kernels=(1, 3, 5, 7, 9)),
        dataclasses.replace(TINY, aspp_kernels=()),
    ],
)
def test_configuration_is_inferred_from_shapes(config: BiRefNetConfig):
    with torch.device("meta"):
        state = BiRefNet(config).state_dict()
    trained_alike = dataclasses.replace(
        config,
        backbone=dataclasses.replace(swin(config), drop_path_rate=0.2),
        aspp_dropout=0.5,
    )
    assert infer_config(state) == trained_alike


def test_the_old_architecture_is_refused(state: dict[str, Tensor]):
    old = {key: value for key, value in state.items() if "ipt_blk5" not in key and "gdt_convs_4" not in key}
    with pytest.raises(WeightsError, match="before May 2024"):
        infer_config(old)


def test_other_networks_are_refused(state: dict[str, Tensor]):
    with pytest.raises(WeightsError, match=r"not a BiRefNet checkpoint.*found conv1\.weight, fc\.bias"):
        infer_config({"conv1.weight": torch.zeros(1), "fc.bias": torch.zeros(1)})
    with pytest.raises(WeightsError, match="no tensors"):
        infer_config({})
    table = "bb.layers.0.blocks.0.attn.relative_position_bias_table"
    with pytest.raises(WeightsError, match=r"\(2 window - 1\)\^2 rows, found 50"):
        infer_config({**state, table: torch.zeros(50, 1)})
    with pytest.raises(WeightsError, match=r"bb\.patch_embed\.proj\.weight is missing"):
        infer_config({key: value for key, value in state.items() if "patch_embed" not in key})
    with pytest.raises(WeightsError, match="cannot be split"):
        infer_config({**state, table: torch.zeros(49, 3)})


def test_files_that_are_no_checkpoints(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="no checkpoint at"):
        load_network(tmp_path / "absent.pth")
    for name, content, message in (
        ("a.safetensors", b"\x10\x00\x00", "not a readable safetensors file"),
        ("b.pth", b"not a zip", "not a torch file of nothing but tensors"),
        ("c.pth", b"", "not a torch file of nothing but tensors"),
        ("d.onnx", b"", r"a \.safetensors or a \.pth file, found \.onnx"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(WeightsError, match=message) as caught:
            load_network(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)


def test_a_truncated_checkpoint_is_refused(tmp_path: Path, network: BiRefNet, state: dict[str, Tensor]):
    save_state(network, tmp_path / "net.safetensors")
    torch.save(state, tmp_path / "net.pth")
    for path in (tmp_path / "net.safetensors", tmp_path / "net.pth"):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(WeightsError, match="not a"):
            load_network(path)


def test_pickled_code_is_never_run(tmp_path: Path):
    ran = tmp_path / "ran"

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (ran,)  # type: ignore[return-value]

    torch.save({"bb.norm0.bias": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(WeightsError, match="nothing but tensors"):
        load_network(tmp_path / "evil.pth")
    assert not ran.exists()


def test_a_training_checkpoint_is_no_state_dict(tmp_path: Path, state: dict[str, Tensor]):
    torch.save({"model": state, "epoch": 3}, tmp_path / "run.pth")
    with pytest.raises(WeightsError, match="flat table of tensors by key, found a table whose entries model, epoch"):
        load_network(tmp_path / "run.pth")
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    with pytest.raises(WeightsError, match="found a list"):
        load_network(tmp_path / "list.pth")


def test_a_stored_configuration_that_is_none_is_refused(tmp_path: Path, state: dict[str, Tensor]):
    for stored in ("{", "[]", json.dumps({"backbone": {"width": 3}})):
        save_file(state, tmp_path / "net.safetensors", metadata={"birefnet_config": stored})
        with pytest.raises(WeightsError, match="stored configuration is not one"):
            load_network(tmp_path / "net.safetensors")

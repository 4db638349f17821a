"""Folded networks answer what unfolded ones answer, up to rounding."""

import pytest
import torch
from torch import nn

from modeling.birefnet.blocks import resize
from modeling.birefnet.config import COMPACT, BiRefNetConfig
from modeling.birefnet.network import BiRefNet
from modeling.folding import (
    fix_attention_constants,
    fold,
    fold_batch_norms,
    fold_image_patches,
    fold_pooled_branch,
    fold_tail,
    lower_laterals,
    merge_sampling_convolutions,
    sum_branches,
)
from modeling.folding.laterals import Size, up_and_down
from tests.support.networks import TINY, TINY_RESNET, seeded_network
from tests.support.seeded import seeded_input
from tests.support.tolerance import FOLDED_LOGITS_FP64


@pytest.fixture(scope="module", params=[TINY, COMPACT], ids=["tiny", "compact"])
def network(request: pytest.FixtureRequest) -> BiRefNet:
    config: BiRefNetConfig = request.param
    return seeded_network(config).double()


def logits(network: BiRefNet, height: int = 64, width: int = 96) -> torch.Tensor:
    """In float64, so that what is left of a difference is algebra, not rounding."""
    with torch.inference_mode():
        result: torch.Tensor = network(seeded_input(2, height, width).double())
    return result


@pytest.mark.parametrize(
    "rewrite",
    [
        fold_batch_norms,
        lambda network: fold_tail(fold_batch_norms(network)),
        lambda network: fold_image_patches(fold_tail(fold_batch_norms(network))),
        lower_laterals,
        lambda network: fold_pooled_branch(fold_batch_norms(network)),
        lambda network: sum_branches(fold_pooled_branch(fold_batch_norms(network))),
        merge_sampling_convolutions,
        fix_attention_constants,
        fold,
    ],
    ids=[
        "batch norms",
        "tail",
        "image patches",
        "laterals",
        "pooled branch",
        "summed branches",
        "sampling",
        "attention",
        "all",
    ],
)
@pytest.mark.parametrize("size", [(64, 96), (32, 32), (160, 128)])
def test_a_rewrite_is_exact(network: BiRefNet, rewrite, size: tuple[int, int]) -> None:
    before = logits(network, *size)
    assert before.std() > 0.1
    assert torch.abs(logits(rewrite(network), *size) - before).max() < FOLDED_LOGITS_FP64


@pytest.mark.parametrize("rewrite", [fold_batch_norms, fold], ids=["batch norms", "all"])
@pytest.mark.parametrize("size", [(64, 96), (160, 128)])
def test_a_rewrite_is_exact_behind_a_residual_backbone(rewrite, size: tuple[int, int]) -> None:
    network = seeded_network(TINY_RESNET).double()
    before, folded = logits(network, *size), rewrite(network)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    assert torch.abs(logits(folded, *size) - before).max() < FOLDED_LOGITS_FP64


def test_the_given_network_is_left_alone(network: BiRefNet) -> None:
    keys, before = list(network.state_dict()), logits(network)
    fold(network)
    assert list(network.state_dict()) == keys
    assert torch.equal(logits(network), before)


def test_unchanged_tensors_are_shared(network: BiRefNet) -> None:
    folded = fold(network)
    weight = "patch_embed.proj.weight"
    assert folded.bb.get_parameter(weight) is network.bb.get_parameter(weight)
    shared = {id(tensor) for tensor in network.parameters()}
    assert sum(id(tensor) in shared for tensor in folded.parameters()) > 50


def test_folding_leaves_no_batch_norm(network: BiRefNet) -> None:
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fold(network).modules())


def test_the_tail_is_narrow(network: BiRefNet) -> None:
    """No map of full resolution has more channels than the image."""
    widest = 0

    def record(_: nn.Module, inputs: tuple[torch.Tensor, ...], output: object) -> None:
        nonlocal widest
        maps = [tensor for tensor in (*inputs, output) if isinstance(tensor, torch.Tensor) and tensor.ndim == 4]
        widest = max([widest, *(tensor.shape[1] for tensor in maps if tuple(tensor.shape[2:]) == (64, 96))])

    folded = fold(network)
    for module in folded.modules():
        module.register_forward_hook(record)
    logits(folded)
    assert widest == 3


def test_the_border_is_exact(network: BiRefNet) -> None:
    """Each side and each corner of the ring that the 5x5 convolution alone would get wrong, and smallest images."""
    narrow = fold_tail(fold_batch_norms(network))
    patches, convolution = narrow.decoder.ipt_blk1, fold_image_patches(narrow).decoder.ipt_blk1
    for height, width in ((4, 4), (4, 32), (32, 8)):
        image = torch.randn(2, 3, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
        with torch.inference_mode():
            assert torch.abs(convolution(image) - patches(image)).max() < FOLDED_LOGITS_FP64


@pytest.mark.parametrize(
    ("rewrite", "needs"), [(fold_image_patches, "tail folded"), (sum_branches, "pooled branches are folded")]
)
def test_rewrites_that_build_on_others_say_so(network: BiRefNet, rewrite, needs: str) -> None:
    with pytest.raises(ValueError, match=needs):
        rewrite(fold_batch_norms(network))


def test_half_scale_channels_stay_at_half_scale(network: BiRefNet) -> None:
    """No lateral sees an upsampled channel, and nothing finer than the decoder's own maps is upsampled for one."""
    seen: dict[str, tuple[int, ...]] = {}

    def recorder(name: str):
        return lambda _, inputs: seen.update({name: tuple(inputs[0].shape[1:])})

    folded = lower_laterals(network)
    for name, module in folded.decoder.named_children():
        if "lateral" in name:
            module.register_forward_pre_hook(recorder(name))
    logits(folded, 64, 96)
    widths = network.config.backbone.channels
    assert seen == {
        **{f"lateral_block{4 - i}": (widths[2 - i], 4 << i, 6 << i) for i in range(3)},
        **{f"half_lateral_block{4 - i}": (widths[2 - i], 2 << i, 3 << i) for i in range(3)},
    }


@pytest.mark.parametrize(("first", "through", "last"), [((6, 4), (12, 8), (3, 2)), ((5, 1), (9, 2), (1, 1))])
def test_up_and_down_is_two_resizes(first: Size, through: Size, last: Size) -> None:
    x = torch.randn(2, 3, *first, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert torch.abs(up_and_down(x, through, last) - resize(resize(x, through), last)).max() < FOLDED_LOGITS_FP64


def test_laterals_are_lowered_once(network: BiRefNet) -> None:
    with pytest.raises(ValueError, match="with a bias, found a folded network"):
        lower_laterals(lower_laterals(network))


@pytest.mark.parametrize("rewrite", [fold_tail, fold_pooled_branch])
def test_rewrites_that_need_folded_norms_say_so(network: BiRefNet, rewrite) -> None:
    with pytest.raises(ValueError, match="expected a network whose BatchNorms are folded"):
        rewrite(network)


def test_a_network_in_training_is_refused() -> None:
    with pytest.raises(ValueError, match="in evaluation mode, found one in training mode"):
        fold_batch_norms(BiRefNet(TINY))

"""The network's two modes: shapes, who receives gradients, the labels it makes, and what it refuses."""

import copy
import dataclasses

import pytest
import torch
from torch import Tensor

from modeling.birefnet.backbone import DropPath
from modeling.birefnet.blocks import image_patches, resize
from modeling.birefnet.config import COMPACT, BiRefNetConfig, SwinConfig
from modeling.birefnet.decoder import image_laplacian
from modeling.birefnet.network import BiRefNet, TrainingOutputs
from modeling.deform_conv import DeformableConv2d
from tests.support.networks import swin

TINY = BiRefNetConfig(
    SwinConfig(embed_dim=8, depths=(2, 2, 2, 2), heads=(1, 2, 2, 4), window=4, drop_path_rate=0.0),
    inter_channels=8,
    aspp_channels=8,
    aspp_kernels=(1, 3),
    gradient_channels=4,
    patch_inner_channels=4,
    aspp_dropout=0.0,
)


def total(outputs: TrainingOutputs) -> Tensor:
    """Something that depends on every output, the labels excepted: a loss detaches those or not as it likes."""
    parts = [outputs.logits, *outputs.side_logits, *outputs.gradient_logits]
    if outputs.class_logits is not None:
        parts.append(outputs.class_logits)
    return torch.stack([part.float().square().mean() for part in parts]).sum()


def awake(network: BiRefNet) -> BiRefNet:
    """Move the zeros of a fresh network (offsets, biases) so that nothing is hidden behind them."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return network


@pytest.mark.parametrize("size", [(32, 32), (64, 96), (160, 32), (96, 224)])
def test_evaluation_gives_logits_of_the_images_size(size: tuple[int, int]):
    with torch.no_grad():
        logits = BiRefNet(TINY).eval()(torch.randn(2, 3, *size))
    assert logits.shape == (2, 1, *size)
    assert logits.dtype == torch.float32


@pytest.mark.parametrize("classes", [None, 5])
def test_training_outputs(classes: int | None):
    network = BiRefNet(dataclasses.replace(TINY, auxiliary_classes=classes)).train()
    outputs = network(torch.randn(2, 3, 64, 96))
    assert outputs.logits.shape == (2, 1, 64, 96)
    coarse = [(2, 1, 2, 3), (2, 1, 4, 6), (2, 1, 8, 12)]
    assert [tuple(logits.shape) for logits in outputs.side_logits] == coarse
    assert [tuple(logits.shape) for logits in outputs.gradient_logits] == coarse
    assert [tuple(label.shape) for label in outputs.gradient_labels] == [(2, 1, 64, 96)] * 3
    for label in outputs.gradient_labels:
        assert ((label > 0) & (label < 1)).all()
    if classes is None:
        assert outputs.class_logits is None
        assert not [key for key in network.state_dict() if key.startswith("cls_head")]
    else:
        assert outputs.class_logits is not None
        assert outputs.class_logits.shape == (2, 5)
        assert network.state_dict()["cls_head.0.weight"].shape == (5, 128)


@pytest.mark.parametrize("classes", [None, 5])
def test_gradients_reach_every_parameter(classes: int | None):
    network = awake(BiRefNet(dataclasses.replace(TINY, auxiliary_classes=classes))).train()
    total(network(torch.randn(4, 3, 64, 64))).backward()
    dead = [name for name, value in network.named_parameters() if value.grad is None or not value.grad.abs().sum() > 0]
    assert dead == []


def test_a_fresh_network_learns_its_offsets_first():
    """Zero-initialised offset and modulator convolutions must not be stuck at zero."""
    torch.manual_seed(0)
    network = BiRefNet(TINY).train()
    total(network(torch.randn(2, 3, 64, 64))).backward()
    for module in network.modules():
        if isinstance(module, DeformableConv2d):
            for layer in (module.offset_conv, module.modulator_conv):
                assert layer.weight.grad is not None
                assert not layer.weight.any()
                assert layer.weight.grad.abs().sum() > 0


def test_both_modes_are_one_network():
    """The final logits of training mode with frozen statistics are those of evaluation mode."""
    network = awake(BiRefNet(TINY)).eval()
    image = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = network(image)
        network.train()
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.eval()
        found = network(image)
    torch.testing.assert_close(found.logits, expected, rtol=0, atol=1e-5)


def test_gradient_labels_by_hand():
    network = awake(BiRefNet(TINY)).train()
    image = torch.randn(1, 3, 64, 64)
    outputs = network(image.expand(2, -1, -1, -1))
    edges = image_laplacian(image)
    for logits, label in zip(outputs.side_logits, outputs.gradient_labels, strict=True):
        grown = torch.nn.functional.interpolate(logits, size=(64, 64), mode="bilinear", align_corners=True)
        torch.testing.assert_close(label, torch.sigmoid(edges * grown))
        assert label.requires_grad  # as officially: a loss that wants a fixed target detaches it


def test_laplacian_by_hand():
    """One bright pixel of a grey image: -24/48 on it, 1/48 around it, nothing beyond."""
    image = torch.zeros(1, 3, 9, 9)
    image[:, :, 4, 4] = torch.tensor([3.0, 6.0, 9.0])  # mean 6
    expected = torch.zeros(9, 9)
    expected[2:7, 2:7] = 6.0 / 48.0
    expected[4, 4] = -24.0 * 6.0 / 48.0
    torch.testing.assert_close(image_laplacian(image)[0, 0], expected)


def test_laplacian_reflects_at_the_border():
    """A ramp has no curvature, and where it is mirrored the border pixel sees both sides rise."""
    ramp = torch.arange(7.0).expand(1, 3, 7, 7).contiguous()
    found = image_laplacian(ramp)[0, 0]
    torch.testing.assert_close(found[:, 2:5], torch.zeros(7, 3), rtol=0, atol=1e-5)
    # Five rows of 2 1 0 1 2 over 48.
    torch.testing.assert_close(found[:, 0], torch.full((7,), 5 * 6.0 / 48.0))


def test_patches_are_ordered_colour_row_column():
    """Channel (c, hg, wg) holds tile (hg, wg) of colour c: the order since November 2024."""
    image = torch.arange(2 * 3 * 8 * 12).reshape(2, 3, 8, 12)
    patches = image_patches(image, (4, 4))
    assert patches.shape == (2, 3 * 2 * 3, 4, 4)
    for colour, row, column in ((0, 0, 0), (0, 0, 2), (1, 1, 0), (2, 1, 2)):
        channel = (colour * 2 + row) * 3 + column
        tile = image[:, colour, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
        assert torch.equal(patches[:, channel], tile)


def test_resize_aligns_corners():
    line = torch.tensor([0.0, 1.0, 2.0]).reshape(1, 1, 1, 3)
    assert resize(line, (1, 5)).flatten().tolist() == [0.0, 0.5, 1.0, 1.5, 2.0]
    assert resize(line, (1, 2)).flatten().tolist() == [0.0, 2.0]
    assert resize(line, (1, 3)) is line


@pytest.mark.parametrize("shape", [(1, 3, 300, 320), (1, 3, 320, 300), (1, 4, 64, 64), (3, 64, 64), (1, 3, 48, 32)])
def test_sizes_that_do_not_fit_are_refused(shape: tuple[int, ...]):
    with pytest.raises(ValueError, match=r"multiples of 32, found \(" + ", ".join(map(str, shape))):
        BiRefNet(TINY)(torch.zeros(shape))


def test_a_batch_equals_its_images():
    network = awake(BiRefNet(TINY)).eval()
    images = torch.randn(3, 3, 96, 64)
    with torch.no_grad():
        apart = torch.cat([network(image[None]) for image in images])
        torch.testing.assert_close(network(images), apart, rtol=0, atol=1e-5)


def test_two_networks_share_nothing():
    """Sizes, modes and configurations of one network leave another's answers alone."""
    torch.manual_seed(3)
    first = awake(BiRefNet(TINY)).eval()
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        before = first(image)
        second = BiRefNet(dataclasses.replace(TINY, aspp_kernels=(1, 5))).train()
        second(torch.randn(2, 3, 96, 32))
        first(torch.randn(1, 3, 32, 96))
        assert torch.equal(first(image), before)
        twin = copy.deepcopy(first)
        assert torch.equal(twin(image), before)


def test_autocast_trains_in_bfloat16():
    torch.manual_seed(0)
    network = awake(BiRefNet(TINY)).train()
    image = torch.randn(2, 3, 64, 64)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = network(image)
    total(outputs).backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in network.parameters() if parameter.grad is not None)


def test_autocast_answers_alike():
    torch.manual_seed(0)
    network = awake(BiRefNet(TINY)).eval()
    image = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        precise = network(image)
        with torch.autocast("cpu", torch.bfloat16):
            half = network(image).float()
    assert 0 < (half - precise).abs().mean() < 0.05 * precise.std()


def test_the_operator_is_a_seam():
    """Whatever replaces the deformable convolution sees its operands and decides its result."""
    network = BiRefNet(TINY).eval()
    calls = []

    def fake(x, offset, mask, weight, bias=None, *, stride, padding, dilation):
        calls.append((offset.shape[1], mask.shape[1], weight.shape[2], stride, padding, dilation, bias))
        return x.new_zeros(x.shape[0], weight.shape[0], *offset.shape[2:])

    for module in network.modules():
        if isinstance(module, DeformableConv2d):
            module.operator = fake
    with torch.no_grad():
        network(torch.randn(1, 3, 32, 32))
    assert len(calls) == 5 * 3
    assert {call[2]: call for call in calls} == {
        1: (2, 1, 1, (1, 1), (0, 0), (1, 1), None),
        3: (18, 9, 3, (1, 1), (1, 1), (1, 1), None),
    }


def test_drop_path_keeps_the_mean_and_drops_whole_samples():
    torch.manual_seed(0)
    layer = DropPath(0.25)
    x = torch.ones(4000, 2, 2, 3)
    dropped = layer.train()(x)
    per_sample = dropped.flatten(1)
    assert ((per_sample == 0).all(1) | (per_sample == 1 / 0.75).all(1)).all()
    assert abs(dropped.mean().item() - 1.0) < 0.05
    assert layer.eval()(x) is x


def test_drop_path_rates_rise_from_zero():
    network = BiRefNet(dataclasses.replace(TINY, backbone=dataclasses.replace(swin(TINY), drop_path_rate=0.7)))
    rates = [module.rate for module in network.modules() if isinstance(module, DropPath)]
    assert rates == pytest.approx([index / 7 * 0.7 for index in range(8)])


def test_the_compact_network_is_compact():
    parameters = sum(parameter.numel() for parameter in BiRefNet(COMPACT).parameters())
    assert 2e6 < parameters < 5e6

"""The loss terms: zero at the truth, rising with every error, equal to hand-worked values."""

import math

import pytest
import torch
import torch.nn.functional as F

from tests.support.tolerance import LOSS_VALUE
from training import losses
from training.losses import PRESETS, LossWeights, gradient_supervision, hybrid, multi_stage

SIZE = 48


def disc(shift=0.0, size=SIZE, radius=12.0):
    axis = torch.arange(size, dtype=torch.float32) - size / 2 + 0.5
    distance = torch.hypot(axis[None, :] - shift, axis[:, None])
    return torch.clamp(radius + 0.5 - distance, 0, 1)[None, None]


def logits_of(alpha):
    return torch.logit(alpha.clamp(1e-6, 1 - 1e-6))


def total(logits, target, weights):
    return float(sum(hybrid(logits, target, weights).values()))


TERMS = {
    "bce": LossWeights(1, 0, 0, 0),
    "iou": LossWeights(0, 1, 0, 0),
    "ssim": LossWeights(0, 0, 1, 0),
    "mae": LossWeights(0, 0, 0, 1),
}


@pytest.mark.parametrize("name", TERMS)
def test_a_term_is_zero_at_a_binary_truth(name):
    truth = (disc() > 0.5).float()
    assert total(logits_of(truth), truth, TERMS[name]) < 1e-4


@pytest.mark.parametrize("name", TERMS)
def test_a_term_rises_with_shift(name):
    truth = disc()
    values = [total(logits_of(disc(shift)), truth, TERMS[name]) for shift in (0, 1, 2, 4, 8)]
    assert values == sorted(values)
    assert values[-1] > values[0] + 0.01


@pytest.mark.parametrize("name", TERMS)
def test_a_term_rises_with_blur(name):
    truth = disc()
    values = [total(logits_of(F.avg_pool2d(truth, k, 1, k // 2)), truth, TERMS[name]) for k in (1, 3, 7, 13)]
    assert values == sorted(values)
    assert values[-1] > values[0] + 0.01


@pytest.mark.parametrize("name", TERMS)
def test_a_term_has_a_gradient_towards_the_truth(name):
    truth = disc()
    logits = logits_of(disc(4.0)).clamp(-2, 2).requires_grad_()
    loss = hybrid(logits, truth, TERMS[name])[name]
    loss.backward()
    before = loss.item()
    gradient = logits.grad
    assert gradient is not None
    moved = logits.detach() - 0.5 * gradient / gradient.abs().max()
    assert total(moved, truth, TERMS[name]) < before


def test_hand_worked_values():
    target = torch.tensor([1.0, 0.0, 1.0, 0.0]).view(1, 1, 2, 2)
    half = torch.full((1, 1, 2, 2), 0.5)
    assert losses.bce(half, target).item() == pytest.approx(math.log(2), abs=LOSS_VALUE)
    assert losses.mae(half, target).item() == pytest.approx(0.5, abs=LOSS_VALUE)
    # Both sums are 2 and the product's is 1: 1 - 1 / 3.
    assert losses.iou(half, target).item() == pytest.approx(2 / 3, abs=LOSS_VALUE)


def test_cross_entropy_from_logits_is_the_cross_entropy():
    logits, target = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)), disc(size=8, radius=2.0)
    target = target.expand(2, -1, -1, -1)
    expected = losses.bce(torch.sigmoid(logits), target)
    assert hybrid(logits, target, TERMS["bce"])["bce"].item() == pytest.approx(expected.item(), abs=LOSS_VALUE)


def test_iou_is_summed_over_the_batch_or_averaged():
    target = torch.cat([disc(), disc(3.0)])
    other = torch.cat([disc(2.0), disc()])
    apart = losses.iou(other[:1], target[:1]) + losses.iou(other[1:], target[1:])
    assert losses.iou(other, target).item() == pytest.approx(apart.item(), abs=LOSS_VALUE)
    assert losses.iou(other, target, mean_over_batch=True).item() == pytest.approx(apart.item() / 2, abs=LOSS_VALUE)


def test_empty_target_and_empty_matte_agree():
    nothing = torch.zeros(1, 1, 4, 4)
    assert losses.iou(nothing, nothing).item() == 0.0


def test_ssim_equals_an_explicit_convolution():
    generator = torch.Generator().manual_seed(1)
    first, second = torch.rand(2, 1, 20, 30, generator=generator), torch.rand(2, 1, 20, 30, generator=generator)
    axis = torch.exp(-((torch.arange(11) - 5.0) ** 2) / (2 * 1.5**2))
    kernel = torch.outer(axis, axis)[None, None] / axis.sum() ** 2

    def window(plane):
        return F.conv2d(plane, kernel, padding=5)

    m1, m2 = window(first), window(second)
    v1, v2 = window(first * first) - m1**2, window(second * second) - m2**2
    cov = window(first * second) - m1 * m2
    expected = (2 * m1 * m2 + 1e-4) * (2 * cov + 9e-4) / ((m1**2 + m2**2 + 1e-4) * (v1 + v2 + 9e-4))
    assert losses.ssim(first, second).item() == pytest.approx(expected.mean().item(), abs=LOSS_VALUE)
    assert losses.ssim(first, first).item() == pytest.approx(1.0, abs=LOSS_VALUE)


def test_the_hybrid_weighs_its_terms():
    logits, target = logits_of(disc(3.0)), disc()
    weights = LossWeights(bce=30, iou=0.5, ssim=10, mae=100)
    for name, value in hybrid(logits, target, weights).items():
        alone = hybrid(logits, target, TERMS[name])[name]
        factor = getattr(weights, name)
        assert value.item() == pytest.approx(factor * alone.item(), rel=1e-5)


def test_presets_are_the_official_weights():
    assert PRESETS["dis"] == LossWeights(30, 0.5, 10, 0)
    assert PRESETS["general"] == LossWeights(30, 0.5, 10, 100)
    assert PRESETS["matting"] == LossWeights(30, 0, 10, 100)


def test_stages_are_upsampled_and_summed():
    target, final, side = disc(), logits_of(disc(1.0)), logits_of(disc(size=12, radius=3.0))
    weights = PRESETS["general"]
    upsampled = F.interpolate(side, size=(SIZE, SIZE), mode="bilinear", align_corners=True)
    expected = total(final, target, weights) + 2 * total(upsampled, target, weights)
    found = sum(multi_stage(([side, side], final), target, weights).values())
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_side_outputs_may_be_compared_with_an_averaged_target():
    target, weights = disc(), TERMS["mae"]
    side = torch.zeros(1, 1, 6, 6)
    coarse = F.avg_pool2d(target, 4)
    found = multi_stage(([side], logits_of(target)), target, weights, side_stride=4)["mae"]
    assert found.item() == pytest.approx(float((coarse - 0.5).abs().mean()), abs=1e-4)


def test_gradient_supervision_is_least_at_its_label_and_does_not_move_the_label():
    label = torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(2)).requires_grad_()
    at_truth = gradient_supervision([torch.logit(label.detach())], [label])
    off = gradient_supervision([torch.logit(label.detach()) + 0.5], [label])
    assert at_truth < off
    prediction = torch.zeros(1, 1, 4, 4, requires_grad=True)
    gradient_supervision([prediction, prediction], [label, label]).backward()
    assert label.grad is None
    assert prediction.grad is not None
    assert prediction.grad.abs().sum() > 0


def test_gradient_supervision_needs_a_label_for_each_prediction():
    with pytest.raises(ValueError, match="found 1 for 2"):
        gradient_supervision([torch.zeros(1, 1, 2, 2)] * 2, [torch.zeros(1, 1, 2, 2)])

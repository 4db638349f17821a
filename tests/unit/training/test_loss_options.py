"""The losses beside BiRefNet's own weights: at the truth, under errors, their gradients, and other implementations."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from skimage.metrics import structural_similarity

from matting.quality import iou as region_iou
from modeling.birefnet.config import BiRefNetConfig
from modeling.birefnet.decoder import image_laplacian
from modeling.birefnet.network import BiRefNet
from tests.support.tiny_training import TINY_NETWORK, tiny_config
from tests.support.tolerance import LOSS_VALUE, SSIM_PEER
from training import losses
from training.config import TrainingConfig
from training.losses import FINE_TUNING, PRESETS, FineTuning, LossWeights
from training.objective import step_loss
from training.options import parse_weights
from training.refiner.losses import CRM_WEIGHTS, RefinerWeights, refiner_loss


def disc(shift=0.0, size=48, radius=12.0):
    axis = torch.arange(size, dtype=torch.float64) - size / 2 + 0.5
    distance = torch.hypot(axis[None, :] - shift, axis[:, None])
    return torch.clamp(radius + 0.5 - distance, 0, 1)[None, None]


def logits_of(alpha):
    return torch.logit(alpha.clamp(1e-6, 1 - 1e-6))


LOSSES = {
    "structure": lambda alpha, truth: losses.structure(logits_of(alpha), truth),
    "contour": losses.contour,
    "contour, weakly": lambda alpha, truth: losses.contour(alpha, truth, 1.0),
    "CRM": lambda alpha, truth: refiner_loss(logits_of(alpha)[:, 0], truth[:, 0], truth[:, 0], CRM_WEIGHTS),
    "refiner": lambda alpha, truth: refiner_loss(logits_of(alpha)[:, 0], truth[:, 0], truth[:, 0], RefinerWeights()),
    "gradient supervision": lambda alpha, truth: (
        losses.gradient_supervision([logits_of(alpha)], [truth])
        - losses.gradient_supervision([logits_of(truth)], [truth])
    ),
}


@pytest.mark.parametrize("name", LOSSES)
def test_an_option_is_least_at_the_truth_and_rises_with_shift_and_blur(name):
    loss, truth = LOSSES[name], (disc() > 0.5).double()
    assert float(loss(truth, truth)) < 1e-4
    shifted = [float(loss((disc(shift) > 0.5).double(), truth)) for shift in range(9)]
    blurred = [float(loss(F.avg_pool2d(truth, side, 1, side // 2), truth)) for side in (1, 3, 7, 13)]
    for values in (shifted, blurred):
        assert values == sorted(values)
        assert values[-1] > values[0] + 0.01


def test_the_published_contour_loss_likes_nothing_better_than_a_small_disc():
    """Why the default is another: `contour` says so, and this is the figure behind it."""
    truth = (disc() > 0.5).double()
    nothing = torch.zeros_like(truth)
    assert losses.contour(nothing, truth, published=True) < losses.contour(truth, truth, published=True)
    assert losses.contour(nothing, truth) > losses.contour(truth, truth)


def test_the_contour_loss_by_hand():
    truth = torch.zeros(1, 1, 3, 3, dtype=torch.float64)
    alpha = truth.clone()
    alpha[..., 1, 1] = 1.0
    # One pixel of nine is wrong. Four pixels have both differences: two of 1 beside it, and sqrt(2) at it; 0 at (0, 0).
    expected = 1 / 9 + 2.0 * (2 + math.sqrt(2)) / 4
    assert float(losses.contour(alpha, truth, 2.0)) == pytest.approx(expected, abs=1e-3)


def test_the_structure_loss_by_hand():
    """With a flat target every pixel inside weighs alike, so that both parts have closed forms."""
    size = 64
    target = torch.ones(1, 1, size, size, dtype=torch.float64)
    logits = torch.zeros_like(target)
    ramp = np.minimum(15, np.arange(size)) + np.minimum(15, np.arange(size)[::-1]) + 1
    weight = 1 + 5 * (1 - np.outer(ramp, ramp) / 31**2)
    total = weight.sum()
    expected = math.log(2) + 1 - (total / 2 + 1) / (total + 1)
    assert float(losses.structure(logits, target)) == pytest.approx(expected, abs=LOSS_VALUE)


def random_pair(seed=0, size=13):
    generator = torch.Generator().manual_seed(seed)
    first, second = (torch.rand(2, 1, size, size, dtype=torch.float64, generator=generator) for _ in range(2))
    return (0.05 + 0.9 * first).requires_grad_(), 0.05 + 0.9 * second


@pytest.mark.parametrize("name", ["bce", "mae", "iou", "ssim", "structure", "contour"])
def test_gradients_are_those_of_finite_differences(name):
    alpha, truth = random_pair()
    assert torch.autograd.gradcheck(lambda x: getattr(losses, name)(x, truth), (alpha,))


def test_gradient_supervision_and_classification_have_exact_gradients():
    alpha, truth = random_pair()
    labels = torch.tensor([3, -1])
    scores = torch.randn(2, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: losses.classification(x, labels), (scores,))
    # The levels are compared in fp32, as the network gives them: a step that fp32 resolves.
    assert torch.autograd.gradcheck(
        lambda x: losses.gradient_supervision([x], [truth]), (alpha,), eps=1e-2, atol=1e-3, rtol=1e-2
    )


@pytest.mark.parametrize("weights", [CRM_WEIGHTS, RefinerWeights()])
def test_the_refiners_gradients_are_those_of_finite_differences(weights):
    alpha, truth = random_pair()
    mask = truth.flip(2)[:, 0]
    assert torch.autograd.gradcheck(lambda x: refiner_loss(x[:, 0], mask, truth[:, 0], weights), (alpha,))


def test_ssim_is_scikit_images():
    """Away from the border, which scikit-image repeats and the official code pads with 0."""
    alpha, truth = random_pair(size=40)
    found = losses.ssim_map(alpha.detach(), truth)[:, 0, 5:-5, 5:-5].numpy()
    for k in range(2):
        one, other = alpha.detach()[k, 0].numpy(), truth[k, 0].numpy()
        _, expected = structural_similarity(
            one, other, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1.0, full=True
        )
        np.testing.assert_allclose(found[k], expected[5:-5, 5:-5], atol=SSIM_PEER)


def test_iou_is_the_metric_where_both_are_binary():
    one, other = (disc() > 0.5).double(), (disc(5.0) > 0.5).double()
    expected = 1 - region_iou(one[0, 0].float().numpy(), other[0, 0].float().numpy())
    assert float(losses.iou(one, other)) == pytest.approx(expected, abs=1e-6)


def test_classification_counts_the_images_that_have_a_label():
    scores = torch.tensor([[0.0, 0.0, math.log(2.0)], [9.0, 9.0, 9.0]])
    assert float(losses.classification(scores, torch.tensor([2, -1]))) == pytest.approx(math.log(2.0), abs=LOSS_VALUE)
    assert float(losses.classification(scores, torch.tensor([-1, -1]))) == 0.0
    for wrong in (3, -2):
        with pytest.raises(ValueError, match="labels from 0 to 2"):
            losses.classification(scores, torch.tensor([wrong, 0]))


def test_the_gradient_label_is_the_networks_unless_dilated():
    torch.manual_seed(0)
    network, image = BiRefNet(TINY_NETWORK).train(), torch.randn(2, 3, 64, 64)
    outputs = network(image)
    edges = image_laplacian(image)
    for label, side in zip(outputs.gradient_labels, outputs.side_logits, strict=True):
        torch.testing.assert_close(losses.gradient_label(edges, side), label)


def test_the_dilated_label_is_flat_outside_of_the_dilated_region_and_the_laplacian_inside():
    edges = torch.randn(1, 1, 33, 33, generator=torch.Generator().manual_seed(2))
    side = torch.full((1, 1, 33, 33), -3.0)
    side[..., 16, 16] = 0.1
    label = losses.gradient_label(edges, side, dilation=4)
    inside = torch.zeros(33, 33, dtype=torch.bool)
    inside[12:21, 12:21] = True
    assert torch.equal(label[0, 0][inside], torch.sigmoid(edges)[0, 0][inside])
    assert (label[0, 0][~inside] == 0.5).all()
    assert (losses.gradient_label(edges, side, dilation=0) != 0.5).sum() == 1


def test_fine_tuning_compounds_over_the_last_epochs():
    tuning = FineTuning(begins=0.8, epochs=2)
    weights = PRESETS["general"]
    assert tuning.weights(weights, 0.79) == weights
    assert tuning.weights(weights, 0.8) == replace(weights, bce=0.0, iou=0.25, mae=90.0)
    assert tuning.weights(weights, 0.95) == replace(weights, bce=0.0, iou=0.125, mae=81.0)
    assert tuning.weights(weights, 1.0) == tuning.weights(weights, 0.95)
    assert FineTuning().weights(weights, 1.0) == weights
    matting = replace(FINE_TUNING["matting"], begins=0.5, epochs=1)
    assert matting.weights(PRESETS["matting"], 0.5) == replace(PRESETS["matting"], ssim=9.0)
    for wrong in ({"begins": 0.0}, {"begins": 1.5}, {"epochs": 0}):
        with pytest.raises(ValueError, match="fine-tuning begins"):
            FineTuning(**wrong)


def outputs_of(config: BiRefNetConfig = TINY_NETWORK):
    torch.manual_seed(1)
    network, image = BiRefNet(config).train(), torch.randn(2, 3, 32, 32)
    return network(image), image, (torch.rand(2, 1, 32, 32) > 0.5).float()


@pytest.mark.parametrize(
    "changes",
    [
        {"loss": replace(PRESETS["general"], gradient=1e4, structure=1.0)},
        {"loss": replace(PRESETS["general"], gradient=1e4, contour=1.0)},
        {"loss": replace(PRESETS["general"], gradient=1e4, refine_mask=1.0)},
        {"fine_tuning": FineTuning(begins=0.5)},
        {"gradient_dilation": 2},
    ],
)
def test_an_option_changes_the_objective_and_travels_in_the_configuration(changes):
    # An untrained network's gradient prediction is flat: its loss hardly depends on the label.
    plain = tiny_config(loss=replace(PRESETS["general"], gradient=1e4))
    config = replace(plain, **changes)
    outputs, image, target = outputs_of()
    with_it, without = (step_loss(outputs, image, target, each, 0.9).item() for each in (config, plain))
    assert with_it != without
    assert TrainingConfig.from_dict(config.to_dict()) == config
    written = plain.to_dict()
    written.pop("fine_tuning")
    written.pop("gradient_dilation")
    written["loss"] = {name: written["loss"][name] for name in ("bce", "iou", "ssim", "mae", "gradient")}
    assert TrainingConfig.from_dict(written) == plain  # what runs before these options wrote


def test_weights_from_text():
    assert parse_weights("structure=1,contour=0.5") == {"structure": 1.0, "contour": 0.5}
    assert parse_weights("") == {}
    assert replace(LossWeights(), **parse_weights("bce=3")).bce == 3
    with pytest.raises(SystemExit, match="expected TERM=WEIGHT"):
        parse_weights("structure")
    for wrong in ("other=1", "bce=-1"):
        with pytest.raises(SystemExit, match="expected one of bce, iou"):
            parse_weights(wrong)

"""RefineMask's training rule: where finer stages are supervised, and that they are nowhere else."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from modeling.refine_mask import boundary, compose
from tests.support.crm import SMALL, soft_mask
from tests.support.tolerance import LOSS_VALUE
from training.config import Budget
from training.learner import Cadence
from training.losses.refine_mask import (
    SIDE_OUTPUTS,
    StageRule,
    mean_over,
    refined_region,
    staged,
    supervised_region,
)
from training.refiner.config import RefinerConfig
from training.refiner.loop import RefinerRun, target_region
from training.refiner.losses import RefinerWeights, refiner_loss
from training.refiner.samples import make_batch

TINY = RefinerConfig(SMALL, Budget(steps=2), window=48, batch=2, scene_size=96, points=256, boundary_width=3)


def square(size, low, high):
    plane = torch.zeros(1, 1, size, size)
    plane[..., low:high, low:high] = 1.0
    return plane


def stages_of(truth, sizes=(14, 28, 56, 112)):
    """Confident logits that are right at every size."""
    return [(F.adaptive_avg_pool2d(truth, size) - 0.5) * 40 for size in sizes]


def test_the_region_is_that_of_both_boundaries_doubled():
    found, wanted = square(28, 6, 14), square(28, 10, 22)
    region = supervised_region(found * 10 - 5, wanted, StageRule())
    expected = boundary(found > 0.5, 2) | boundary(wanted > 0.5, 2)
    expected = F.interpolate(expected.float(), scale_factor=2, mode="bilinear", align_corners=True) >= 0.5
    assert torch.equal(region, expected)
    alone = supervised_region(wanted * 10 - 5, wanted, StageRule())
    assert alone.sum() < region.sum()


def test_a_straight_edge_is_supervised_within_four_fine_pixels():
    """Two pixels of the coarser stage on each side, by the distance of pixel centres to the edge."""
    edge = (torch.arange(40.0) >= 20).float().expand(1, 1, 40, 40)
    rule = StageRule(whole_images=True)
    columns = supervised_region(edge * 10 - 5, edge, rule)[0, 0, 40].nonzero()[:, 0].tolist()
    assert columns == list(range(36, 44))


def test_beyond_the_border_an_instance_ends_and_an_image_goes_on():
    full = torch.ones(1, 1, 20, 20)
    assert supervised_region(full * 5, full, StageRule()).any()
    assert not supervised_region(full * 5, full, replace(StageRule(), whole_images=True)).any()


def test_finer_stages_have_no_gradient_outside_of_their_region():
    truth = square(112, 30, 80)
    torch.manual_seed(0)
    logits = [(each / 5 + torch.randn_like(each)).requires_grad_() for each in stages_of(truth)]
    staged(logits, truth, StageRule()).backward()
    gradients = [each.grad for each in logits]
    assert all((gradients[k] != 0).all() for k in (0, 1))
    region = supervised_region(logits[1], F.adaptive_avg_pool2d(truth, 28), StageRule())
    assert torch.equal(gradients[2] != 0, region)
    assert 0 < (gradients[3] != 0).float().mean() < 0.3


def test_it_is_0_at_the_truth_and_hollow_stages_are_as_good():
    truth = square(112, 32, 80)
    exact = stages_of(truth)
    assert staged(exact, truth, StageRule()).item() < 1e-4
    hollow = [*exact[:3], exact[3].clone()]
    hollow[3][..., 45:67, 45:67] = -20.0
    assert staged(hollow, truth, StageRule()).item() == pytest.approx(staged(exact, truth, StageRule()).item())
    assert torch.equal(compose(hollow) > 0, compose(exact) > 0)


def test_it_rises_with_a_shift_of_the_finest_stage():
    truth = square(112, 32, 80)
    exact = stages_of(truth)
    losses = [
        staged([*exact[:3], torch.roll(exact[3], shift, dims=3)], truth, StageRule()).item() for shift in range(5)
    ]
    assert losses == sorted(losses)
    assert losses[-1] > losses[0] + 0.1


def test_stages_weigh_as_in_the_paper():
    truth = square(112, 30, 80)
    sizes = (14, 28, 56, 112)
    flat = [torch.full((1, 1, size, size), -1.0) for size in sizes]
    unit = [
        staged(flat, truth, replace(StageRule(), weights=tuple(float(k == index) for k in range(4)))).item()
        for index in range(4)
    ]
    expected = 0.25 * unit[0] + 0.5 * unit[1] + 0.75 * unit[2] + unit[3]
    assert staged(flat, truth, StageRule()).item() == pytest.approx(expected, abs=LOSS_VALUE)


def test_an_empty_region_gives_0_and_no_gradient_that_is_not_a_number():
    values = torch.randn(1, 1, 8, 8, requires_grad=True)
    found = mean_over(values, torch.zeros(1, 1, 8, 8, dtype=torch.bool))
    found.backward()
    assert found.item() == 0
    assert values.grad is not None
    assert values.grad.abs().sum() == 0
    nothing = torch.zeros(1, 1, 64, 64)
    stages = [torch.full((1, 1, size, size), -30.0) for size in (16, 32, 64)]
    assert staged(stages, nothing, SIDE_OUTPUTS).item() < 1e-6


def test_stages_that_do_not_double_are_refused():
    truth = square(56, 10, 30)
    with pytest.raises(ValueError, match="expected 4 stages"):
        staged(stages_of(truth, (14, 28)), truth, StageRule())
    with pytest.raises(ValueError, match=r"at twice \(16, 16\), found \(30, 30\)"):
        staged(stages_of(truth, (16, 30, 60)), truth, SIDE_OUTPUTS)


def test_a_refiners_region_is_near_both_contours_or_undecided():
    mask, truth = square(40, 10, 20)[0], square(40, 12, 22)[0]
    truth[0, 35, 35] = 0.3
    region = refined_region(mask, truth, 2)[0]
    y, x = torch.meshgrid(torch.arange(40), torch.arange(40), indexing="ij")
    expected = (y == 35) & (x == 35)
    for low, high in ((10, 20), (12, 22)):
        inside = (y >= low) & (y < high) & (x >= low) & (x < high)
        deep = (y >= low + 2) & (y < high - 2) & (x >= low + 2) & (x < high - 2)
        around = (y >= low - 2) & (y < high + 2) & (x >= low - 2) & (x < high + 2)
        assert inside.any()
        expected |= around & ~deep
    assert torch.equal(region, expected)


def test_the_refiners_loss_counts_only_the_region():
    truth, mask = soft_mask(24, 24).clamp(0.01, 0.99), soft_mask(24, 24, 3)
    region = torch.zeros(truth.shape, dtype=torch.bool)
    region[:, 4:12, 4:20] = True
    logits = torch.logit(truth).requires_grad_()
    off = (logits + 1.0).detach().requires_grad_()
    weights = replace(RefinerWeights(), gradient=0.0)  # whose windows reach beyond
    refiner_loss(off, mask, truth, weights, region).backward()
    assert off.grad is not None
    assert torch.equal(off.grad != 0, region)
    everything = torch.ones_like(region)
    for each in (weights, RefinerWeights()):
        found, plain = (refiner_loss(off, mask, truth, each, where).item() for where in (everything, None))
        assert found == pytest.approx(plain, abs=LOSS_VALUE)
        assert abs(refiner_loss(logits, mask, truth, each, region).item()) < LOSS_VALUE


def test_a_refiners_run_takes_the_rule_and_writes_it_down(tmp_path):
    for step in range(8):
        batch = make_batch(TINY, step)
        region = target_region(batch, 3)
        assert region is not None
        wanted = batch.truth.shape if batch.rows is None else (2, len(batch.rows))
        assert region.shape == wanted
        assert target_region(batch, 0) is None
    batch = make_batch(TINY, 0)
    losses = []
    for width in (3, 0):
        config = replace(TINY, boundary_width=width)
        run = RefinerRun(config, tmp_path / str(width), Cadence())
        losses.append(run.train_step(batch)["loss"])
        assert RefinerConfig.from_dict(config.to_dict()) == config
    assert losses[0] != losses[1]
    written = replace(TINY, boundary_width=0).to_dict()
    del written["boundary_width"]
    assert RefinerConfig.from_dict(written) == replace(TINY, boundary_width=0)

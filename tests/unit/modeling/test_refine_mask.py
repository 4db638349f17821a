"""RefineMask: shapes of every stage, what a pixel sees, what each branch is for, and the composition's rule."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from modeling.refine_mask import (
    RefineMaskConfig,
    RefineMaskHead,
    SemanticFusion,
    SemanticHead,
    boundary,
    compose,
    crop_regions,
)
from modeling.refine_mask.network import DilatedSum

SMALL = RefineMaskConfig(in_channels=12, channels=64, semantic_channels=16, semantic_depth=2, instance_depth=1)


def whole(features: Tensor, size: int) -> Tensor:
    """The whole image as the one region."""
    side = features.shape[2]
    box = torch.tensor([[0.0, 0.0, side, side]])
    return crop_regions(features, box, torch.zeros(1, dtype=torch.int64), size)


def decode(head: RefineMaskHead, seed: int = 0, semantic_gain: float = 1.0) -> list[Tensor]:
    torch.manual_seed(seed)
    instance, semantic = torch.randn(1, 12, 14, 14), torch.randn(1, 16, 40, 40) * semantic_gain
    with torch.no_grad():
        return head(instance, semantic, torch.randn(1, 1, 40, 40) * semantic_gain, whole)


def fusions(head: RefineMaskHead) -> list[SemanticFusion]:
    return [stage for stage in head.stages if isinstance(stage, SemanticFusion)]


def test_the_stages_of_the_paper():
    """14 to 112 pixels; 256, 128, 64 and 32 channels; 3 x 3 convolutions of dilation 1, 3, 5 in each stage."""
    config = RefineMaskConfig()
    torch.manual_seed(0)
    head, semantic_head = RefineMaskHead(config), SemanticHead(config)
    seen: list[tuple[int, ...]] = []
    for stage in head.stages:
        stage.register_forward_hook(lambda _module, inputs, _output: seen.append(tuple(inputs[0].shape[1:])))
    head.predict.register_forward_hook(lambda _module, inputs, _output: seen.append(tuple(inputs[0].shape[1:])))
    with torch.no_grad():
        features, logits = semantic_head(torch.randn(1, 256, 24, 32))
        boxes = torch.tensor([[0.0, 0.0, 16.0, 24.0], [8.0, 2.0, 30.0, 20.0]])
        images = torch.zeros(2, dtype=torch.int64)
        masks = head(
            torch.randn(2, 256, 14, 14), features, logits, lambda maps, size: crop_regions(maps, boxes, images, size)
        )
    assert features.shape == (1, 256, 24, 32)
    assert logits.shape == (1, 1, 24, 32)
    assert seen == [(256, 14, 14), (128, 28, 28), (64, 56, 56), (32, 112, 112)]
    assert [tuple(mask.shape) for mask in masks] == [(2, 1, side, side) for side in (14, 28, 56, 112)]
    assert [branch.dilation for branch in fusions(head)[0].fuse.branches] == [(1, 1), (3, 3), (5, 5)]
    assert compose(masks).shape == (2, 1, 112, 112)


def test_a_fusion_sees_eleven_pixels():
    fusion = DilatedSum(2, (1, 3, 5))
    for parameter in fusion.parameters():
        torch.nn.init.constant_(parameter, 0.1)
    blank, dot = torch.zeros(1, 2, 31, 31), torch.zeros(1, 2, 31, 31)
    dot[:, 0, 15, 15] = 1.0
    with torch.no_grad():
        changed = (fusion(dot) != fusion(blank)).any(dim=1)[0].nonzero()
    reached = {(int(y) - 15, int(x) - 15) for y, x in changed}
    assert reached == {(d * y, d * x) for d in (1, 3, 5) for y in (-1, 0, 1) for x in (-1, 0, 1)}
    assert max(max(abs(y), abs(x)) for y, x in reached) == 5  # a support of 11 x 11


@pytest.mark.parametrize("branch", [0, 1, 2])
def test_every_branch_counts(branch):
    torch.manual_seed(1)
    head = RefineMaskHead(SMALL)
    before = decode(head)[-1]
    convolution = fusions(head)[1].fuse.branches[branch]
    assert isinstance(convolution, torch.nn.Conv2d)
    torch.nn.init.zeros_(convolution.weight)
    assert (decode(head)[-1] - before).abs().max() > 1e-3


def test_the_semantic_features_and_masks_count_at_every_size():
    torch.manual_seed(1)
    head = RefineMaskHead(SMALL)
    with_semantics, without = decode(head), decode(head, semantic_gain=0.0)
    assert torch.equal(with_semantics[0], without[0])  # the first mask comes before any fusion
    for some, none in zip(with_semantics[1:], without[1:], strict=True):
        assert (some - none).abs().max() > 1e-3


def test_the_masks_are_joined_twice():
    """To what is mixed, two channels, and again to what comes out, as its last two."""
    torch.manual_seed(2)
    fusion = SemanticFusion(16, 8, (1, 3, 5))
    assert fusion.mix.in_channels == 2 * 16 + 2
    assert fusion.shrink.out_channels == 16 // 2 - 2
    instance, semantic, semantic_logits = (
        torch.randn(1, 16, 14, 14),
        torch.randn(1, 8, 20, 20),
        torch.randn(1, 1, 20, 20),
    )
    with torch.no_grad():
        features, logits = fusion(instance, semantic, semantic_logits, whole)
    assert features.shape == (1, 8, 28, 28)
    masks = torch.cat((torch.sigmoid(logits), whole(torch.sigmoid(semantic_logits), 14)), dim=1)
    doubled = F.interpolate(masks, scale_factor=2, mode="bilinear", align_corners=False)
    torch.testing.assert_close(features[:, 6:], doubled)


def test_regions_are_cut_where_they_lie():
    """On a ramp, RoIAlign gives each cell the coordinates of its centre."""
    y, x = torch.meshgrid(torch.arange(20.0), torch.arange(30.0), indexing="ij")
    ramps = torch.stack((x, y))[None] + 0.5  # what lies at a pixel's centre
    pair = torch.cat((ramps, ramps + 100))
    boxes = torch.tensor([[4.0, 2.0, 18.0, 16.0], [1.5, 3.25, 8.5, 17.25]])
    found = crop_regions(pair, boxes, torch.tensor([0, 1]), 7)
    cells = torch.arange(7.0) + 0.5
    torch.testing.assert_close(found[0, 0], (4 + 2 * cells)[None, :].expand(7, -1))
    torch.testing.assert_close(found[0, 1], (2 + 2 * cells)[:, None].expand(-1, 7))
    torch.testing.assert_close(found[1, 0], (101.5 + cells)[None, :].expand(7, -1))
    torch.testing.assert_close(found[1, 1], (103.25 + 2 * cells)[:, None].expand(-1, 7))


def test_it_learns():
    """Every parameter of both heads gets a gradient; a few steps on one region lower the loss."""
    torch.manual_seed(3)
    head, semantic_head = RefineMaskHead(SMALL), SemanticHead(SMALL)
    parameters = [*head.parameters(), *semantic_head.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=1e-3)
    region, picture = torch.randn(1, 12, 14, 14), torch.randn(1, 12, 40, 40)
    y, x = torch.meshgrid(torch.arange(112.0), torch.arange(112.0), indexing="ij")
    truth = (torch.hypot(y - 56, x - 56) < 40).float()[None, None]
    losses = []
    for _ in range(12):
        logits = head(region, *semantic_head(picture), whole)
        errors = [F.binary_cross_entropy_with_logits(one, F.adaptive_avg_pool2d(truth, one.shape[2])) for one in logits]
        loss = torch.stack(errors).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in parameters)
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize(("width", "wanted"), [(1, [9, 10]), (2, [8, 9, 10, 11]), (3, [7, 8, 9, 10, 11, 12])])
def test_a_straight_edge_is_marked_on_both_sides(width, wanted):
    mask = (torch.arange(20) >= 10).expand(1, 1, 21, 20)
    assert boundary(mask, width)[0, 0, 10].nonzero()[:, 0].tolist()[: len(wanted)] == wanted


def test_the_boundary_of_a_dot_and_of_a_mask_at_the_border():
    dot = torch.zeros(1, 1, 9, 9, dtype=torch.bool)
    dot[..., 4, 4] = True
    assert boundary(dot, 2).nonzero().tolist() == [[0, 0, 4, 4]]
    assert int(boundary(dot, 1).sum()) == 9
    full = torch.ones(1, 1, 5, 5, dtype=torch.bool)
    assert boundary(full, 1)[0, 0].int().tolist() == [[1] * 5, *[[1, 0, 0, 0, 1]] * 3, [1] * 5]


def test_the_composition_fills_hollow_fine_masks():
    """The toy of `reference/refinement.md` C.4: fine stages that are right at the contour and hollow inside."""
    y, x = torch.meshgrid(torch.arange(112.0), torch.arange(112.0), indexing="ij")
    distance = 35 - torch.hypot(y - 55.5, x - 55.5)
    logits = []
    for side in (14, 28, 56, 112):
        exact = F.adaptive_avg_pool2d((distance > 0).float()[None, None], side)
        hollow = F.adaptive_avg_pool2d(((distance > 0) & (distance < 6)).float()[None, None], side)
        logits.append(((exact if side < 56 else hollow) * 2 - 1) * 4)
    truth = distance > 0

    def overlap(mask: Tensor) -> float:
        found = mask[0, 0] >= 0
        return float((found & truth).sum() / (found | truth).sum())

    upsampled = F.interpolate(logits[1], size=(112, 112), mode="bilinear", align_corners=True)
    assert overlap(logits[-1]) < 0.5 < 0.9 < overlap(upsampled) < overlap(compose(logits))


def test_outside_the_boundary_the_finer_masks_do_not_matter():
    torch.manual_seed(4)
    coarse = torch.full((1, 1, 28, 28), -5.0)
    coarse[..., 8:20, 8:20] = 5.0
    one, other = (compose([coarse, coarse, torch.randn(1, 1, 56, 56), torch.randn(1, 1, 112, 112)]) for _ in range(2))
    changed = (one != other)[0, 0]
    assert changed.any()
    assert not changed[:20].any()
    assert not changed[45:65, 45:65].any()


def test_composition_needs_two_stages():
    with pytest.raises(ValueError, match="at least 2 stages, found 1"):
        compose([torch.zeros(1, 1, 14, 14)])

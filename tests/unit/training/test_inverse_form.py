"""InverseForm: maps, tiles, transformations, distances, the network, and the loss with the committed network."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F

from modeling.weights import WeightsError
from tests.support.tiny_training import OneImage, tiny_config, tiny_run
from tests.support.tolerance import LOSS_VALUE, NEAREST_ROTATION
from training.__main__ import main
from training.data.stream import batches
from training.loop import Examples
from training.losses.inverse_form import (
    COMMITTED,
    InverseForm,
    InverseFormOptions,
    InverseNetwork,
    InverseNetworkConfig,
    euclidean,
    geodesic,
    load_inverse,
    save_inverse,
    soft_boundary,
)
from training.losses.inverse_form.distance import nearest_rotation, residual
from training.losses.inverse_form.network import FLAT
from training.losses.inverse_form.pairs import make_pairs, shapes
from training.losses.inverse_form.pretraining import Pretraining, pretrain, shift_table
from training.losses.inverse_form.tiles import cut, grid, with_boundary
from training.losses.inverse_form.transform import matrices, shift_of

SMALL = InverseNetworkConfig(side=32, widths=(8, 8, 8, 8), hidden=16)


def disc(x=32.0, y=32.0, radius=18.0, size=64):
    """Differentiable in its centre, with a ramp of one pixel at its rim."""
    axis = torch.arange(size, dtype=torch.float32) + 0.5
    distance = torch.sqrt((axis[None, :] - x) ** 2 + (axis[:, None] - y) ** 2)
    return torch.clamp(radius + 0.5 - distance, 0, 1)[None, None]


@pytest.fixture(scope="module")
def loss():
    return InverseForm.of(InverseFormOptions(weight=1.0))


def test_the_boundary_is_two_pixels_wide_on_both_sides_and_softer_where_alpha_is():
    edge = (torch.arange(16) >= 8).float().expand(1, 1, 16, 16)
    assert soft_boundary(edge)[0, 0, 5].nonzero()[:, 0].tolist() == [6, 7, 8, 9]
    assert soft_boundary(0.25 * edge).max() == 0.25
    assert soft_boundary(torch.full((1, 1, 8, 8), 0.7)).abs().max() < LOSS_VALUE


@pytest.mark.parametrize("value", [-0.01, 1.01, 255.0, math.nan, math.inf])
def test_mattes_beyond_0_and_1_are_refused(loss, value):
    wrong = disc()
    wrong[..., 3, 3] = value
    for pair in ((wrong, disc()), (disc(), wrong)):
        with pytest.raises(ValueError, match=r"in \[0, 1\], found values from"):
            loss(*pair)
    with pytest.raises(ValueError, match=r"alpha in \[0, 1\]"):
        soft_boundary(wrong)


def test_mattes_of_different_shapes_are_refused(loss):
    with pytest.raises(ValueError, match="one shape"):
        loss(disc(), disc(size=32))


def test_tiles_are_cut_row_by_row_and_padded():
    maps = torch.arange(2 * 5 * 6.0).view(2, 1, 5, 6)
    tiles = cut(maps, 4)
    assert tiles.shape == (8, 1, 4, 4)
    assert torch.equal(tiles[0, 0], maps[0, 0, :4, :4])
    assert torch.equal(tiles[5, 0, :, :2], maps[1, 0, :4, 4:])
    assert torch.equal(tiles[6, 0, :1], maps[1, 0, 4:, :4])
    assert tiles[5, 0, :, 2:].abs().sum() == tiles[6, 0, 1:].abs().sum() == 0


def test_tiles_without_a_true_boundary_do_not_count(loss):
    truth = torch.zeros(1, 1, 128, 128)
    truth[..., :64, :64] = disc()
    wrong = truth.clone()
    wrong[..., 64:, 64:] = disc()
    assert with_boundary(cut(soft_boundary(truth), 64), 0.01).tolist() == [True, False, False, False]
    assert loss(wrong, truth).item() == 0.0
    nothing = torch.zeros(1, 1, 64, 64, requires_grad=True)
    found = loss(nothing, torch.zeros(1, 1, 64, 64))
    found.backward()
    assert found.item() == 0.0
    assert nothing.grad is not None


def test_the_parameters_of_a_shift_are_a_shift():
    """second(x) = first(θ x): with θ a shift of 3 pixels to the right, the second picture lies 3 to the left."""
    first = disc()
    points = torch.einsum("nij,hwj->nhwi", matrices(shift_of(3.0, -2.0, 64))[:, :2], grid(64, first))
    second = F.grid_sample(first, points, align_corners=False)
    torch.testing.assert_close(second, disc(29.0, 34.0), atol=1e-4, rtol=0)
    assert shift_of(8.0, 0.0, 64)[0].tolist() == [0, 0, 1, 0, 0, 0]


def rotation(angle):
    c, s = math.cos(angle), math.sin(angle)
    return torch.tensor([[[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]]], dtype=torch.float64)


def test_distances_by_hand():
    nothing = torch.zeros(1, 6)
    assert euclidean(nothing).item() == geodesic(nothing).item() == 0.0
    assert euclidean(torch.tensor([[3.0, 0, 0, 0, 4.0, 0]])).item() == pytest.approx(5.0)
    for angle in (1e-3, 0.3, -0.9):
        assert residual(rotation(angle), 0.1).item() == pytest.approx(abs(angle), rel=1e-6)
    scaled = torch.diag(torch.tensor([1.2, 1.2, 1.0], dtype=torch.float64))[None]
    assert residual(scaled, 0.1).item() == pytest.approx(0.1 * 2 * 0.2**2)


def test_the_nearest_rotation_is_the_closest_of_many():
    generator = torch.Generator().manual_seed(0)
    theta = torch.eye(3, dtype=torch.float64) + 0.4 * torch.randn(20, 3, 3, dtype=torch.float64, generator=generator)
    found = nearest_rotation(theta)
    torch.testing.assert_close(found @ found.mT, torch.eye(3, dtype=torch.float64).expand(20, 3, 3))
    assert torch.linalg.det(found).min() > 0.999
    for axis in torch.eye(3, dtype=torch.float64):
        for angle in (-0.02, 0.02):
            x, y, z = axis.tolist()
            turn = torch.linalg.matrix_exp(
                angle * torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=torch.float64)
            )
            assert ((theta - turn @ found).square().sum((1, 2)) >= (theta - found).square().sum((1, 2))).all()


def test_distances_have_exact_gradients_also_at_the_identity():
    generator = torch.Generator().manual_seed(1)
    parameters = torch.randn(4, 6, dtype=torch.float64, generator=generator)
    for spread in (1.0, 1e-2):
        near = (parameters * spread).requires_grad_()
        for distance in (euclidean, geodesic):
            assert torch.autograd.gradcheck(distance, (near,), eps=1e-7)
    assert torch.autograd.gradcheck(nearest_rotation, (rotation(0.0).requires_grad_(),), rtol=NEAREST_ROTATION)
    for distance in (euclidean, geodesic):
        here = torch.zeros(2, 6, requires_grad=True)
        distance(here).sum().backward()
        assert here.grad is not None
        assert torch.isfinite(here.grad).all()


@pytest.mark.parametrize("config", [SMALL, replace(FLAT, side=32, widths=(20, 8))])
def test_a_network_is_0_for_equal_maps_and_changes_its_sign_when_they_are_exchanged(config):
    torch.manual_seed(0)
    network = InverseNetwork(config).eval()
    first, second = torch.rand(2, 3, 1, 32, 32)
    assert network(first, first).abs().max() == 0
    assert torch.equal(network(first, second), -network(second, first))
    assert network(first, second).abs().min() > 0


def test_pairs_are_those_of_their_parameters():
    pairs = make_pairs(shapes(3, 8), torch.Generator().manual_seed(4), 16, 32)
    assert pairs.first.shape == pairs.second.shape == (16, 1, 32, 32)
    assert pairs.first.min() >= 0
    assert pairs.first.max() <= 1
    again = make_pairs(shapes(3, 8), torch.Generator().manual_seed(4), 16, 32)
    assert torch.equal(pairs.second, again.second)
    # Warping the first map gives nearly the second: the same boundary, a little wider or narrower.
    points = torch.einsum("nij,hwj->nhwi", matrices(pairs.parameters)[:, :2], grid(32, pairs.first))
    warped = F.grid_sample(pairs.first, points, align_corners=False)
    inside = (points.abs() < 0.8).all(dim=-1)[:, None]

    def difference(other):
        return float(((pairs.second - other).abs() * inside).sum())

    assert difference(warped) < 0.5 * difference(pairs.first)


def test_pretraining_learns_and_repeats(tmp_path, capsys):
    reported: list[int] = []
    options = Pretraining(steps=100, batch=32, pool=40, rate=5e-3)
    network = pretrain(SMALL, options, lambda step, error: reported.append(step))
    assert reported == list(range(1, 101))
    pairs = make_pairs(shapes(11, 40), torch.Generator().manual_seed(5), 64, 32)
    error = (network(pairs.first, pairs.second).detach() - pairs.parameters).abs().mean()
    assert error < 0.93 * pairs.parameters.abs().mean()
    first, again = (pretrain(SMALL, replace(options, steps=5)).state_dict() for _ in range(2))
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    out = tmp_path / "inverse.safetensors"
    main(
        [
            "inverse-form",
            "pretrain",
            "--steps",
            "2",
            "--batch",
            "4",
            "--network",
            "flat",
            "--side",
            "16",
            "--out",
            str(out),
        ]
    )
    assert "mean distance on 200 held-out shapes" in capsys.readouterr().out
    assert load_inverse(out).config == replace(FLAT, side=16)


def test_files_that_hold_no_inverse_network_are_refused(tmp_path):
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match="expected an inverse network's configuration"):
        load_inverse(tmp_path / "other.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "bad.safetensors", {"inverse_form_config": "{}"})
    with pytest.raises(WeightsError, match="not an inverse network"):
        load_inverse(tmp_path / "bad.safetensors")
    network = InverseNetwork(SMALL)
    save_inverse(network, tmp_path / "own.safetensors")
    loaded = load_inverse(tmp_path / "own.safetensors").state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in network.state_dict().items())
    for wrong in ({"kind": "other"}, {"side": 40}, {"widths": (1, 2)}):
        with pytest.raises(ValueError, match="multiple of 16"):
            InverseNetworkConfig(**wrong)


def test_the_committed_network_is_small_and_its_distance_rises_with_every_pixel():
    assert COMMITTED.stat().st_size <= 1_000_000
    found = shift_table(load_inverse(COMMITTED), count=60)
    assert found[0] == 0
    assert all(after > before + 0.02 for before, after in pairwise(found))


@pytest.mark.parametrize("distance", ["euclidean", "geodesic"])
@pytest.mark.parametrize("direction", [(1, 0), (0, -1), (-1, 1)])
def test_the_loss_is_0_at_the_truth_and_rises_from_1_to_8_pixels(distance, direction):
    loss = InverseForm.of(InverseFormOptions(weight=1.0, distance=distance))
    x, y = direction
    values = [loss(disc(32.0 + k * x, 32.0 + k * y, 16.0), disc(radius=16.0)).item() for k in range(9)]
    assert values[0] == 0
    assert values == sorted(values)
    assert all(after > before for before, after in pairwise(values))


def test_the_published_form_has_no_gradient_and_this_one_has(loss):
    """Reference D.3: a log-softmax over one channel is 0 everywhere. Seen here, so that the test can fail."""
    logits = (8 * (disc(36.0) - 0.5)).requires_grad_()
    (dead,) = torch.autograd.grad(torch.log_softmax(logits, dim=1).square().sum(), logits)
    assert dead.abs().max() == 0
    (alive,) = torch.autograd.grad(loss(torch.sigmoid(logits), disc()), logits)
    assert torch.isfinite(alive).all()
    assert (alive != 0).sum() > 50


@pytest.mark.parametrize("shift", [-6.0, -2.0, 2.0, 6.0])
def test_a_step_against_the_gradient_moves_a_disc_towards_the_truth(loss, shift):
    x = torch.tensor(32.0 + shift, requires_grad=True)
    loss(disc(x), disc()).backward()
    assert x.grad is not None
    assert x.grad.item() * shift > 0


def test_the_network_is_frozen(loss):
    alpha = disc(35.0).requires_grad_()
    loss(alpha, disc()).backward()
    assert not loss.network.training
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in loss.parameters())


def test_mattes_are_reduced_first_when_asked():
    far = InverseForm.of(InverseFormOptions(weight=1.0, reduction=2))
    near = InverseForm.of(InverseFormOptions(weight=1.0))
    truth, found = disc(64.0, 64.0, 36.0, 128), disc(70.0, 64.0, 36.0, 128)
    halves = (F.avg_pool2d(each, 2) for each in (found, truth))
    assert far(found, truth).item() == pytest.approx(near(*halves).item(), abs=LOSS_VALUE)


def test_it_enters_rises_and_leaves():
    options = InverseFormOptions(weight=2.0, begins=0.2, ramp=0.1, ends=0.9)
    weights = [options.weight_at(share) for share in (0.0, 0.19, 0.2, 0.25, 0.3, 0.89, 0.9, 1.0)]
    assert weights == pytest.approx([0, 0, 0, 1, 2, 2, 0, 0])
    assert replace(options, ramp=0.0).weight_at(0.2) == 2.0
    assert InverseFormOptions().weight_at(0.5) == 0
    for wrong in ({"distance": "other"}, {"weight": -1.0}, {"reduction": 0}, {"begins": 0.9}):
        with pytest.raises(ValueError, match="begins before ends"):
            InverseFormOptions(**wrong)


def test_a_run_has_it_only_when_asked_and_within_its_share(tmp_path):
    options = InverseFormOptions(weight=50.0, begins=0.5, ramp=0.0)
    runs = [
        tiny_run(tmp_path / name, tiny_config(steps=4, inverse_form=each), OneImage())
        for name, each in (("with", options), ("without", InverseFormOptions()))
    ]
    assert runs[1].inverse_form is None
    batch = Examples(*next(batches(OneImage(), 32, 2, 0, 0)))
    curves = [[run.train_step(batch)["loss"] for _ in range(4)] for run in runs]
    assert curves[0][:2] == curves[1][:2]
    assert curves[0][2] > curves[1][2]

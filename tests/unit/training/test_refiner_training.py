"""CRM's losses, and a loop that learns, repeats and continues as if it had never stopped."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from modeling.crm.weights import load_refiner
from modeling.weights import WeightsError
from tests.support.crm import SMALL, small_refiner, soft_mask
from tests.support.tolerance import LOSS_VALUE
from training.__main__ import main
from training.config import Budget
from training.learner import Cadence
from training.refiner.config import RefinerConfig
from training.refiner.evaluate import evaluate_refiner, summary
from training.refiner.loop import RefinerRun, target_logits
from training.refiner.losses import CRM_WEIGHTS, RefinerWeights, cross_entropy, gradient, harm, refiner_loss
from training.refiner.samples import make_batch, refiner_batches

TINY = RefinerConfig(
    SMALL, Budget(steps=6), window=48, batch=2, scene_size=96, points=256, scaled=0.3, learning_rate=3e-3, warmup=0.1
)


def run_in(folder: Path, config: RefinerConfig = TINY) -> RefinerRun:
    return RefinerRun(config, folder, Cadence(log_steps=1))


def test_every_term_is_zero_at_the_truth():
    truth = soft_mask(24, 24).clamp(0.01, 0.99)
    logits = torch.logit(truth)
    for weights in (RefinerWeights(), CRM_WEIGHTS):
        assert refiner_loss(logits, soft_mask(24, 24, 3), truth, weights).abs() < LOSS_VALUE
        assert refiner_loss(logits + 0.5, truth, truth, weights) > 0.01


def test_cross_entropy_by_hand():
    logits, truth = torch.tensor([[0.0]]), torch.tensor([[0.25]])
    expected = np.log(2) + 0.25 * np.log(0.25) + 0.75 * np.log(0.75)
    assert cross_entropy(logits, truth).item() == pytest.approx(expected, abs=LOSS_VALUE)


def test_the_gradient_term_sees_edges_and_survives_constant_masks():
    edge = torch.zeros(1, 9, 9)
    edge[:, :, 5:] = 1
    assert gradient(edge, edge) == 0
    assert gradient(torch.zeros(1, 9, 9), edge) > 0.1
    flat = torch.full((1, 9, 9), 0.5, requires_grad=True)
    (slope,) = torch.autograd.grad(gradient(flat, edge), flat)
    assert torch.isfinite(slope).all()


def test_harm_counts_only_what_became_worse():
    mask, truth = torch.tensor([[0.2, 0.8]]), torch.tensor([[0.0, 1.0]])
    assert harm(torch.tensor([[0.1, 0.9]]), mask, truth) == 0
    assert harm(torch.tensor([[0.4, 0.9]]), mask, truth).item() == pytest.approx(0.1)


def test_a_batch_moves_to_a_device_whole():
    for step in range(8):
        batch = make_batch(TINY, step)
        assert batch.to(torch.device("cpu")) is batch
        moved = vars(batch.to(torch.device("meta")))
        for name, value in vars(batch).items():
            assert (value is None) == (moved[name] is None)
            assert value is None or (moved[name].device.type, moved[name].shape) == ("meta", value.shape)


def test_batches_do_not_depend_on_how_they_are_made():
    first, again = (make_batch(TINY, 4) for _ in range(2))
    streamed = next(refiner_batches(TINY, 4, 0))
    for other in (again, streamed):
        assert torch.equal(first.image, other.image)
        assert torch.equal(first.mask, other.mask)
        assert torch.equal(first.frame, other.frame)
    assert not torch.equal(first.mask, make_batch(TINY, 5).mask)


def test_batches_have_the_promised_shapes_and_scales():
    scales = set()
    for step in range(12):
        batch = make_batch(TINY, step)
        side, target = batch.image.shape[1], batch.truth.shape[1]
        assert batch.mask.shape == (2, side, side)
        assert batch.target_mask.shape == batch.truth.shape == (2, target, target)
        origin, canvas = batch.frame[:, :2], batch.frame[:, 2:]
        assert (origin >= 0).all()
        assert (origin + side <= canvas + 1e-3).all()
        assert side == min(target, 96)
        assert batch.rows is not None or target == TINY.window
        scales.add(side / target)
        logits, mask, truth = target_logits(small_refiner(), batch)
        assert logits.shape == mask.shape == truth.shape
    assert 1.0 in scales


def test_inputs_smaller_than_their_targets_are_drawn():
    config = replace(TINY, scaled=1.0, scene_size=256)
    targets = {make_batch(config, step).truth.shape[1] for step in range(12)}
    assert max(targets) > 96


def test_a_refiner_learns_one_batch_by_heart(tmp_path: Path):
    run = run_in(tmp_path, replace(TINY, budget=Budget(steps=200), learning_rate=1e-2))
    batch = make_batch(replace(TINY, scaled=0.0), 3)
    figures = [run.train_step(batch) for _ in range(60)]
    assert figures[0]["mae"] == pytest.approx(figures[0]["before"], abs=3e-3)
    assert figures[-1]["mae"] < 0.6 * figures[-1]["before"]


def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(tmp_path: Path):
    whole = run_in(tmp_path / "whole")
    whole.train()
    run_in(tmp_path / "parts").train(stop_after=3)
    rest = run_in(tmp_path / "parts")
    assert rest.resume()
    assert rest.progress.step == 3
    rest.train()
    for mine, theirs in ((rest.network.state_dict(), whole.network.state_dict()), (rest.ema.state, whole.ema.state)):
        assert all(torch.equal(mine[key], theirs[key]) for key in theirs)
    assert (tmp_path / "parts" / "log.csv").read_text().count("\n") == 7


def test_the_command_trains_and_writes_weights_that_load(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run_in(tmp_path).train()
    with pytest.raises(SystemExit, match="already holds a run"):
        main(["refiner", "train", "--out", str(tmp_path)])
    target = tmp_path / "refiner.safetensors"
    main(["refiner", "weights", str(tmp_path / "last.safetensors"), "--out", str(target), "--command", "here"])
    assert "step 6" in capsys.readouterr().out
    network = load_refiner(target)
    assert network.config == SMALL
    assert not network.training
    main(["refiner", "train", "--resume", "--steps", "7", "--out", str(tmp_path)])
    assert "step 7" in capsys.readouterr().out


def test_weights_that_do_not_fit_are_named(tmp_path: Path):
    from modeling.crm.weights import CONFIG_KEY, load_refiner_state
    from modeling.weights import write_state

    network = small_refiner()
    state = {key: value for key, value in network.state_dict().items() if key != "encoder.stem.0.weight"}
    with pytest.raises(WeightsError, match=r"1 keys do not fit.*\n.*missing encoder\.stem\.0\.weight"):
        load_refiner_state(network, state)
    write_state(state, tmp_path / "bad.safetensors", None, (CONFIG_KEY, "{}"))
    with pytest.raises(WeightsError, match="stored configuration is not one"):
        load_refiner(tmp_path / "bad.safetensors")


def test_evaluation_tells_a_refiner_that_does_nothing():
    from modeling.crm.network import CRM

    figures = evaluate_refiner(CRM(SMALL).eval(), 2, 64)
    assert figures
    for each in figures:
        assert each.after == pytest.approx(each.before, abs=3e-3)
        assert 0 <= each.accuracy_before <= 1
    assert "perturbed" in summary(figures)

"""The loop: it learns, it repeats, and it continues as if it had never stopped."""

import csv
import math

import pytest
import torch

from tests.support.tiny_training import OneImage, tiny_config, tiny_run
from training.__main__ import main
from training.checkpoint import Ema, ema_weights, read_header
from training.config import Budget, Phase, TrainingConfig
from training.loop import Examples
from training.optimizer import learning_rate
from training.parallel import Group
from training.session import RunOptions, train_in_group


def losses_of(run):
    run.train()
    with (run.folder / "log.csv").open() as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def test_a_network_learns_one_image_by_heart(tmp_path):
    run = tiny_run(tmp_path, tiny_config(steps=40, learning_rate=1e-2), OneImage())
    first = run.train_step(next(iter_batches(run)))["mae"]
    run.train()
    last = run.train_step(next(iter_batches(run)))["mae"]
    assert first > 0.25
    assert last < 0.5 * first


def iter_batches(run):
    from training.data.stream import batches

    return (Examples(*batch) for batch in batches(run.source, 32, 2, 0, 0))


def test_the_same_seed_gives_the_same_curve_and_another_seed_another(tmp_path):
    first = losses_of(tiny_run(tmp_path / "a"))
    assert len(first) == 6
    assert losses_of(tiny_run(tmp_path / "b")) == first
    assert losses_of(tiny_run(tmp_path / "c", tiny_config(seed=8))) != first


def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(tmp_path):
    whole = tiny_run(tmp_path / "whole")
    whole.train()
    tiny_run(tmp_path / "parts").train(stop_after=3)
    rest = tiny_run(tmp_path / "parts")
    assert rest.resume()
    assert rest.progress.step == 3
    rest.train()
    assert rest.progress.step == whole.progress.step == 6
    assert rest.progress.next_index == whole.progress.next_index
    assert same(rest.network.state_dict(), whole.network.state_dict())
    assert same(rest.ema.state, whole.ema.state)
    mine, theirs = (run.optimizer.state_dict()["state"] for run in (rest, whole))
    assert mine.keys() == theirs.keys()
    assert all(same(mine[index], theirs[index]) for index in mine)


def test_a_run_without_a_checkpoint_starts_afresh(tmp_path):
    run = tiny_run(tmp_path)
    assert not run.resume()
    assert run.progress.step == 0


def test_a_fresh_run_can_begin_from_the_weights_of_another(tmp_path):
    first = tiny_run(tmp_path / "first", tiny_config(steps=2))
    first.train()
    main(["weights", str(first.checkpoint), "--out", str(tmp_path / "tiny.safetensors")])
    config = tiny_config(steps=1, learning_rate=1e-12)
    train_in_group(Group(), config, RunOptions(tmp_path / "second", initial=tmp_path / "tiny.safetensors"))
    second = tiny_run(tmp_path / "second", config)
    assert second.resume()
    weights = {name: parameter.detach() for name, parameter in second.network.named_parameters()}
    for name, parameter in weights.items():
        assert torch.allclose(parameter, first.ema.state[name].half().float(), atol=1e-6), name


def test_the_checkpoint_holds_its_configuration_and_the_averaged_weights(tmp_path):
    run = tiny_run(tmp_path)
    run.train()
    config, progress = read_header(run.checkpoint)
    assert config == run.config
    assert progress.step == 6
    assert same(ema_weights(run.checkpoint), run.ema.state)
    assert not list(tmp_path.glob("*.partial"))


def test_a_file_of_other_tensors_is_refused(tmp_path):
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="not a training checkpoint"):
        read_header(tmp_path / "other.safetensors")


def test_the_average_lags_behind_and_follows(tmp_path):
    network = torch.nn.Linear(1, 1, bias=False)
    ema = Ema(network, 0.9)
    start = ema.state["weight"].clone()
    with torch.no_grad():
        network.weight += 1.0
    ema.update(network, step=10_000)
    assert torch.allclose(ema.state["weight"], start + 0.1)
    ema.update(network, step=0)
    assert torch.allclose(ema.state["weight"], start + 0.1 + 0.9 * 0.9)


def test_the_rate_warms_up_and_falls_to_its_share():
    config = tiny_config(steps=100, learning_rate=1.0, warmup=0.1, final_rate=0.05)
    assert learning_rate(config, 0.05) == pytest.approx(0.5)
    assert learning_rate(config, 0.1) == pytest.approx(1.0)
    assert learning_rate(config, 0.55) == pytest.approx(0.05 + 0.95 * 0.5)
    assert learning_rate(config, 1.0) == pytest.approx(0.05)
    falling = [learning_rate(config, share / 100) for share in range(10, 101)]
    assert falling == sorted(falling, reverse=True)


def test_phases_change_the_size_at_their_share(tmp_path):
    phases = (Phase(0.5, 32, 4), Phase(1.0, 64, 2))
    config = TrainingConfig(tiny_config().network, phases, Budget(steps=4))
    run = tiny_run(tmp_path, config)
    run.train()
    with (tmp_path / "log.csv").open() as file:
        assert [row["size"] for row in csv.DictReader(file)] == ["32", "32", "64", "64"]
    assert run.progress.next_index == 2 * 4 + 2 * 2


def test_a_budget_of_time_ends_the_run(tmp_path):
    config = TrainingConfig(tiny_config().network, (Phase(1.0, 32, 2),), Budget(seconds=1.0))
    run = tiny_run(tmp_path, config)
    run.train()
    assert run.progress.elapsed >= 1.0
    assert run.progress.step >= 1


@pytest.mark.parametrize("values", [{}, {"steps": 1, "seconds": 1.0}, {"steps": 0}, {"seconds": -1.0}])
def test_a_budget_is_steps_or_seconds(values):
    with pytest.raises(ValueError, match="budget"):
        Budget(**values)


def test_impossible_phases_are_refused():
    with pytest.raises(ValueError, match="multiple of 32, found 48"):
        Phase(1.0, 48, 2)
    with pytest.raises(ValueError, match="the last at 1"):
        TrainingConfig(tiny_config().network, (Phase(0.5, 32, 2),), Budget(steps=1))


def test_a_diverging_run_stops_with_a_reason(tmp_path):
    run = tiny_run(tmp_path)
    with torch.no_grad():
        next(run.network.parameters()).fill_(math.nan)
    with pytest.raises(FloatingPointError, match="gradient"):
        run.train_step(next(iter_batches(run)))


def test_a_batch_is_split_evenly_or_not_at_all():
    assert Group(1, 2).share_of(8) == slice(4, 8)
    for batch in (5, 2, 0):
        with pytest.raises(ValueError, match=f"found {batch}"):
            Group(0, 2).share_of(batch)

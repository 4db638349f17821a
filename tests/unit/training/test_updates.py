"""What one update is: of several batches, at other rates for other parts, and how long the rest takes."""

import csv
from dataclasses import replace

import pytest
import torch
from torch import nn

from modeling.birefnet.network import BiRefNet
from tests.support.networks import TINY_RESNET
from tests.support.tiny_training import TINY_NETWORK, tiny_config, tiny_run
from tests.support.tolerance import ACCUMULATED_GRADIENT
from training.config import Budget, Phase, TrainingConfig
from training.data.sets import SETS
from training.learner import Cadence
from training.optimizer import backbone_factor, make_optimizer
from training.refiner.config import RefinerConfig

SURE = replace(TINY_NETWORK, aspp_dropout=0.0)


@pytest.fixture
def fixed_statistics(monkeypatch):
    """Batch normalisation by what it was made with, so that an image does not depend on its batch."""
    kept = nn.BatchNorm2d.train
    monkeypatch.setattr(nn.BatchNorm2d, "train", lambda self, mode=True: kept(self, False))


def test_accumulated_batches_are_one_large_one_but_for_batch_norm(tmp_path, fixed_statistics):
    config = replace(tiny_config(batch=2, clip_norm=1e9), network=SURE)
    gradients, indices = [], []
    for name, part, parts in (("parts", 2, 3), ("whole", 6, 1)):
        phases = (Phase(1.0, 32, part),)
        run = tiny_run(tmp_path / name, replace(config, phases=phases, accumulate=parts), SETS["heldout"])
        run.train_step(*next(run.stream()))
        found = {key: value.grad for key, value in run.network.named_parameters()}
        gradients.append({key: grad for key, grad in found.items() if grad is not None})
        indices.append(run.progress.next_index)
    assert indices == [6, 6]
    assert gradients[0].keys() == gradients[1].keys()
    largest = max(float(grad.abs().max()) for grad in gradients[1].values())
    for key, grad in gradients[1].items():
        torch.testing.assert_close(gradients[0][key], grad, rtol=0, atol=ACCUMULATED_GRADIENT * largest, msg=key)


def test_batch_norm_sees_each_accumulated_batch_alone(tmp_path):
    """What differs from one large batch: statistics are of a part, and so many times updated."""
    run = tiny_run(tmp_path, replace(tiny_config(), accumulate=3))
    run.train_step(*next(run.stream()))
    assert run.network.decoder.decoder_block1.bn_in.num_batches_tracked == 3


def test_accumulation_resumes_and_repeats(tmp_path):
    config = replace(tiny_config(steps=4), accumulate=2)
    runs = [tiny_run(tmp_path / name, config) for name in ("a", "b")]
    runs[0].train()
    runs[1].train(stop_after=2)
    rest = tiny_run(tmp_path / "b", config)
    assert rest.resume()
    rest.train()
    assert rest.progress.next_index == 4 * 2 * 2
    logs = [(tmp_path / name / "log.csv").read_text().splitlines() for name in ("a", "b")]
    without_time = [[row.split(",")[:1] + row.split(",")[2:3] + row.split(",")[3:4] for row in log] for log in logs]
    assert without_time[0] == without_time[1]
    first, second = runs[0].network.state_dict(), rest.network.state_dict()
    assert all(torch.equal(second[name], value) for name, value in first.items())


def test_an_update_has_at_least_one_batch():
    with pytest.raises(ValueError, match="1 batch or more, found 0"):
        tiny_config(accumulate=0)
    from modeling.crm.config import CONFIGS

    with pytest.raises(ValueError, match="1 batch or more, found 0"):
        RefinerConfig(CONFIGS["compact"], Budget(steps=1), accumulate=0)


def test_stages_near_the_image_learn_more_slowly():
    rates = {
        "decoder.conv_out1.0.weight": 1,
        "squeeze_module.0.conv_in.weight": 1,
        "bb.norm3.weight": 0.5,
        "bb.layers.3.blocks.0.norm1.weight": 0.5,
        "bb.layers.2.downsample.norm.weight": 0.05,
        "bb.layers.0.blocks.0.norm1.weight": 0.0005,
        "bb.norm0.bias": 0.0005,
        "bb.patch_embed.norm.weight": 0.00005,
    }
    residual = {"bb.layer4.0.bn1.weight": 0.5, "bb.layer1.0.conv2.weight": 0.0005, "bb.stem.0.weight": 0.00005}
    for network, expected in ((TINY_NETWORK, rates), (TINY_RESNET, residual)):
        names = {name for name, _ in BiRefNet(network).named_parameters()}
        assert expected.keys() <= names
        assert {name: backbone_factor(name, 0.5, 0.1) for name in expected} == pytest.approx(expected)
        stages = {backbone_factor(name, 0.5, 0.1) for name in names}
        assert sorted(stages) == pytest.approx([0.00005, 0.0005, 0.005, 0.05, 0.5, 1])


def test_every_parameter_moves_at_its_own_rate(tmp_path):
    """The first step of AdamW without decay is the rate itself, wherever there is a gradient."""
    config = tiny_config(learning_rate=1e-3, batch=4, backbone_rate=0.5, layer_decay=0.5, weight_decay=0.0, warmup=0.0)
    run = tiny_run(tmp_path, config, SETS["heldout"])
    before = {name: value.detach().clone() for name, value in run.network.named_parameters()}
    figures = run.train_step(*next(run.stream()))
    assert figures["rate"] == pytest.approx(1e-3)
    for name, value in run.network.named_parameters():
        moved = float((value.detach() - before[name]).abs().max())
        assert moved <= 1.001e-3 * backbone_factor(name, 0.5, 0.5) + 1e-8, name
    for name in ("decoder.conv_out1.0.weight", "bb.norm3.weight", "bb.patch_embed.proj.weight"):
        moved = float((run.network.get_parameter(name).detach() - before[name]).abs().max())
        assert moved == pytest.approx(1e-3 * backbone_factor(name, 0.5, 0.5), rel=0.02), name


def test_a_frozen_backbone_stays_what_it_was(tmp_path):
    run = tiny_run(tmp_path, tiny_config(steps=3, backbone_rate=0.0))
    before = {name: value.clone() for name, value in run.network.state_dict().items()}
    run.train()
    changed = {name for name, value in run.network.named_parameters() if not torch.equal(value, before[name])}
    assert changed
    assert not [name for name in changed if name.startswith("bb.")]
    assert tiny_run(tmp_path, run.config).resume()


def test_the_optimisers_order_does_not_depend_on_the_rates(tmp_path):
    """Its state is kept by number: a changed rate must not give one parameter the moments of another."""
    config = tiny_config()
    network = tiny_run(tmp_path, config).network
    order = [
        [id(value) for group in make_optimizer(network, config, factor).param_groups for value in group["params"]]
        for factor in (lambda name: 1.0, lambda name: backbone_factor(name, 0.5, 0.7))
    ]
    assert order[0] == order[1]
    assert len(order[0]) == len(list(network.parameters()))


def test_rates_are_refused_where_they_mean_nothing():
    for backbone_rate, layer_decay in ((-0.1, 1.0), (2.0, 1.0), (1.0, 0.0)):
        with pytest.raises(ValueError, match="a backbone rate in"):
            replace(tiny_config(), backbone_rate=backbone_rate, layer_decay=layer_decay)


def test_what_a_budget_of_steps_has_left_counts_pixels(tmp_path):
    phases = (Phase(0.5, 32, 4), Phase(1.0, 64, 2))
    run = tiny_run(tmp_path, TrainingConfig(TINY_NETWORK, phases, Budget(steps=8)))
    assert run.seconds_left() is None
    stream = run.stream()
    next(stream)
    run.pace.counted(3.0)
    run.progress.step = 2
    # Two more steps like those so far, and four with twice as many pixels each.
    assert run.seconds_left() == pytest.approx(3.0 * (2 + 4 * 2))
    run.progress.step = 4
    next(stream)
    assert run.seconds_left() is None
    run.pace.counted(7.0)
    assert run.seconds_left() == pytest.approx(7.0 * 4)
    run.progress.step = 8
    assert run.seconds_left() == 0


def test_what_a_budget_of_time_has_left_is_the_rest_of_it(tmp_path):
    config = TrainingConfig(TINY_NETWORK, (Phase(1.0, 32, 2),), Budget(seconds=100.0))
    run = tiny_run(tmp_path, config)
    run.progress.elapsed = 40.0
    assert run.seconds_left() == 60.0
    run.progress.elapsed = 140.0
    assert run.seconds_left() == 0


def test_the_bar_of_a_resumed_run_begins_where_the_run_is(tmp_path, capsys):
    tiny_run(tmp_path, tiny_config(steps=4)).train(stop_after=2)
    capsys.readouterr()
    run = tiny_run(tmp_path, tiny_config(steps=4))
    run.resume()
    with run._bar() as bar:
        assert (bar.n, bar.initial) == (50, 50)
    run.train()
    assert "100.0%" in capsys.readouterr().err


def test_the_first_looks_come_early():
    cadence, looks, elapsed = Cadence(observe=600.0), [], 0.0
    for _ in range(7):
        elapsed = cadence.next_look(elapsed)
        looks.append(elapsed / 60)
    assert looks == [1, 2, 4, 8, 16, 26, 36]


def test_the_observer_sees_the_average_after_a_checkpoint(tmp_path):
    run, seen = tiny_run(tmp_path), []

    def observe(ema, progress):
        with (tmp_path / "log.csv").open() as file:
            seen.append((progress.step, len(list(csv.DictReader(file))), ema is run.ema))

    run.cadence = replace(run.cadence, observe=-1e9)
    run.train(observe)
    assert seen == [(step, step, True) for step in (1, 2, 3, 4, 5, 6, 6)]

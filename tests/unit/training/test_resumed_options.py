"""A run that goes on: what its command line changes is told or refused, never passed over."""

import argparse
from dataclasses import replace

import pytest
from safetensors.torch import save_file

from modeling.patch_order import current_to_legacy
from modeling.weights import read_state
from tests.support.processes import ROOT
from tests.support.tiny_training import TINY_NETWORK, tiny_config
from training.__main__ import main
from training.averaged import trained
from training.checkpoint import read_header
from training.config import NETWORKS, Budget, Phase
from training.initial import initial_state
from training.losses import FINE_TUNING, PRESETS
from training.options import SETTINGS, add_training_options, configured
from training.settings import changed

COMPACT = ROOT / "training" / "checkpoints" / "compact.safetensors"


def parsed(*words):
    parser = argparse.ArgumentParser()
    add_training_options(parser)
    parser.add_argument("--override", action="store_true")
    return parser.parse_args(words)


def test_without_options_a_fresh_run_is_the_documented_one():
    config = configured(parsed())
    assert config.network == NETWORKS["compact"]
    assert config.budget == Budget(seconds=5400.0)
    assert config.loss == PRESETS["general"]
    assert config.fine_tuning == FINE_TUNING["general"]
    assert (config.seed, config.learning_rate, config.precision, config.accumulate) == (7, 1e-3, "fp32", 1)
    assert [phase.size for phase in config.phases] == [192, 256, 384]


def test_options_mean_what_they_say():
    config = configured(
        parsed(
            *("--loss", "dis", "--weights", "structure=2", "--fine-tune-from", "0.9", "--inverse-form", "3"),
            *("--inverse-distance", "geodesic", "--bf16", "--accumulate", "4", "--backbone-rate", "0.1"),
            *("--layer-decay", "0.8", "--size", "64", "--phases", "32x2:1", "--steps", "5", "--seed", "9"),
        )
    )
    assert config.loss == replace(PRESETS["dis"], structure=2.0)
    assert config.fine_tuning == replace(FINE_TUNING["dis"], begins=0.9)
    assert (config.inverse_form.weight, config.inverse_form.distance) == (3.0, "geodesic")
    assert (config.precision, config.accumulate, config.backbone_rate, config.layer_decay) == ("bf16", 4, 0.1, 0.8)
    assert config.phases == (Phase(1.0, 32, 2),)
    assert (config.budget, config.seed) == (Budget(steps=5), 9)


def test_the_command_that_began_a_run_goes_on_with_it_unchanged():
    words = ["--loss", "dis", "--weights", "structure=2", "--fine-tune-from", "0.9", "--size", "64"]
    words += ["--phases", "32x2:1", "--inverse-form", "3", "--seed", "9", "--steps", "5", "--config", "compact"]
    stored = configured(parsed(*words))
    assert changed(stored, parsed(*words), SETTINGS) == (stored, [])
    assert changed(stored, parsed(), SETTINGS) == (stored, [])


def test_what_may_change_is_told_and_the_rest_is_refused_by_name():
    stored = configured(parsed("--steps", "5"))
    config, flags = changed(stored, parsed("--steps", "9", "--rate", "0.1", "--seed", "7"), SETTINGS)
    assert flags == ["--steps", "--rate"]
    assert config == replace(stored, budget=Budget(steps=9), learning_rate=0.1)
    words = ["--seed", "8", "--weights", "contour=1", "--steps", "9"]
    with pytest.raises(SystemExit, match="--weights, --seed: not what the run began with"):
        changed(stored, parsed(*words), SETTINGS)
    config, flags = changed(stored, parsed(*words, "--override"), SETTINGS)
    assert (config.seed, config.loss.contour, config.budget) == (8, 1.0, Budget(steps=9))
    assert flags == ["--steps", "--weights", "--seed"]


def test_another_network_is_refused_even_so():
    with pytest.raises(SystemExit, match="--config: a run goes on with the network that it began with"):
        changed(configured(parsed()), parsed("--config", "swin_t", "--override"), SETTINGS)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--accumulate", "0"), "--accumulate: an update has 1 batch or more, found 0"),
        (("--backbone-rate", "3"), "--backbone-rate: expected a backbone rate in"),
        (("--phases", "32x2:0.5"), "--phases: phases must end at rising shares"),
        (("--hours", "-1"), "--hours: a budget is positive"),
    ],
)
def test_impossible_values_are_told_with_their_option(words, message):
    with pytest.raises(SystemExit, match=message):
        configured(parsed(*words))


def test_the_command_tells_what_it_changes(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(NETWORKS, "compact", TINY_NETWORK)
    begin = ["train", "--phases", "32x2:1", "--out", str(tmp_path / "run")]
    main([*begin, "--steps", "1"])
    main([*begin, "--steps", "2", "--resume", "--init", str(COMPACT)])
    said = capsys.readouterr().out
    assert "resuming at step 1" in said
    assert "changed from here on: --steps\n" in said
    assert "--init has no effect" in said
    with pytest.raises(SystemExit, match="--precision: not what the run began with"):
        main([*begin, "--resume", "--precision", "bf16"])
    main([*begin, "--steps", "3", "--resume", "--precision", "bf16", "--override"])
    assert "changed from here on: --steps, --precision\n" in capsys.readouterr().out
    config, progress = read_header(tmp_path / "run" / "last.safetensors")
    assert (progress.step, config.precision) == (3, "bf16")


def test_a_refiners_command_does_so_too(tmp_path, capsys):
    begin = ["refiner", "train", "--window", "48", "--batch", "1", "--out", str(tmp_path)]
    main([*begin, "--steps", "1"])
    with pytest.raises(SystemExit, match="--window, --seed: not what the run began with"):
        main([*begin[:3], "56", *begin[4:], "--resume", "--seed", "8"])
    main([*begin, "--resume", "--steps", "2"])
    assert "changed from here on: --steps\n" in capsys.readouterr().out


def test_the_committed_checkpoint_is_still_read_and_names_its_own_network():
    config = configured(parsed("--init", str(COMPACT)))
    assert config.network == trained(COMPACT).config
    with pytest.raises(SystemExit, match="no checkpoint at"):
        main(["train", "--init", "nowhere.safetensors", "--out", "/nonexistent/run"])


def test_weights_in_the_old_patch_order_are_converted(tmp_path):
    """The embedded model's weights, permuted and stripped of what this software wrote beside them."""
    state = read_state(COMPACT)
    for name, order in (("old", current_to_legacy(state)), ("new", state)):
        save_file({key: value.contiguous() for key, value in order.items()}, tmp_path / f"{name}.safetensors")
        said: list[str] = []
        found = initial_state(tmp_path / f"{name}.safetensors", None, said.append)
        assert all((found[key] == value).all() for key, value in state.items())
        assert f"patch order {'legacy' if name == 'old' else 'current'}" in said[0]
    told = initial_state(tmp_path / "new.safetensors", "legacy", said.append)
    assert any((told[key] != value).any() for key, value in state.items())
    assert "as you say" in said[-1]
    said.clear()
    assert initial_state(COMPACT, None, said.append).keys() == state.keys()
    assert not said


def test_a_tiny_config_survives_its_dictionary():
    config = tiny_config(precision="fp16", accumulate=3, backbone_rate=0.2, layer_decay=0.9)
    assert type(config).from_dict(config.to_dict()) == config

"""Comparisons of small trainings: what runs, what is kept, how it is told."""

import json
from pathlib import Path
from typing import Any

import pytest

from modeling.birefnet.network import BiRefNet
from tests.support.processes import ROOT
from tests.support.tiny_training import tiny_config
from training.__main__ import main
from training.comparison import trials as module
from training.comparison.trials import Plan, as_differences, as_table, run_trials
from training.comparison.variants import SMALL, loss_variants, network_variants
from training.data.pool import PoolContents, fill


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pool")
    fill(folder, PoolContents("train", 0, 6, 32))
    return folder


def test_every_variant_runs_with_every_seed_and_is_not_run_again(pool: Path, tmp_path: Path, monkeypatch):
    plan = Plan(pool, 32, 2, (1, 2))
    variants = {"plain": tiny_config(3), "fast": tiny_config(3, learning_rate=1e-2)}
    out = tmp_path / "found.json"
    found = run_trials(variants, plan, out, {"size": 32})
    assert [(trial["variant"], trial["seed"]) for trial in found] == [
        ("plain", 1),
        ("fast", 1),
        ("plain", 2),
        ("fast", 2),
    ]
    assert all(trial["steps"] == 3 for trial in found)
    assert len({trial["sets"]["heldout-easy"]["mae"] for trial in found}) == 4
    assert json.loads(out.read_text()) == {"about": {"size": 32}, "trials": found}

    monkeypatch.setattr(module, "run_trial", lambda *_: pytest.fail("ran again"))
    assert run_trials(variants, plan, out, {"size": 32}) == found
    with pytest.raises(ValueError, match="of another comparison"):
        run_trials(variants, plan, out, {"size": 64})


def test_the_same_seed_finds_the_same(pool: Path):
    plan = Plan(pool, 32, 2, (1,))
    first, again = (module.run_trial(tiny_config(3), plan, 1)["sets"] for _ in range(2))
    assert first == again


def trial(variant: str, mae: float, seed: int = 0) -> dict[str, Any]:
    figures = {"mae": mae, "iou": 0.5, "boundary_iou": 0.25, "mba": 0.75}
    return {"variant": variant, "seed": seed, "steps": 7, "sets": {"heldout-easy": figures}}


def test_the_table_gives_mean_and_deviation():
    rows = as_table([trial("a", 0.1), trial("b", 0.2), trial("a", 0.3)], ["heldout-easy"]).splitlines()
    assert rows[2] == "| a | 2 | 7 | 0.200 ± 0.141 | 0.500 ± 0.000 | 0.250 ± 0.000 | 0.750 ± 0.000 |"
    assert rows[3] == "| b | 1 | 7 | 0.200 | 0.500 | 0.250 | 0.750 |"


def test_differences_are_those_of_one_seed():
    trials = [trial("a", 0.1, 1), trial("b", 0.2, 1), trial("a", 0.5, 2), trial("b", 0.6, 2), trial("b", 9.0, 3)]
    rows = as_differences(trials, ["heldout-easy"]).splitlines()
    assert rows[0] == "| against a | heldout-easy: iou | heldout-easy: mae |"
    assert rows[2:] == ["| b | +0.000 ± 0.000 | +0.100 ± 0.000 |"]


def test_the_documented_comparisons_are_what_was_measured():
    results, page = ROOT / "benchmarks" / "results" / "training", (ROOT / "docs" / "training.md").read_text()
    losses, networks = (json.loads((results / f"{name}.json").read_text())["trials"] for name in ("losses", "networks"))
    assert as_differences(losses) in page
    assert as_table(networks) in page


def test_loss_variants_differ_in_their_loss_alone():
    variants = loss_variants(10, 128, 16)
    assert len(set(map(repr, variants.values()))) == len(variants) == 12
    assert {variant.network for variant in variants.values()} == {SMALL}
    assert {variant.budget.steps for variant in variants.values()} == {10}


def test_network_variants_can_be_built():
    variants = network_variants(10, 128, 16)
    assert len({variant.network for variant in variants.values()}) == len(variants)
    assert len({variant.loss for variant in variants.values()}) == 1
    for variant in variants.values():
        assert sum(parameter.numel() for parameter in BiRefNet(variant.network).parameters()) < 10e6


def test_the_command_fills_its_pool_and_prints_the_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch
):
    monkeypatch.setattr("training.comparison.commands.loss_variants", lambda *_: {"tiny": tiny_config(2)})
    options = ["--pool", str(tmp_path / "pool"), "--images", "4", "--size", "32", "--seeds", "1", "--count", "2"]
    main(["compare", "losses", "--out", str(tmp_path / "found.json"), *options])
    assert "| tiny | 1 | 2 |" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="of another comparison"):
        main(["compare", "losses", "--out", str(tmp_path / "found.json"), *options[:-1], "3"])

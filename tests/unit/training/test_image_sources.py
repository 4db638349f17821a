"""Where a run's images come from beside sets and folders: pools, and what the device puts together."""

from pathlib import Path

import pytest
import torch

from tests.support.tiny_training import tiny_config, tiny_run
from training.__main__ import main
from training.config import TrainingConfig
from training.data.pool import PoolContents, PoolError, PoolSource, fill
from training.data.recomposition import Recomposition
from training.loop import source_of


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pool")
    fill(folder, PoolContents("rich", 0, 5, 32))
    return folder


def weights_of(folder: Path, config: TrainingConfig, stop_after: int | None = None) -> dict[str, torch.Tensor]:
    run = tiny_run(folder, config)
    run.resume()
    run.train(stop_after=stop_after)
    return run.network.state_dict()


def test_a_pool_is_a_source(pool: Path, tmp_path: Path):
    config = tiny_config(4, pools=(str(pool),))
    source = source_of(config)
    assert isinstance(source, PoolSource)
    first = next(tiny_run(tmp_path / "run", config).stream())[0]
    assert torch.equal(first.images[1], torch.from_numpy(source.item(1, 32)[0]))
    with pytest.raises(PoolError, match="not a whole pool"):
        source_of(tiny_config(4, pools=(str(tmp_path),)))


def test_images_are_put_together_anew_and_a_resumed_run_sees_the_same(tmp_path: Path):
    config = tiny_config(4, recomposed=3, data_set="rich")
    stream = tiny_run(tmp_path / "look", config).stream()
    first, second = next(stream)[0], next(stream)[0]
    assert first.images.shape == (2, 32, 32, 3)
    assert first.target.shape == (2, 1, 32, 32)
    assert not torch.equal(first.images, second.images)

    whole = weights_of(tmp_path / "whole", config)
    weights_of(tmp_path / "parts", config, stop_after=2)
    resumed = weights_of(tmp_path / "parts", config)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_one_place_at_most(pool: Path):
    for both in ({"data_folder": "x"}, {"recomposed": 4}):
        with pytest.raises(ValueError, match="expected one of them at most"):
            tiny_config(4, pools=(str(pool),), **both)


def test_the_runs_processes_draw_what_is_recomposed(tmp_path: Path):
    source = source_of(tiny_config(4, recomposed=3), workers=5)
    assert isinstance(source, Recomposition)
    assert source.workers == 5


def test_both_survive_a_checkpoint(pool: Path):
    for config in (tiny_config(4, pools=(str(pool), "other")), tiny_config(4, recomposed=7)):
        assert TrainingConfig.from_dict(config.to_dict()) == config


def test_the_command_takes_them(pool: Path, tmp_path: Path):
    options = ["--steps", "1", "--phases", "32x2:1", "--out", str(tmp_path / "run")]
    main(["train", *options, "--pool", str(pool)])
    with pytest.raises(SystemExit, match="not a whole pool"):
        main(["train", "--steps", "1", "--phases", "32x2:1", "--out", str(tmp_path / "b"), "--pool", str(tmp_path)])

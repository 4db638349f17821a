"""Pools: what is made once, what comes out of it round after round, and what is no pool."""

import json
from pathlib import Path

import numpy as np
import pytest

from training.__main__ import main
from training.data.pool import PoolContents, PoolError, PoolSource, fill, is_pool
from training.data.sets import SETS

SIZE = 32
CONTENTS = PoolContents("train", 40, 5, SIZE)


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pool")
    fill(folder, CONTENTS)
    return folder


def test_the_first_round_shows_every_image_once_as_it_was_made(pool: Path):
    source = PoolSource((pool,), seed=3)
    made = [SETS["train"].item(40 + place, SIZE) for place in range(5)]
    left = list(range(5))
    for index in range(5):
        image, alpha = source.item(index, SIZE)
        place = next(each for each in left if np.array_equal(made[each][0], image))
        left.remove(place)
        assert alpha.dtype == np.float32
        assert np.abs(alpha - made[place][1]).max() <= 0.5 / 255 + 1e-6
    assert not left


def test_later_rounds_are_varied_and_depend_on_seed_and_index_alone(pool: Path):
    first, again, other = (PoolSource((pool,), seed=seed) for seed in (3, 3, 4))
    for index in range(5, 15):
        image, alpha = first.item(index, SIZE)
        assert np.array_equal(image, again.item(index, SIZE)[0])
        assert not any(np.array_equal(image, first.item(early, SIZE)[0]) for early in range(5))
        assert alpha.min() >= 0
        assert alpha.max() <= 1
    assert any(not np.array_equal(first.item(index, SIZE)[0], other.item(index, SIZE)[0]) for index in range(5, 15))


def test_alpha_moves_with_the_colours(tmp_path: Path):
    """Where colours say where alpha is, they still do in every later round."""
    fill(tmp_path, PoolContents("train", 0, 1, SIZE))
    pixels = np.load(tmp_path / "pool.npy", mmap_mode="r+")
    pixels[:] = 0
    pixels[0, 8:24, 4:16] = 255
    pixels.flush()
    source, moved = PoolSource((tmp_path,), seed=1), []
    for index in range(1, 12):
        image, alpha = source.item(index, SIZE)
        assert np.abs((image[..., 1] > 100).astype(float) - (alpha > 0.5)).mean() < 0.06
        moved.append(alpha)
    assert any(np.abs(each - moved[0]).max() > 0.5 for each in moved[1:])


@pytest.mark.parametrize("size", [16, 64])
def test_other_sizes_are_resampled(pool: Path, size: int):
    image, alpha = PoolSource((pool,), seed=3).item(0, size)
    assert image.shape == (size, size, 3)
    assert alpha.shape == (size, size)
    stored, matte = PoolSource((pool,), seed=3).item(0, SIZE)
    assert abs(float(image.mean()) - float(stored.mean())) < 2
    assert abs(float(alpha.mean()) - float(matte.mean())) < 0.02


def test_several_pools_are_one(pool: Path, tmp_path: Path):
    fill(tmp_path, PoolContents("heldout", 0, 3, SIZE))
    source = PoolSource((pool, tmp_path), seed=5)
    means = {float(source.item(index, SIZE)[0].mean()) for index in range(8)}
    alone = {
        float(PoolSource((each,), seed=5).item(index, SIZE)[0].mean())
        for each in (pool, tmp_path)
        for index in range(3)
    }
    assert len(means) == 8
    assert alone <= means


def test_processes_do_not_change_what_is_made(pool: Path, tmp_path: Path):
    fill(tmp_path, CONTENTS, processes=2)
    assert (tmp_path / "pool.npy").read_bytes() == (pool / "pool.npy").read_bytes()


def test_the_command_fills_one(pool: Path, tmp_path: Path):
    options = ["--set", "train", "--first", "40", "--count", "5", "--size", "32", "--processes", "1"]
    main(["pool", *options, "--out", str(tmp_path)])
    assert (tmp_path / "pool.npy").read_bytes() == (pool / "pool.npy").read_bytes()
    assert (tmp_path / "pool.json").read_bytes() == (pool / "pool.json").read_bytes()


def test_what_is_no_whole_pool_is_refused(pool: Path, tmp_path: Path):
    assert is_pool(pool)
    assert not is_pool(tmp_path)
    with pytest.raises(PoolError, match="not a whole pool"):
        PoolSource((tmp_path,), seed=1)
    (tmp_path / "pool.npy").write_bytes((pool / "pool.npy").read_bytes())
    with pytest.raises(PoolError, match="not a whole pool"):
        PoolSource((tmp_path,), seed=1)
    (tmp_path / "pool.json").write_text(json.dumps({"data_set": "train", "first": 0, "count": 6, "size": SIZE}))
    with pytest.raises(PoolError, match=r"expected uint8 \(6, 32, 32, 4\), found uint8 \(5, 32, 32, 4\)"):
        PoolSource((tmp_path,), seed=1)

"""Folders of the user's own: every layout, every complaint, the augmentations, and a run on one."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.support.tiny_training import TINY_NETWORK, tiny_config
from training.__main__ import main
from training.checkpoint import read_header
from training.config import NETWORKS, TrainingConfig
from training.data.augmentation import FLIP, NONE, Augmentation, augment
from training.data.folders import Cutout, FolderError, Pair, find_examples
from training.data.photographs import open_folder

ALONE = {
    "flip": replace(NONE, flip=1.0),
    "enhance": replace(NONE, enhance=True),
    "rotate": replace(NONE, rotate=1.0),
    "pepper": replace(NONE, pepper=0.1),
    "crop": replace(NONE, crop=True),
}


def picture(seed, size=(40, 30)):
    """A disc on noise, and its matte; (width, height)."""
    rng = np.random.default_rng(seed)
    width, height = size
    y, x = np.mgrid[:height, :width]
    matte = np.where(np.hypot(x - width / 2, y - height / 2) < 8 + seed, 255, 0).astype(np.uint8)
    image = rng.integers(0, 120, (height, width, 3)).astype(np.uint8)
    image[matte > 0] = (200, 60, 20 + seed)
    return image, matte


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def make_pairs(folder, images="im", mattes="gt", count=3):
    for index in range(count):
        image, matte = picture(index)
        save(folder / images / f"{index}.jpg", image)
        save(folder / mattes / f"{index}.png", matte)
    return folder


@pytest.mark.parametrize(
    ("images", "mattes"),
    [
        ("im", "gt"),
        ("DIS5K/DIS-TR/im", "DIS5K/DIS-TR/gt"),
        ("P3M-10k/train/blurred_image", "P3M-10k/train/mask"),
        ("P3M-10k/validation/P3M-500-NP/original_image", "P3M-10k/validation/P3M-500-NP/mask"),
        ("AM-2k/train/original", "AM-2k/train/mask"),
    ],
)
def test_every_layout_is_found(tmp_path, images, mattes):
    make_pairs(tmp_path, images, mattes)
    save(tmp_path / images.rpartition("/")[0] / "trimap" / "0.png", picture(0)[1])
    found = find_examples(tmp_path)
    assert [type(each) for each in found] == [Pair] * 3
    assert [each.image.stem for each in found] == ["0", "1", "2"]
    for index, pair in enumerate(found):
        assert pair == Pair(tmp_path / images / f"{index}.jpg", tmp_path / mattes / f"{index}.png")


def test_several_data_sets_side_by_side_are_one(tmp_path):
    make_pairs(tmp_path / "a")
    make_pairs(tmp_path / "b", "original", "mask", count=2)
    assert len(find_examples(tmp_path)) == 5


def test_a_pair_is_read_as_it_is(tmp_path):
    image, matte = picture(2, (32, 32))
    save(tmp_path / "im" / "a.png", image)
    save(tmp_path / "gt" / "a.png", matte)
    found, alpha = open_folder(tmp_path, 1, None).item(0, 32)
    np.testing.assert_array_equal(found, image)
    np.testing.assert_array_equal(alpha, matte.astype(np.float32) / 255)
    assert found.dtype == np.uint8
    assert alpha.dtype == np.float32


def test_mattes_of_other_kinds_are_read_too(tmp_path):
    image, matte = picture(1)
    save(tmp_path / "im" / "deep.png", image)
    save(tmp_path / "gt" / "deep.png", matte.astype(np.uint16) * 257)
    save(tmp_path / "im" / "rgb.png", image)
    save(tmp_path / "gt" / "rgb.png", np.repeat(matte[..., None], 3, axis=2))
    source = open_folder(tmp_path, 1, None)
    for index in range(2):
        np.testing.assert_allclose(source.item(index, 24)[1], source.item(0, 24)[1], atol=1e-6)
        assert source.item(index, 24)[1].max() == 1
    save(tmp_path / "gt" / "rgb.png", np.dstack([image, matte]))
    with pytest.raises(FolderError, match="expected a grey matte of 8 or 16 bits, found mode RGBA"):
        source.item(1, 24)


def test_a_turned_photograph_is_turned_with_its_matte(tmp_path):
    image, matte = picture(1, (40, 30))
    upright = Image.fromarray(np.rot90(image).copy())
    exif = upright.getexif()
    exif[0x0112] = 6  # shown turned clockwise by a quarter
    (tmp_path / "im").mkdir()
    upright.save(tmp_path / "im" / "a.png", exif=exif)
    save(tmp_path / "gt" / "a.png", matte)
    found, _ = open_folder(tmp_path, 1, None).item(0, 32)
    np.testing.assert_array_equal(found, cv2.resize(image, (32, 32), interpolation=cv2.INTER_LINEAR))


def test_missing_partners_are_named(tmp_path):
    make_pairs(tmp_path, count=8)
    for index in range(7):
        (tmp_path / "gt" / f"{index}.png").unlink()
    with pytest.raises(FolderError, match=r"7 pictures have no matte in .*gt: 0, 1, 2, 3, 4 and 2 more"):
        find_examples(tmp_path)
    make_pairs(tmp_path, count=8)
    (tmp_path / "im" / "3.jpg").unlink()
    with pytest.raises(FolderError, match=r"1 pictures have no photograph in .*im: 3"):
        find_examples(tmp_path)


def test_sizes_that_differ_are_named(tmp_path):
    make_pairs(tmp_path)
    save(tmp_path / "gt" / "1.png", picture(1, (50, 30))[1])
    with pytest.raises(FolderError, match=r"1\.jpg of 40x30 and .*1\.png of 50x30"):
        find_examples(tmp_path)


def test_other_faults_are_named(tmp_path):
    with pytest.raises(FolderError, match="is not a folder"):
        find_examples(tmp_path / "none")
    (tmp_path / "pictures").mkdir()
    with pytest.raises(FolderError, match=r"expected im/ with gt/.* found pictures"):
        find_examples(tmp_path)
    make_pairs(tmp_path)
    save(tmp_path / "im" / "1.png", picture(1)[0])
    with pytest.raises(FolderError, match="one picture of each name, found several of 1"):
        find_examples(tmp_path)
    (tmp_path / "im" / "1.png").unlink()
    (tmp_path / "gt" / "2.png").write_bytes(b"no picture")
    with pytest.raises(FolderError, match=r"2\.png: not a readable picture"):
        find_examples(tmp_path)
    save(tmp_path / "other" / "cutouts" / "a.png", picture(1)[0])
    with pytest.raises(FolderError, match="alpha channel, found mode RGB"):
        find_examples(tmp_path / "other")


def test_an_index_is_always_the_same_and_every_image_comes_once_in_each_round(tmp_path):
    make_pairs(tmp_path, count=5)
    source, again = (open_folder(tmp_path, 3, Augmentation()) for _ in range(2))
    for index in (7, 0, 4):
        for one, other in zip(source.item(index, 24), again.item(index, 24), strict=True):
            np.testing.assert_array_equal(one, other)
    plain = open_folder(tmp_path, 3, NONE)
    rounds = [[plain.item(5 * k + j, 24)[1].sum() for j in range(5)] for k in range(3)]
    assert all(len(set(each)) == 5 for each in rounds)
    assert sorted(rounds[0]) == sorted(rounds[1]) == sorted(rounds[2])
    assert not rounds[0] == rounds[1] == rounds[2]
    assert len(plain) == 5


def test_cutouts_are_composed_over_the_backgrounds(tmp_path):
    image, matte = picture(1)
    soft = (matte // 2 + 40).astype(np.uint8)
    save(tmp_path / "cutouts" / "a.png", np.dstack([image, soft]))
    save(tmp_path / "backgrounds" / "b.png", np.full((9, 9, 3), (0, 255, 0), np.uint8))
    (example,) = find_examples(tmp_path)
    assert example == Cutout(tmp_path / "cutouts" / "a.png", (tmp_path / "backgrounds" / "b.png",))
    found, alpha = open_folder(tmp_path, 1, None).item(0, 24)
    share = cv2.resize(soft.astype(np.float32) / 255, (24, 24), interpolation=cv2.INTER_AREA)
    np.testing.assert_allclose(alpha, share, atol=1e-6)
    weight = (soft / 255.0)[..., None]
    composed = np.rint(image * weight + np.array([0, 255, 0]) * (1 - weight)).astype(np.uint8)
    np.testing.assert_array_equal(found, cv2.resize(composed, (24, 24), interpolation=cv2.INTER_AREA))


def test_cutouts_without_backgrounds_have_procedural_ones(tmp_path):
    image, matte = picture(1)
    save(tmp_path / "cutouts" / "a.png", np.dstack([image, matte]))
    source = open_folder(tmp_path, 1, Augmentation())
    (first, alpha), (second, other) = source.item(0, 32), source.item(1, 32)
    assert not np.array_equal(first, second)
    assert alpha.sum() == pytest.approx(other.sum(), rel=1e-5)  # flipped at most


@pytest.mark.parametrize("name", ALONE)
def test_an_augmentation_changes_what_it_should(name):
    image, matte = picture(3, (400, 300))
    alpha = matte.astype(np.float32) / 255
    alpha[:40, :60] = 0.5  # so that it is not symmetric
    found, truth = augment(np.random.default_rng(1), image, alpha, ALONE[name])
    assert found.dtype == np.uint8
    assert truth.dtype == np.float32
    assert truth.min() >= 0
    assert truth.max() <= 1
    assert not np.array_equal(found, image)
    assert np.array_equal(truth, alpha) == (name in {"enhance", "pepper"})
    if name == "flip":
        np.testing.assert_array_equal(found[:, ::-1], image)
        np.testing.assert_array_equal(truth[:, ::-1], alpha)
    if name == "pepper":
        changed = (found != image).any(axis=2)
        assert 0.08 < changed.mean() < 0.1
        assert set(np.unique(found[changed])) == {0, 255}
    if name == "crop":
        assert 290 < truth.shape[0] <= 300
        assert 385 < truth.shape[1] <= 400
        assert truth.size < alpha.size
    if name == "rotate":
        # The disc is in the middle and stays there; the corner's patch goes elsewhere.
        assert truth[120:180, 170:230].mean() == pytest.approx(alpha[120:180, 170:230].mean(), abs=0.01)


def test_photograph_and_matte_change_together():
    """A photograph that is its own matte stays so under what moves pixels."""
    matte = picture(2, (300, 300))[1]
    matte[:40, :60] = 128
    image = np.repeat(matte[..., None], 3, axis=2)
    how = Augmentation(flip=0.5, enhance=False, rotate=0.7, pepper=0.0, crop=True)
    for seed in range(6):
        found, truth = augment(np.random.default_rng(seed), image, matte.astype(np.float32) / 255, how)
        np.testing.assert_allclose(found[..., 0] / 255, truth, atol=0.02)


def test_no_augmentation_is_none_and_nonsense_is_refused():
    image, matte = picture(1)
    found, truth = augment(np.random.default_rng(0), image, matte.astype(np.float32) / 255, NONE)
    np.testing.assert_array_equal(found, image)
    np.testing.assert_array_equal(truth, matte.astype(np.float32) / 255)
    assert FLIP.flip == 0.5
    with pytest.raises(ValueError, match="from 0 to 1"):
        Augmentation(rotate=1.5)


def test_the_command_trains_and_evaluates_on_a_folder(tmp_path, monkeypatch, capsys):
    data, out = make_pairs(tmp_path / "data"), tmp_path / "run"
    monkeypatch.setitem(NETWORKS, "compact", TINY_NETWORK)
    main(
        [
            "train",
            "--data",
            str(data),
            "--augment",
            "flip,crop",
            "--steps",
            "2",
            "--phases",
            "32x2:1",
            "--out",
            str(out),
        ]
    )
    config, progress = read_header(out / "last.safetensors")
    assert progress.step == 2
    assert config.data_folder == str(data)
    assert config.augmentation == Augmentation(0.5, False, 0.0, 0.0, True)
    capsys.readouterr()
    main(
        [
            "evaluate",
            str(out / "last.safetensors"),
            "--data",
            str(data),
            "--size",
            "32",
            "--out",
            str(tmp_path / "report"),
        ]
    )
    printed = capsys.readouterr().out
    assert [line.split()[-1] for line in printed.splitlines() if line.startswith("images")] == ["3"]
    assert "wF" in printed
    assert (tmp_path / "report" / "evaluation.csv").read_text().count("\n") == 4
    with pytest.raises(SystemExit, match="expected some of flip, enhance"):
        main(["train", "--data", str(data), "--augment", "flip,other", "--steps", "1", "--out", str(tmp_path / "b")])
    moved = data.rename(tmp_path / "moved")
    with pytest.raises(SystemExit, match="is not a folder"):
        main(["train", "--resume", "--steps", "3", "--out", str(out)])
    main(["train", "--resume", "--data", str(moved), "--steps", "3", "--out", str(out)])
    assert read_header(out / "last.safetensors")[0].data_folder == str(moved)
    with pytest.raises(SystemExit, match="is not a folder"):
        main(["train", "--data", str(tmp_path / "none"), "--steps", "1", "--out", str(tmp_path / "c")])


def test_what_a_folder_run_is_travels_in_its_configuration():
    config = tiny_config(data_folder="/somewhere", augmentation=Augmentation(crop=True))
    assert TrainingConfig.from_dict(config.to_dict()) == config

"""The auxiliary classification: what the data names, what the loop learns, and what is refused."""

import argparse
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from modeling.birefnet.network import BiRefNet
from modeling.weights import load_network, save_state
from tests.support.tiny_training import TINY_NETWORK, OneImage, tiny_config, tiny_run
from training.__main__ import main
from training.checkpoint import read_header
from training.config import NETWORKS, TrainingConfig
from training.data import subjects
from training.data.augmentation import Augmentation
from training.data.folders import FolderError
from training.data.photographs import open_folder
from training.data.sets import SETS
from training.data.stream import classes_of, normalised
from training.loop import source_of
from training.losses import classification
from training.options import add_training_options, configured
from training.parallel import Group

HEADED = replace(TINY_NETWORK, auxiliary_classes=3)
FAMILIES_HEADED = replace(TINY_NETWORK, auxiliary_classes=len(subjects.FAMILIES))
NAMES = ("1#Accessories#1#Bag#111_o", "1#Accessories#5#Jewelry#222_o", "2#Aircraft#4#UAV#333_o", "2#Aircraft#1#Bag#4_o")


def make_folder(folder, names=NAMES):
    rng = np.random.default_rng(1)
    for name in names:
        matte = np.zeros((40, 40), np.uint8)
        matte[8:30, 8:30] = 255
        for kind, picture in (("im", rng.integers(0, 255, (40, 40, 3)).astype(np.uint8)), ("gt", matte)):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(folder / kind / f"{name}.png")
    return folder


def labels_of(batch):
    assert batch.labels is not None
    return batch.labels.tolist()


def options(*words):
    parser = argparse.ArgumentParser()
    add_training_options(parser)
    return parser.parse_args(words)


@pytest.mark.parametrize("name", ["train", "rich", "heldout-hard"])
def test_the_family_that_is_told_is_the_one_that_is_drawn(name, monkeypatch):
    drawn, real = [], subjects.draw

    def recorded(rng, family=None):
        family = subjects.drawn_family(rng, subjects.FAMILIES) if family is None else family
        drawn.append(family)
        return real(rng, family)

    monkeypatch.setattr(subjects, "draw", recorded)
    told = 0
    for index in range(40):
        drawn.clear()
        SETS[name].item(index, 32)
        family = SETS[name].label(index)
        assert family is None or family == drawn[0]
        assert family is None or family in SETS[name].classes()
        told += family is not None
    assert told == 40 if name == "train" else 15 < told < 40


def test_dis5k_names_its_classes(tmp_path):
    make_folder(tmp_path)
    plain = open_folder(tmp_path, 1, None)
    assert plain.classes() == ("Bag", "Jewelry", "UAV")
    assert [plain.label(index) for index in range(4)] == ["Bag", "Jewelry", "Bag", "UAV"]
    shuffled = open_folder(tmp_path, 3, Augmentation(flip=0.0, enhance=False, rotate=0.0, pepper=0.0))
    for index in range(8):
        image, label = shuffled.item(index, 40)[0], shuffled.label(index)
        same = [k for k in range(4) if np.array_equal(plain.item(k, 40)[0], image)]
        assert [plain.label(k) for k in same] == [label]


def test_other_names_are_no_classes(tmp_path):
    make_folder(tmp_path, ("dog", "1#b", NAMES[0]))
    source = open_folder(tmp_path, 1, None)
    assert source.classes() == ("Bag",)
    assert sorted(str(source.label(index)) for index in range(3)) == ["Bag", "None", "None"]


def test_a_run_learns_the_classes_of_its_own_images(tmp_path):
    make_folder(tmp_path / "data")
    config = tiny_config(steps=1, batch=2, data_folder=str(tmp_path / "data"))
    config = replace(config, network=HEADED, classes=("Bag", "Jewelry", "UAV"), accumulate=2)
    source = open_folder(tmp_path / "data", config.seed, config.augmentation)
    run = tiny_run(tmp_path / "run", config)
    batches = next(run.stream())
    for place, batch in enumerate(batches):
        expected = [config.classes.index(source.label(2 * place + k) or "") for k in range(2)]
        assert labels_of(batch) == expected
    run.train_step(*batches)
    grad = run.network.get_parameter("cls_head.0.weight").grad
    assert grad is not None
    assert grad.abs().sum() > 0
    losses = []
    with torch.no_grad():
        for labels in (batches[0].labels, None):
            torch.manual_seed(0)
            losses.append(float(run.loss(batches[0]._replace(labels=labels)).loss))
        torch.manual_seed(0)
        outputs = run.network(normalised(batches[0].images))
    part = classification(outputs.class_logits, torch.tensor(labels_of(batches[0])))
    assert losses[0] - losses[1] == pytest.approx(5 * config.loss_scale * float(part), rel=1e-3)


def test_labels_go_where_their_images_go(tmp_path):

    config = replace(
        tiny_config(batch=4), network=replace(HEADED, auxiliary_classes=14), classes=tuple(subjects.FAMILIES)
    )
    found = []
    for rank, size in ((0, 1), (0, 2), (1, 2)):
        (batch,) = next(tiny_run(tmp_path, config, group=Group(rank, size)).stream())
        found.append(labels_of(batch))
    assert found[1] + found[2] == found[0]
    assert found[0] == [config.classes.index(SETS["train"].label(index)) for index in range(4)]


def test_without_a_head_there_are_no_labels(tmp_path):
    (batch,) = next(tiny_run(tmp_path).stream())
    assert batch.labels is None


def test_the_option_asks_the_data(tmp_path, monkeypatch):
    monkeypatch.setitem(NETWORKS, "compact", TINY_NETWORK)
    assert configured(options()).classes == ()
    assert configured(options("--classes")).classes == tuple(subjects.FAMILIES)
    config = configured(options("--classes", "--set", "rich"))
    assert config.network.auxiliary_classes == len(config.classes) == 27
    folder = str(make_folder(tmp_path / "dis"))
    assert configured(options("--classes", "--data", folder)).classes == ("Bag", "Jewelry", "UAV")
    assert TrainingConfig.from_dict(config.to_dict()) == config


def test_what_has_no_classes_is_refused(tmp_path):
    plain = str(make_folder(tmp_path / "plain", ("a", "b")))
    with pytest.raises(SystemExit, match="expected data that names its classes"):
        configured(options("--classes", "--data", plain))
    with pytest.raises(SystemExit, match="expected data that names its classes"):
        configured(options("--classes", "--recomposed", "4"))
    save_state(BiRefNet(HEADED), tmp_path / "headed.safetensors")
    headed = ("--init", str(tmp_path / "headed.safetensors"))
    with pytest.raises(SystemExit, match="an auxiliary head of the data's 14 classes, found 3"):
        configured(options(*headed))
    with pytest.raises(SystemExit, match="expected data that names its classes"):
        configured(options(*headed, "--data", plain))
    assert configured(options(*headed, "--data", plain, "--weights", "classification=0")).classes == ()
    assert classes_of(OneImage()) == ()
    other = replace(tiny_config(), network=HEADED, classes=("a", "b", "c"))
    with pytest.raises(FolderError, match="found others: bird, car, face"):
        source_of(other)
    with pytest.raises(FolderError, match="found none that does"):
        source_of(replace(other, data_folder=plain))
    with pytest.raises(ValueError, match="2 names and 3 classes"):
        replace(tiny_config(), network=HEADED, classes=("a", "b"))


def test_a_headless_checkpoint_gets_a_head_and_keeps_it(tmp_path, capsys):
    torch.manual_seed(1)
    save_state(BiRefNet(TINY_NETWORK), tmp_path / "plain.safetensors")
    folder, out = make_folder(tmp_path / "dis"), tmp_path / "run"
    begin = ["train", "--data", str(folder), "--phases", "32x2:1", "--out", str(out)]
    main([*begin, "--init", str(tmp_path / "plain.safetensors"), "--classes", "--steps", "1"])
    config, _ = read_header(out / "last.safetensors")
    assert config.network == HEADED
    main([*begin, "--resume", "--steps", "2", "--classes"])
    main(["weights", str(out / "last.safetensors"), "--out", str(tmp_path / "tuned.safetensors")])
    assert load_network(tmp_path / "tuned.safetensors").config == HEADED
    make_folder(folder, ("3#Animal#1#Ant#5_o",))
    with pytest.raises(SystemExit, match="found others: Ant"):
        main([*begin, "--resume", "--steps", "3"])

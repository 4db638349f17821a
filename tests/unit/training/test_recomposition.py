"""Images put together on a device: seeded by index, exact in their mattes, photographed as files are."""

import cv2
import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from tests.support.tiny_training import tiny_config
from tests.support.tolerance import (
    BATCHED_BLUR,
    COVERAGE_ACROSS_DEVICES,
    JPEG_LEVELS,
    PHOTOGRAPH_ACROSS_DEVICES,
    RECOMPOSED_ALPHA,
)
from training.__main__ import main
from training.data import recomposition
from training.data.draws import Draws, only
from training.data.recomposition import Bank, Recomposition, make_bank, recomposed
from training.data.sensor import blurred, camera, jpeg
from training.data.sets import SETS
from training.data.stream import Delivery, batches
from training.loop import Run
from training.parallel import Group

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def bank():
    return make_bank(SETS["rich"], 6, 64)


def red_before_blue(side=64, cut=False):
    """A bank of one red box before blue."""
    alpha = torch.zeros(1, 1, side, side, dtype=torch.uint8)
    alpha[..., 20 : side if cut else 40, 18:44] = 255
    plane = torch.zeros(1, 3, side, side, dtype=torch.uint8)
    red, blue = plane.clone(), plane.clone()
    red[:, 0], blue[:, 2] = 160, 160
    return Bank(red, alpha, blue)


def textured(side, seed=0):
    rng = np.random.default_rng(seed)
    noise = cv2.GaussianBlur(rng.uniform(0, 1, (side, side, 3)).astype(np.float32), (0, 0), 2.0)
    return torch.from_numpy(((noise - noise.min()) / np.ptp(noise)).transpose(2, 0, 1))[None]


def test_a_bank_holds_what_the_set_draws(bank):
    assert bank.colours.shape == (6, 3, 64, 64)
    assert bank.alphas.shape == (6, 1, 64, 64)
    assert bank.backgrounds.shape == (6, 3, 64, 64)
    assert {plane.dtype for plane in (bank.colours, bank.alphas, bank.backgrounds)} == {torch.uint8}
    _, alpha = SETS["rich"].item(3, 64)
    assert np.abs(bank.alphas[3, 0].numpy() / 255 - alpha).max() <= 0.5 / 255 + 1e-6


def test_images_are_batches_like_any_other(bank):
    images, alphas = recomposed(bank, 7, range(3))
    assert images.shape == (3, 64, 64, 3)
    assert images.dtype == torch.uint8
    assert alphas.shape == (3, 1, 64, 64)
    assert alphas.dtype == torch.float32
    assert alphas.min() >= 0
    assert alphas.max() <= 1


def test_an_index_is_one_image_whatever_the_batch(bank):
    images, alphas = recomposed(bank, 7, range(12))
    for index in (11, 0, 5):
        image, alpha = recomposed(bank, 7, [index])
        assert (image[0].int() - images[index].int()).abs().float().mean() <= PHOTOGRAPH_ACROSS_DEVICES
        assert_allclose(alpha[0], alphas[index], atol=RECOMPOSED_ALPHA)
    assert len({image.numpy().tobytes() for image in images}) == 12
    assert not torch.equal(recomposed(bank, 8, [0])[0][0], images[0])


def test_a_source_of_batches_makes_them_itself():
    source = Recomposition(SETS["rich"], 4, 9)
    stream = batches(source, 32, 4, 8, 0, Delivery(slice(2, 4)))
    for first in (10, 14):
        images, alphas = next(stream)
        expected, truth = recomposed(source.bank(32), 9, range(first, first + 2))
        assert torch.equal(images, expected)
        assert torch.equal(alphas, truth)
    image, alpha = source.item(10, 32)
    assert_allclose(alpha, recomposed(source.bank(32), 9, [10])[1][0, 0])
    assert image.dtype == np.uint8
    assert source.bank(32) is source.bank(32)


def test_a_process_that_draws_does_not_change_what_is_drawn():
    alone, drawn = Recomposition(SETS["rich"], 4, 9), Recomposition(SETS["rich"], 4, 9, workers=1)
    for expected, found in zip(alone.batch([3, 4], 32), drawn.batch([3, 4], 32), strict=True):
        assert torch.equal(expected, found)


def test_fewer_than_no_subjects_are_refused():
    with pytest.raises(ValueError, match="found -1"):
        tiny_config(recomposed=-1)


def test_a_run_learns_from_what_is_put_together(tmp_path):
    config = tiny_config(data_set="rich", recomposed=4)
    run = Run(config, tmp_path)
    assert isinstance(run.source, Recomposition)
    before = [parameter.clone() for parameter in run.network.parameters()]
    run.train(stop_after=2)
    assert run.progress.step == 2
    assert any(not torch.equal(a, b) for a, b in zip(before, run.network.parameters(), strict=True))


def test_the_matte_is_what_one_sees_of_the_subject(monkeypatch):
    # Without the camera the red of an image is the subject's own light times alpha, and nothing else is red.
    monkeypatch.setattr(recomposition, "camera", lambda images, draws: images)
    images, alphas = recomposed(red_before_blue(), 3, range(40))
    for image, alpha in zip(images.float(), alphas[:, 0], strict=True):
        red = image[..., 0]
        assert alpha.max() > 0.5
        inside = red[alpha > 0.999]
        if not len(inside):
            continue
        assert inside.max() - inside.min() <= 1
        assert_allclose(red, alpha * inside.mean(), atol=1.5)
        assert image[..., 2][alpha > 0.999].max() == 0


def test_what_a_border_cuts_off_stays_at_the_border():
    _, alphas = recomposed(red_before_blue(cut=True), 3, range(40))
    assert float(alphas[:, 0, -1].amax(dim=1).min()) > 0.9
    _, alphas = recomposed(red_before_blue(), 3, range(40))
    assert float((alphas[:, 0, -1].amax(dim=1) == 0).float().mean()) > 0.5


@pytest.mark.parametrize("quality", [30, 55, 75, 95])
@pytest.mark.parametrize("side", [64, 72])
def test_jpeg_keeps_what_libjpeg_keeps(quality, side):
    image = textured(side)
    levels = (image[0].permute(1, 2, 0).numpy() * 255 + 0.5).astype(np.uint8)
    _, data = cv2.imencode(".jpg", levels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)
    assert decoded is not None
    theirs = decoded[..., ::-1].astype(np.float32)
    ours = jpeg(
        torch.from_numpy(levels.astype(np.float32) / 255).permute(2, 0, 1)[None], torch.tensor([float(quality)])
    )
    lost = np.abs(theirs - levels).mean()
    difference = np.abs(ours[0].permute(1, 2, 0).numpy() * 255 - theirs).mean()
    assert difference < JPEG_LEVELS
    assert difference < 0.5 * lost


def test_each_image_is_blurred_by_its_own_sigma():
    images = torch.cat([textured(64, seed) for seed in range(3)])
    sigmas = [0.4, 1.0, 2.5]
    ours = blurred(images, torch.tensor(sigmas).view(-1, 1, 1, 1), 0.05)
    for image, sigma, found in zip(images, sigmas, ours, strict=True):
        picture = np.ascontiguousarray(image.permute(1, 2, 0).numpy())
        theirs = cv2.GaussianBlur(picture, (21, 21), sigma, borderType=cv2.BORDER_REPLICATE)
        assert_allclose(found.permute(1, 2, 0), theirs, atol=BATCHED_BLUR)


def test_only_the_chosen_are_changed():
    images = torch.zeros(4, 1, 2, 2)
    chosen = torch.tensor([False, True, False, True])
    changed = only(chosen, images, lambda some, at: some + at.float().view(-1, 1, 1, 1) + 1)
    assert changed[:, 0, 0, 0].tolist() == [0, 2, 0, 4]
    assert only(chosen & False, images, lambda some, at: some + 1) is images


def test_draws_belong_to_the_index():
    alone, together = Draws(3, [17], 8, CPU), Draws(3, [5, 17], 8, CPU)
    for _ in range(3):
        assert torch.equal(alone.uniform(-1, 1)[0], together.uniform(-1, 1)[1])
    assert not torch.equal(Draws(4, [17], 8, CPU).uniform(0, 1), Draws(3, [17], 8, CPU).uniform(0, 1))
    many = Draws(1, range(2000), 8, CPU)
    normal, uniform, integer = many.normal(0.5, 3), many.log_uniform(0.1, 10), many.integer(5)
    assert normal.std() == pytest.approx(0.5, rel=0.05)
    assert normal.mean() == pytest.approx(0.0, abs=0.03)
    assert uniform.min() >= 0.1
    assert uniform.max() <= 10
    assert torch.bincount(integer, minlength=5).min() > 300


def test_more_numbers_than_were_drawn_are_an_error():
    draws = Draws(1, [0], 2, CPU)
    draws.normal(1.0, 2)
    with pytest.raises(IndexError):
        draws.uniform(0, 1)


def test_the_camera_stays_in_range_and_does_something():
    images = torch.cat([textured(48, seed) for seed in range(8)])
    photographs = camera(images, Draws(2, range(8), 64, CPU))
    assert photographs.min() >= 0
    assert photographs.max() <= 1
    assert (photographs - images).abs().mean(dim=(1, 2, 3)).min() > 0.005


@pytest.fixture
def threads():
    """What the speed command changes for its process."""
    before = torch.get_num_threads(), cv2.getNumThreads()
    yield
    torch.set_num_threads(before[0])
    cv2.setNumThreads(before[1])


def test_the_commands_show_and_measure(tmp_path, capsys, threads):
    for chosen in ([], ["--kind", "glass"], ["--family", "shoe"], ["--set", "rich", "--recomposed", "2"]):
        main(["sheet", "--count", "3", "--size", "32", "--out", str(tmp_path / "sheet.png"), *chosen])
        sheet = cv2.imread(str(tmp_path / "sheet.png"))
        assert sheet is not None
        assert sheet.shape == (32, 5 * 64, 3)
        assert sheet[:, : 3 * 64].std() > 10
    main(["speed", "--size", "32", "--count", "2", "--ingredients", "2", "--batch", "2"])
    told = capsys.readouterr().out
    assert "rich, 32 pixels, one core" in told
    assert "put together anew on cpu, 2 at once" in told


@pytest.mark.gpu
def test_a_run_on_a_gpu_takes_its_batches_from_there(tmp_path):
    run = Run(tiny_config(data_set="rich", recomposed=4), tmp_path, group=Group(device=torch.device("cuda")))
    images, _ = next(iter(batches(run.source, 32, 2, 0, 0)))
    assert images.device.type == "cuda"


@pytest.mark.gpu
def test_a_gpu_makes_the_same_images(bank):
    images, alphas = recomposed(bank, 7, range(16))
    there, there_alphas = recomposed(bank.to(torch.device("cuda")), 7, range(16))
    assert there.device.type == "cuda"
    assert (there.cpu().int() - images.int()).abs().float().mean() <= PHOTOGRAPH_ACROSS_DEVICES
    assert (there_alphas.cpu() - alphas).abs().max() <= COVERAGE_ACROSS_DEVICES

"""Estimated foreground colours: no halo on new backgrounds, tiles that leave no trace, opaque colours as they were."""

from functools import partial

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from matting import foreground
from matting.foreground import BLEED, estimate_foreground
from tests.support import images
from tests.support.memory import measurable, peak_bytes
from tests.support.tolerance import FOREGROUND_HALO, FOREGROUND_PEER, FOREGROUND_PEER_FAINT

Bytes = NDArray[np.uint8]
BACKGROUNDS = {"black": (0, 0, 0), "white": (255, 255, 255), "magenta": (255, 0, 255), "green": (0, 255, 0)}


class Scene:
    """A photograph I = α F + (1 - α) B of which F is known, in 8 bits."""

    def __init__(self, alpha: NDArray[np.float32], subject: tuple[int, int, int], behind: tuple[int, int, int]) -> None:
        height, width = alpha.shape
        self.alpha = np.rint(alpha * 255).astype(np.uint8)
        texture = images.smooth(height, width, seed=8).astype(np.float64) - 128
        self.truth = (np.array(subject) + 0.25 * texture).clip(0, 255)
        background = (np.array(behind) + 0.25 * np.roll(texture, 17, axis=1)).clip(0, 255)
        weight = self.alpha[..., None] / 255
        self.image = np.rint(weight * self.truth + (1 - weight) * background).astype(np.uint8)

    def halo(self, colours: NDArray[np.floating] | Bytes, background: tuple[int, int, int]) -> float:
        """Mean difference of the composite from the true one, over the undecided pixels, in levels."""
        weight = self.alpha[..., None] / 255
        undecided = (self.alpha > 0) & (self.alpha < 255)
        found, wanted = (weight * plane + (1 - weight) * np.array(background) for plane in (colours, self.truth))
        return float(np.abs(found - wanted)[undecided].mean())


def blurred(alpha: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    return cv2.GaussianBlur(alpha, (0, 0), sigma).clip(0, 1)


SCENES = {
    "strands": Scene(images.strands(300, 400, count=40, thickness=1.2).alpha, (200, 120, 60), (30, 60, 160)),
    "dark strands on white": Scene(images.strands(300, 400, count=40).alpha, (40, 30, 30), (230, 235, 240)),
    "soft edge": Scene(blurred(images.disc(300, 400).alpha, 6), (220, 190, 60), (20, 120, 40)),
    "ring": Scene(blurred(images.ring(300, 400).alpha, 3), (90, 150, 230), (200, 40, 40)),
}


@pytest.mark.parametrize("background", BACKGROUNDS)
@pytest.mark.parametrize("name", SCENES)
def test_there_is_no_halo_on_a_new_background(name, background):
    """The error of the composite against the true foreground's is a fraction of that with the photograph's colours."""
    scene, behind = SCENES[name], BACKGROUNDS[background]
    estimated = scene.halo(estimate_foreground(scene.image, scene.alpha), behind)
    assert scene.halo(scene.image, behind) > 9, "the photograph's own colours must show a halo, or nothing is tested"
    assert estimated < FOREGROUND_HALO * scene.halo(scene.image, behind)


@pytest.mark.slow  # PyMatting compiles itself for two minutes when it is imported for the first time
@pytest.mark.parametrize("name", SCENES)
def test_it_is_about_as_good_as_a_slow_solver(name):
    """PyMatting's multi-level estimator (Germer et al., 2020), which solves for all pixels at once."""
    from pymatting import estimate_foreground_ml

    scene = SCENES[name]
    solved = estimate_foreground_ml(scene.image / 255, scene.alpha / 255) * 255
    ours = scene.halo(estimate_foreground(scene.image, scene.alpha), (0, 0, 0))
    opaque = (scene.alpha == 255).mean() > 0.1
    assert ours < scene.halo(solved, (0, 0, 0)) + (FOREGROUND_PEER if opaque else FOREGROUND_PEER_FAINT)


def plain_estimate(image: Bytes, alpha: Bytes) -> Bytes:
    """The equations by loops over every pixel's window, in float64."""
    levels = np.arange(256)
    squares = np.maximum(np.rint(levels**2 / 255), levels > 0)
    weights, a = (squares[alpha], squares[255 - alpha]), alpha[..., None] / 255.0
    front, behind = image.astype(np.float64), image.astype(np.float64)
    for side in (foreground.WIDE, foreground.NARROW):
        reach = side // 2
        means = np.zeros((2, *image.shape))
        for y, x in np.ndindex(*alpha.shape):
            window = np.s_[max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1]
            for mean, plane, weight in zip(means, (front, behind), weights, strict=True):
                near = weight[window][..., None]
                if near.any():
                    mean[y, x] = (plane[window] * near).sum((0, 1)) / near.sum()
        front = np.rint((means[0] + a * (image - a * means[0] - (1 - a) * means[1])).clip(0, 255))
        behind = np.rint(means[1])
    return front.astype(np.uint8)


def test_it_is_the_published_equation():
    scene = Scene(images.strands(40, 50, count=5, thickness=2.0).alpha, (200, 120, 60), (30, 60, 160))
    found = estimate_foreground(scene.image, scene.alpha)
    expected = plain_estimate(scene.image, scene.alpha)
    undecided = (scene.alpha > 0) & (scene.alpha < 255)
    assert undecided.sum() > 100
    assert np.abs(found.astype(int) - expected)[undecided].max() <= 1


@pytest.mark.parametrize("tile", [37, 64, 150])
def test_tiles_leave_no_trace(tile, monkeypatch):
    scene = SCENES["strands"]
    monkeypatch.setattr(foreground, "_TILE", 10_000)
    whole = estimate_foreground(scene.image, scene.alpha)
    monkeypatch.setattr(foreground, "_TILE", tile)
    assert np.array_equal(estimate_foreground(scene.image, scene.alpha), whole)


def test_only_what_is_not_opaque_and_near_the_subject_changes():
    scene = SCENES["ring"]
    found = estimate_foreground(scene.image, scene.alpha)
    near = cv2.dilate(scene.alpha, np.ones((2 * BLEED + 1, 2 * BLEED + 1), np.uint8)) > 0
    changed = (found != scene.image).any(axis=2)
    assert changed.any()
    assert not changed[scene.alpha == 255].any()
    assert not changed[~near].any()


def test_transparent_pixels_beside_the_subject_have_its_colours():
    """So that a viewer that shrinks colours and alpha apart shows no rim."""
    alpha = np.zeros((60, 60), np.uint8)
    alpha[:, :30] = 255
    image = np.zeros((60, 60, 3), np.uint8)
    image[:, :30], image[:, 30:] = (200, 50, 10), (0, 0, 255)
    found = estimate_foreground(image, alpha)
    assert np.array_equal(found[:, 30 : 30 + BLEED], np.broadcast_to((200, 50, 10), (60, BLEED, 3)))
    assert np.array_equal(found[:, 30 + BLEED :], image[:, 30 + BLEED :])


@pytest.mark.parametrize("level", [0, 255])
def test_empty_and_full_mattes_cost_nothing(level, monkeypatch):
    def refuse(*_: object) -> None:
        raise AssertionError("there is nothing to estimate")

    monkeypatch.setattr(foreground, "_estimated", refuse)
    image = images.noise(70, 90)
    found = estimate_foreground(image, np.full((70, 90), level, np.uint8))
    assert np.array_equal(found, image)
    assert found is not image


def test_faint_pixels_far_from_the_subject_are_not_darkened():
    """The published code adds 1e-5 to every mean weight, which is more than one faint pixel has."""
    alpha = np.zeros((200, 200), np.uint8)
    alpha[100, 100] = 1
    image = np.full((200, 200, 3), 180, np.uint8)
    assert np.array_equal(estimate_foreground(image, alpha), image)


@pytest.mark.parametrize("size", [(1, 1), (1, 700), (700, 1), (3, 2)])
def test_thin_images(size):
    alpha = np.full(size, 100, np.uint8)
    image = np.full((*size, 3), 60, np.uint8)
    assert np.array_equal(estimate_foreground(image, alpha), image)


def test_it_writes_into_a_view():
    scene = SCENES["soft edge"]
    rgba = np.zeros((*scene.alpha.shape, 4), np.uint8)
    view = rgba[..., :3]
    assert estimate_foreground(scene.image, scene.alpha, view) is view
    assert np.array_equal(rgba[..., :3], estimate_foreground(scene.image, scene.alpha))
    assert not rgba[..., 3].any()


def test_sizes_that_do_not_match_are_refused():
    with pytest.raises(ValueError, match=r"matte's size \(4, 5\), found \(5, 4\)"):
        estimate_foreground(np.zeros((5, 4, 3), np.uint8), np.zeros((4, 5), np.uint8))


def estimate(side: int) -> None:
    image = images.smooth(side, side)
    estimate_foreground(image, np.full((side, side), 100, np.uint8), image.copy())


@pytest.mark.skipif(not measurable(), reason="the kernel does not say how much memory was in use")
def test_memory_is_a_tiles_and_not_the_images():
    """Of images that are undecided everywhere; the image, its copy and alpha are 7 bytes per pixel."""
    small, large = (peak_bytes(partial(estimate, side), partial(estimate, 64)) - 7 * side**2 for side in (900, 2200))
    assert max(small, large) < foreground.WORKING_BYTES
    assert large < small + (8 << 20)

"""Object crop: a small subject is seen again, larger; a large one is not, and an answer that disagrees is not used."""

import cv2
import numpy as np
from numpy.typing import NDArray

from matting.geometry import fit, restore
from matting.refinement import Canvas, CropOptions, RefineOptions, refine, run
from matting.refinement.coarse import CoarseMask
from matting.refinement.crop import subject_box
from tests.support.refiners import SHAPE, Answerer, each, identity

SIZE = (600, 900)
OPTIONS = RefineOptions(crop=CropOptions())


def star(radius: float, centre: tuple[float, float] = (200.0, 300.0)) -> NDArray[np.float32]:
    y, x = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    y, x = y - centre[0], x - centre[1]
    reach = radius * (1 + 0.3 * np.sin(9 * np.arctan2(y, x)))
    return np.clip(reach - np.hypot(y, x) + 0.5, 0, 1).astype(np.float32)


def luminous(truth: NDArray[np.float32]) -> NDArray[np.uint8]:
    return np.repeat(np.rint(truth * 255).astype(np.uint8)[..., None], 3, axis=2)


def seeing(canvas: Canvas) -> NDArray[np.float32]:
    """A network that says how bright it is."""
    return canvas.image[..., 0].astype(np.float32) / np.float32(255)


def asked(network=seeing) -> Answerer:
    return Answerer(identity, canvas_answer=network)


def coarse_of(truth: NDArray[np.float32], size: tuple[int, int] = (96, 96)) -> NDArray[np.float32]:
    return seeing(Canvas(fit(luminous(truth), size)))


def test_a_small_subject_is_seen_again() -> None:
    truth = star(60)
    coarse, answers = coarse_of(truth), asked()
    refined = run(refine(luminous(truth), coarse, SHAPE, OPTIONS), answers)
    (canvas,) = answers.canvases
    assert canvas.image.shape == (96, 96, 3)
    assert refined.report.crop is not None
    top, left, bottom, right = refined.report.crop
    rows, columns = np.flatnonzero(truth.any(axis=1)), np.flatnonzero(truth.any(axis=0))
    assert top < rows[0]
    assert bottom > rows[-1]
    assert left < columns[0]
    assert right > columns[-1]
    before = np.abs(restore(coarse, SIZE) - truth).sum()
    assert np.abs(refined.alpha - truth).sum() < 0.5 * before


def test_a_large_subject_is_not() -> None:
    truth = star(250, (300.0, 450.0))
    answers = asked()
    refined = run(refine(luminous(truth), coarse_of(truth), SHAPE, OPTIONS), answers)
    assert answers.canvases == []
    assert refined.report.crop is None


def test_nor_where_there_is_none_or_nobody_asked() -> None:
    truth = star(60)
    for coarse, options in ((np.zeros((96, 96), np.float32), OPTIONS), (coarse_of(truth), RefineOptions())):
        answers = asked()
        run(refine(luminous(truth), coarse, SHAPE, options), answers)
        assert answers.canvases == []


def test_an_answer_that_disagrees_is_not_used() -> None:
    truth = star(60)
    coarse = coarse_of(truth)
    refined = run(refine(luminous(truth), coarse, SHAPE, OPTIONS), asked(lambda canvas: 1 - seeing(canvas)))
    assert refined.report.crop is None
    assert np.array_equal(refined.alpha, restore(coarse, SIZE))


def test_outside_of_the_crop_nothing_changes() -> None:
    truth = star(60)
    coarse = coarse_of(truth)
    coarse[90, 3:5] = 0.08  # something faint, far away and below the threshold
    refined = run(refine(luminous(truth), coarse, SHAPE, OPTIONS), asked())
    assert refined.report.crop is not None
    top, left, bottom, right = refined.report.crop
    outside = np.ones(SIZE, bool)
    outside[top:bottom, left:right] = False
    far = cv2.erode(outside.astype(np.uint8), np.ones((41, 41), np.uint8)) > 0
    assert np.array_equal(refined.alpha[far], restore(coarse, SIZE)[far])


def test_the_box_stays_within_the_image() -> None:
    for centre in ((0.0, 0.0), (600.0, 900.0), (0.0, 900.0)):
        truth = star(60, centre)
        box = subject_box(CoarseMask(coarse_of(truth), SIZE), CropOptions())
        assert box is not None
        assert 0 <= box[0] < box[2] <= SIZE[0]
        assert 0 <= box[1] < box[3] <= SIZE[1]


def test_a_crop_at_the_images_edge_does_not_fade_there() -> None:
    truth = star(60, (0.0, 0.0))
    refined = run(refine(luminous(truth), coarse_of(truth), SHAPE, OPTIONS), asked())
    assert refined.report.crop is not None
    assert refined.report.crop[:2] == (0, 0)
    assert refined.alpha[0, 0] == 1


def test_no_crop_of_an_image_that_was_seen_whole() -> None:
    image = np.zeros((96, 96, 3), np.uint8)
    image[40:50, 40:50] = 255
    answers = each(identity)
    run(refine(image, seeing(Canvas(image)), SHAPE, OPTIONS), answers)
    assert answers.steps == []

"""The refinement benchmark: exact scenes, figures and aims by hand, and the refiner that ships on one small scene."""

import itertools
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from benchmarks.refinement import scenes
from benchmarks.refinement.__main__ import counts
from benchmarks.refinement.coarse import COARSE, reduced
from benchmarks.refinement.figures import Figures, Row, aims, band_of, measure
from benchmarks.refinement.methods import ASKED, Refiner, ours
from benchmarks.refinement.scenes import SceneSpec, draw, load, specs
from benchmarks.refinement.tables import table
from benchmarks.refinement.work import cost_of
from matting.geometry import restore
from matting.quality import mean_boundary_accuracy
from matting.refinement import TileShape
from modeling.crm.config import COMPACT
from modeling.crm.network import CRM
from server.default_model import refiner_directory
from tests.support.tolerance import PIXEL_COVERAGE, REFINED_BAND_SAD

SPEC = SceneSpec(640, 700, "easy", 3)


def test_the_set_is_what_the_issue_says():
    found = specs()
    assert {(spec.width, spec.height) for spec in found} == {(2048, 2048), (3840, 2160), (6000, 4000)}
    assert {spec.colours for spec in found} == {"easy", "hard"}
    assert len({spec.name for spec in found}) == len(found) == 8


def test_a_scene_is_the_same_however_it_is_cut(monkeypatch):
    scene = draw(SPEC)
    again = draw(SPEC)
    assert np.array_equal(scene.image, again.image)
    assert np.array_equal(scene.alpha, again.alpha)
    monkeypatch.setattr(scenes, "_STRIP", 640)
    seams = np.abs(draw(SPEC).alpha - scene.alpha)  # OpenCV rounds a line anew where it clips it: one column of samples
    assert seams.max() < PIXEL_COVERAGE
    assert (seams > 0).mean() < 0.001
    assert not np.array_equal(draw(SceneSpec(640, 700, "easy", 4)).alpha, scene.alpha)


def test_a_scene_has_what_is_hard():
    alpha = draw(SPEC).alpha
    assert 0.05 < (alpha == 1).mean() < 0.5
    assert ((alpha > 0) & (alpha < 1)).mean() > 0.03
    assert (np.abs(alpha - 110 / 255) < 1e-3).mean() > 0.001, "a translucent wing"
    count, _ = cv2.connectedComponents((alpha < 0.5).astype(np.uint8), connectivity=4)
    assert count > 50, "holes, and the meshes of a net"


def test_coverage_is_exact():
    """A bar of 3 x 5 pixels at a quarter of a pixel, on the grid of the samples."""
    corners = np.array([[2.25, 1.0], [5.25, 1.0], [5.25, 6.0], [2.25, 6.0]])
    stroke = scenes._Stroke(corners, 255)
    alpha = scenes._coverage([stroke], scenes._spans([stroke]), slice(0, 8), 8)
    row = alpha[3]
    assert row[3] == row[4] == 1.0
    assert row[2] == pytest.approx(0.75, abs=PIXEL_COVERAGE)
    assert row[5] == pytest.approx(0.25, abs=PIXEL_COVERAGE)


def test_colours_are_mixed_by_alpha():
    """Easy colours are so far apart that a threshold on red over blue finds the subject."""
    scene = draw(SPEC)
    warm = scene.image[..., 0].astype(int) - scene.image[..., 2]
    assert (warm[scene.alpha == 1] > 0).mean() > 0.95
    assert (warm[scene.alpha == 0] < 0).mean() > 0.95
    wing = np.abs(scene.alpha - 110 / 255) < 1e-3
    assert warm[scene.alpha == 0].mean() < warm[wing].mean() < warm[scene.alpha == 1].mean()


def test_a_cached_scene_is_drawn_again_when_the_drawing_has_changed(tmp_path, monkeypatch):
    first = load(SPEC, tmp_path)
    monkeypatch.setattr(scenes, "draw", lambda spec: pytest.fail("it is in the cache"))
    assert np.array_equal(load(SPEC, tmp_path).alpha, first.alpha)
    monkeypatch.setattr(scenes, "VERSION", -1)
    monkeypatch.setattr(scenes, "draw", lambda spec: scenes.Scene(first.image, first.alpha * 0))
    assert not load(SPEC, tmp_path).alpha.any()


@pytest.mark.parametrize("kind", COARSE)
def test_coarse_mattes_are_coarse_and_repeatable(kind):
    scene = draw(SPEC)
    coarse = COARSE[kind](scene, 0)
    assert coarse.dtype == np.float32
    assert coarse.ndim == 2
    assert 0 <= coarse.min() < coarse.max() <= 1
    assert np.array_equal(coarse, COARSE[kind](scene, 0))


def test_the_band_holds_the_error_of_the_best_coarse_matte():
    scene = draw(SPEC)
    coarse = reduced(scene.alpha, 4)
    band = band_of(scene.alpha, (coarse.shape[0], coarse.shape[1]))
    error = np.abs(restore(coarse, (640, 700)) - scene.alpha)
    assert error[~band].sum() < 0.001 * error.sum()
    assert band.mean() < 0.8
    assert not band_of(np.zeros((64, 64), np.float32), (16, 16)).any()


def test_the_refiner_that_ships_sharpens_a_scene():
    """A small version of the benchmark: a scene from its truth, area-averaged by four."""
    spec = SceneSpec(768, 768, "easy", 0)
    scene = draw(spec)
    coarse = reduced(scene.alpha, 4)
    band = band_of(scene.alpha, (coarse.shape[0], coarse.shape[1]))
    upsampled = measure(restore(coarse, (768, 768)), scene.alpha, band)
    answer = ours(Refiner(refiner_directory()), scene.image, coarse)
    refined = measure(answer.alpha, scene.alpha, band)
    assert refined.band_sad < REFINED_BAND_SAD * upsampled.band_sad
    assert refined.mba > upsampled.mba
    assert refined.gradient < upsampled.gradient
    accuracies = [mean_boundary_accuracy(stage, scene.alpha) for stage in answer.stages()]
    assert len(accuracies) == 3  # upsampled, at twice the coarse matte's size, at the image's
    assert (accuracies[0], accuracies[-1]) == (upsampled.mba, refined.mba)


def row(method: str, coarse: str = "area", colours: str = "easy", **figures: float) -> dict[str, Any]:
    values = {"iou": 0.9, "mba": 0.8, "band_sad": 100.0, "gradient": 10.0} | figures
    stages = [0.7, 0.75, values["mba"]] if method in ("full", "ours") else []
    work = {"full": 10.0, "ours": 3.0}.get(method, 0.0)
    return Row("s", (10, 20), colours, coarse, method, Figures(**values), work, 1.0, stages).as_json()


def judged(rows: list[dict[str, Any]], photographs: list[dict[str, Any]] | None = None) -> dict[str, bool]:
    return {aim.aim: aim.met for aim in aims(rows, photographs or [])}


def test_the_aims_are_judged_by_their_own_words():
    sad, harm = "area-averaged truth, easy colours: SAD in the band -35 %", "area-averaged truth: SAD in the band never"
    for found, met in ((65.0, True), (66.0, False)):
        assert judged([row("upsampled"), row("ours", band_sad=found)])[sad] is met
    for found, met in ((100.0, True), (100.1, False)):
        checks = judged([row("upsampled", colours="hard"), row("ours", colours="hard", band_sad=found)])
        assert [value for aim, value in checks.items() if aim.startswith(harm)] == [met]
    for gained, met in ((0.7501, True), (0.7499, False)):
        checks = judged([row("upsampled", mba=0.6, coarse="perturbed"), row("ours", mba=gained, coarse="perturbed")])
        assert checks["perturbed truth: mBA +15 points"] is met
    for mine, met in ((0.7901, True), (0.7899, False)):
        checks = judged([row("full", mba=0.8), row("ours", mba=mine)])
        assert checks["area: IoU and mBA within 1 point of full"] is met
        assert checks["area: at most 35 % of the work of full"] is True
    worse = {"photograph": "cat", "upsampled": 1.0, "refined": 1.01}
    assert list(judged([], [worse]).values()) == [False]
    assert list(judged([], [{**worse, "refined": 1.0}]).values()) == [True]


def test_a_schedule_must_rise_at_every_stage():
    rows = [
        row("upsampled", mba=0.7, coarse="perturbed"),
        row("full", mba=0.8, coarse="perturbed"),
        row("single pass", mba=0.75, coarse="perturbed"),
    ]
    checks = judged(rows)
    assert checks["perturbed truth, full, 2 stages: mBA rises at every stage"]
    assert checks["perturbed truth: a single pass is worse than full"]
    rows[1]["stages"] = [0.7, 0.69, 0.8]
    rows[2]["mba"] = 0.81
    checks = judged(rows)
    assert not checks["perturbed truth, full, 2 stages: mBA rises at every stage"]
    assert not checks["perturbed truth: a single pass is worse than full"]


def test_the_tables_show_every_method_and_every_image():
    names = ("upsampled", "guided filter", "single pass", "full", "ours")
    kinds = ("area", "network", "perturbed")
    found = [row(name, kind) for kind, name in itertools.product(kinds, names)]
    photographs = [{"photograph": "cat", "upsampled": 2.0, "refined": 1.0}]
    result = {"rows": found, "photographs": photographs, "aims": [{"aim": "a", "found": "1", "met": False}]}
    text = table(json.loads(json.dumps(result)))
    assert text.count("| easy |") == 15
    assert "| cat | 2.000 | 1.000 | -50.0% |" in text
    assert "| a | 1 | **no** |" in text


def test_what_shows_nothing_new_is_left_out():
    small, large = SceneSpec(2160, 3840, "easy", 0), SceneSpec(4000, 6000, "easy", 0)
    assert all(counts(spec, kind, name) for spec in (small, large) for kind in COARSE for name in ("upsampled", "ours"))
    assert all(counts(spec, kind, "full") for spec in (small, large) for kind in ("area", "perturbed"))
    assert [counts(spec, "network", "full") for spec in (small, large)] == [True, False]
    assert [counts(spec, "network", ASKED) for spec in (small, large)] == [True, False]
    assert not counts(small, "area", ASKED)
    assert [counts(spec, "perturbed", "single pass") for spec in (small, large)] == [True, False]
    assert not counts(small, "area", "single pass")


def test_multiply_adds_by_hand():
    """Of the compact refiner for a pixel: each layer's weights, over the square of its stride."""
    stem, first, second = 5 * 5 * 4 * 32 / 4, (9 * 32 + 9 * 64 + 32) * 64 / 16, (9 * 64 + 9 * 96 + 64) * 96 / 64
    cues = 4 * (3 * 4 + 1)
    joined = 16 * (32 / 4 + 64 / 16 + 96 / 64 + cues / 4)
    found = cost_of(CRM(COMPACT).eval(), TileShape(256, 40))
    assert found.encode == stem + first + second + joined + (9 * 64 * 48 + 48 * 16) / 4
    assert found.decode == 4 * (16 * 16 + 16 * 9)
    mixed = 9 * 64 * 48 * 92**2 + 48 * 16 * 90**2  # the window's 88 cells, and two or one more on every side
    assert found.tile == (stem + first + second + joined) * 256**2 + mixed + found.decode * 176**2
    assert found.giga(1e9, 2e9) == found.encode + 2 * found.decode


def test_scenes_are_kept_outside_of_the_repository():
    from benchmarks.refinement.__main__ import CACHE

    assert not CACHE.resolve().is_relative_to(Path(scenes.__file__).parents[2].resolve())

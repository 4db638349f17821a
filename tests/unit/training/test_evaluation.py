"""Evaluation: figures against hand-worked cases, and the command that prints and keeps them."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from matting import quality
from tests.support.tiny_training import tiny_run
from training.__main__ import main
from training.config import Phase
from training.evaluate import means, measure
from training.options import default_phases, parse_phases
from training.report import COLUMNS, as_text, write


def square(x0, x1, size=100):
    plane = np.zeros((size, size), np.float32)
    plane[20:80, x0:x1] = 1
    return plane


def test_figures_of_a_shifted_square():
    figures = measure(square(30, 90), square(20, 80))
    assert figures.mae == pytest.approx(2 * 10 * 60 / 100**2)
    assert figures.iou == pytest.approx(50 / 70)


def test_the_truth_itself_is_perfect():
    figures = measure(square(20, 80), square(20, 80))
    assert (figures.mae, figures.iou, figures.band) == (0, 1, 0)


def test_the_band_error_counts_only_the_band():
    truth, wrong_inside = square(20, 80), square(20, 80)
    wrong_inside[45:55, 45:55] = 0
    assert measure(wrong_inside, truth).band == 0
    assert measure(wrong_inside, truth).mae == pytest.approx(0.01)


def test_the_band_grows_with_the_image():
    def band_of_a_wrong_ring(size):
        truth = np.zeros((size, size), np.float32)
        truth[size // 4 : -size // 4, size // 4 : -size // 4] = 1
        grown = np.zeros_like(truth)
        grown[size // 4 - 1 : 1 - size // 4, size // 4 - 1 : 1 - size // 4] = 1
        return measure(grown, truth).band

    # One wrong pixel row along the contour: the band is five times as wide at five times the size.
    assert band_of_a_wrong_ring(500) == pytest.approx(band_of_a_wrong_ring(100) / 5, rel=0.15)


def test_empty_truths():
    nothing = np.zeros((10, 10), np.float32)
    assert measure(nothing, nothing).iou == 1
    assert measure(np.ones((10, 10), np.float32), nothing).iou == 0


def test_sizes_must_agree():
    with pytest.raises(ValueError, match=r"\(10, 10\)"):
        measure(np.zeros((5, 5), np.float32), np.zeros((10, 10), np.float32))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    run = tiny_run(tmp_path_factory.mktemp("run"))
    run.train()
    return run


def test_the_command_prints_and_writes_the_figures(trained, tmp_path, capsys):
    out = tmp_path / "figures"
    main(["evaluate", str(trained.checkpoint), "--count", "3", "--size", "32", "--sets", "heldout", "--out", str(out)])
    assert "MAE" in capsys.readouterr().out
    summary = json.loads((out / "evaluation.json").read_text())
    with (out / "evaluation.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == summary["sets"]["heldout"]["images"] == 3
    assert np.mean([float(row["mae"]) for row in rows]) == pytest.approx(summary["sets"]["heldout"]["mae"], abs=1e-4)
    assert summary["size"] == 32
    assert set(rows[0]) == {"set", "index", *COLUMNS} - {"pooled_iou"}
    page = (out / "evaluation.html").read_text()
    for key, (heading, _) in COLUMNS.items():
        assert heading in page, key
        assert key in summary["sets"]["heldout"]


def test_the_table_is_that_of_the_metrics():
    predicted, truth = square(30, 90), square(20, 80)
    figures = measure(predicted, truth)
    assert figures.s == quality.s_measure(predicted, truth)
    assert figures.weighted_f == quality.weighted_f(predicted, truth)
    assert figures.e_max == quality.e_measure(predicted, truth).maximum
    assert figures.hce == quality.human_correction_efforts(predicted, truth)
    assert figures.mba == quality.mean_boundary_accuracy(predicted, truth)
    assert figures.conn == quality.connectivity_error(predicted, truth)
    # The figures are those of `matting.quality`, all of them; pooled IoU is the set's.
    functions = {name for name in quality.__all__ if name != "EMeasure"}
    assert len({*COLUMNS}) == len(functions) + 2  # E has three


def test_the_pooled_iou_is_of_all_pixels_and_undefined_figures_are_left_out():
    empty = np.zeros((100, 100), np.float32)
    pairs = [(square(30, 90), square(20, 80)), (square(20, 80), square(20, 80)), (empty, empty)]
    found = means([measure(*pair) for pair in pairs])
    assert found["pooled_iou"] == pytest.approx(quality.pooled_iou(pairs))
    assert found["iou"] == pytest.approx(np.mean([quality.iou(*pair) for pair in pairs]))
    defined = [quality.mean_boundary_accuracy(*pair) or 0.0 for pair in pairs[:2]]
    assert found["mba"] == pytest.approx(np.mean(defined))
    assert np.isnan(means([measure(empty, empty)])["mba"])


def test_a_report_survives_what_is_not_defined_and_strange_names(tmp_path):
    empty = np.zeros((64, 64), np.float32)
    results = {"<b>": [measure(empty, empty)]}
    write(tmp_path, results, {"size": 64})
    assert json.loads((tmp_path / "evaluation.json").read_text())["sets"]["<b>"]["mba"] is None
    assert "&lt;b&gt;" in (tmp_path / "evaluation.html").read_text()
    assert "<td>-</td>" in (tmp_path / "evaluation.html").read_text()
    with (tmp_path / "evaluation.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert row["mba"] == ""
    assert row["iou"] == "1.00000"
    (line,) = [line for line in as_text(results).splitlines() if line.startswith("mBA")]
    assert line.split()[-1] == "-"


def test_exported_weights_are_the_average_in_half_precision_and_evaluate_alike(trained, tmp_path):
    from modeling.weights import load_network, read_metadata

    weights = tmp_path / "out" / "tiny.safetensors"
    main(["weights", str(trained.checkpoint), "--out", str(weights), "--command", "train it"])
    network = load_network(weights)
    state = network.state_dict()
    averages = {name: value.half() if value.is_floating_point() else value for name, value in trained.ema.state.items()}
    assert all((state[name] == value).all() for name, value in averages.items())
    assert read_metadata(weights)["command"] == "train it"
    assert read_metadata(weights)["step"] == "6"
    found = []
    for source in (trained.checkpoint, weights):
        main(["evaluate", str(source), "--count", "2", "--size", "32", "--sets", "heldout", "--out", str(tmp_path)])
        found.append(json.loads((tmp_path / "evaluation.json").read_text())["sets"]["heldout"])
    assert found[0] == pytest.approx(found[1], abs=1e-3)


def size_of(path):
    with Image.open(path) as picture:
        return picture.size


def test_previews_and_sheets_are_pictures(trained, tmp_path):
    main(["preview", str(trained.checkpoint), "--size", "32", "--out", str(tmp_path / "preview.png")])
    # Sixteen rows of four pictures, two to a line.
    assert size_of(tmp_path / "preview.png") == (8 * 32, 8 * 32)
    main(["sheet", "--count", "7", "--size", "32", "--family", "vessel", "--out", str(tmp_path / "sheet.png")])
    assert size_of(tmp_path / "sheet.png") == (10 * 32, 2 * 32)


def test_the_curve_is_a_picture(trained, tmp_path):
    main(["curve", str(trained.folder / "log.csv"), "--out", str(tmp_path / "curve.png")])
    assert size_of(tmp_path / "curve.png")[0] > 300
    (tmp_path / "log.csv").write_text("step,seconds,size,rate,norm,loss,mae\n")
    with pytest.raises(ValueError, match="no rows yet"):
        main(["curve", str(tmp_path / "log.csv"), "--out", str(tmp_path / "none.png")])


def test_a_run_is_not_overwritten_unasked(trained, tmp_path):
    with pytest.raises(SystemExit, match="already holds a run"):
        main(["train", "--steps", "1", "--out", str(trained.folder)])


def test_phases_from_text():
    assert parse_phases("192x16:0.4,384x8:1") == (Phase(0.4, 192, 16), Phase(1.0, 384, 8))
    with pytest.raises(SystemExit, match="SIZExBATCH:SHARE"):
        parse_phases("192")
    assert [phase.size for phase in default_phases(384)] == [192, 256, 384]
    assert all(phase.batch % 2 == 0 for phase in default_phases(384))

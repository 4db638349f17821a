"""The plan: every output of every input is known, and apart from all others, before any work."""

from pathlib import Path

import pytest

from server.cli.inputs import PlanError, plan_jobs


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """Makes files below the working directory."""
    monkeypatch.chdir(tmp_path)

    def make(*names: str) -> None:
        for name in names:
            path = Path(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x")

    return make


def pairs(*inputs: str, out: str = "out", suffix: str = ".png", keep_suffix: bool = False) -> list[tuple[str, str]]:
    plan = plan_jobs([Path(name) for name in inputs], Path(out), suffix, keep_suffix=keep_suffix)
    return [(str(job.source), str(job.target)) for job in plan.jobs]


def test_folders_are_searched_and_their_structure_is_kept(tree):
    tree("in/b.JPG", "in/a.png", "in/deep/er/c.tiff", "in/notes.txt", "in/deep/readme")
    assert pairs("in") == [
        ("in/a.png", "out/a.png"),
        ("in/b.JPG", "out/b.png"),
        ("in/deep/er/c.tiff", "out/deep/er/c.png"),
    ]
    assert plan_jobs([Path("in")], Path("out"), ".png").passed_over == 2


def test_files_are_taken_whatever_they_are_called(tree):
    tree("x/photo", "y/picture.dat")
    assert pairs("x/photo", "y/picture.dat") == [("x/photo", "out/photo.png"), ("y/picture.dat", "out/picture.png")]


def test_hidden_files_and_folders_are_left_out(tree):
    tree("in/a.jpg", "in/._a.jpg", "in/.cache/b.jpg")
    assert pairs("in") == [("in/a.jpg", "out/a.png")]


def test_what_we_write_is_not_read_again(tree):
    tree("in/a.jpg", "in/out/a.png")
    assert pairs("in", out="in/out") == [("in/a.jpg", "in/out/a.png")]


def test_a_dot_in_a_name_is_no_suffix(tree):
    tree("in/v1.2.jpg")
    assert pairs("in") == [("in/v1.2.jpg", "out/v1.2.png")]


def test_two_inputs_for_one_output_are_refused(tree):
    tree("in/a.jpg", "in/a.png", "in/b.jpg")
    with pytest.raises(
        PlanError, match=r"found several inputs for one .*--keep-suffix[\s\S]*in/a.jpg and in/a.png → .*out/a.png"
    ):
        pairs("in")
    assert pairs("in", keep_suffix=True) == [
        ("in/a.jpg", "out/a.jpg.png"),
        ("in/a.png", "out/a.png.png"),
        ("in/b.jpg", "out/b.jpg.png"),
    ]


def test_the_same_name_in_two_folders_collides(tree):
    tree("one/a.jpg", "two/a.jpg")
    with pytest.raises(PlanError, match=r"one/a.jpg and two/a.jpg"):
        pairs("one", "two")


def test_one_file_given_twice_is_done_once(tree):
    tree("in/a.jpg")
    assert pairs("in", "in/a.jpg", "./in/a.jpg") == [("in/a.jpg", "out/a.png")]


def test_inputs_are_never_overwritten(tree):
    tree("in/a.png", "b.png")
    with pytest.raises(PlanError, match="expected an output folder other than the input folder"):
        pairs("in", out="in")
    with pytest.raises(PlanError, match=r"would be overwritten:\n  b.png"):
        pairs("b.png", out=".")
    with pytest.raises(PlanError, match=r"would be overwritten:\n  b.png"):
        pairs("b.png", out="b.png")


def test_long_lists_are_cut(tree):
    tree(*(f"in/{number}.{suffix}" for number in range(30) for suffix in ("jpg", "png")))
    with pytest.raises(PlanError) as caught:
        pairs("in")
    lines = str(caught.value).splitlines()
    assert len(lines) == 12
    assert lines[-1] == "  … and 20 more"


def test_one_file_to_one_file(tree):
    tree("a.jpg")
    assert pairs("a.jpg", out="deep/result.png") == [("a.jpg", "deep/result.png")]


def test_a_folder_with_a_suffix_in_its_name_is_a_folder(tree):
    tree("a.jpg", "results.png/keep")
    assert pairs("a.jpg", out="results.png") == [("a.jpg", "results.png/a.png")]


def test_missing_inputs_do_not_stop_the_others(tree):
    tree("a.jpg")
    plan = plan_jobs([Path("nowhere"), Path("a.jpg")], Path("out"), ".png")
    assert [str(path) for path in plan.missing] == ["nowhere"]
    assert len(plan.jobs) == 1


@pytest.mark.parametrize("out", ["cutout.tiff", "cutout.webp", "cutout.bmp"])
def test_a_name_that_promises_another_format_is_refused(tree, out):
    tree("a.jpg")
    with pytest.raises(PlanError, match=rf"{out}: expected a name that ends in \.png"):
        pairs("a.jpg", out=out)


def test_both_names_of_jpeg_are_jpeg(tree):
    tree("a.png")
    assert pairs("a.png", out="b.JPEG", suffix=".jpg") == [("a.png", "b.JPEG")]

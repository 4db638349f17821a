"""The self-test: it fits the graph, and it fails for wrong, missing and non-numeric answers."""

from pathlib import Path

import numpy as np
import pytest

from artifact import (
    Artifact,
    ArtifactError,
    Manifest,
    NewFile,
    TensorSpec,
    Tolerance,
    load_self_test,
    write_artifact,
)

IMAGE = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(1, 4, 6, 3)
ALPHA = np.linspace(0, 1, 24, dtype=np.float32).reshape(1, 4, 6)


def with_arrays(directory: Path, **arrays: np.ndarray) -> Artifact:
    np.savez_compressed(directory / "arrays.npz", allow_pickle=False, **arrays)
    manifest = Manifest(
        name="tiny",
        kind="matte",
        inputs=(TensorSpec("image", "uint8", ("batch", 4, 6, 3)),),
        outputs=(TensorSpec("alpha", "float32", ("batch", 4, 6)),),
        input_size=(4, 6),
        max_batch=4,
        backbone="swin_v1_t",
        licence="MIT",
        self_test={"fp32": Tolerance(1e-3, 1e-4)},
    )
    new = {"self_test": NewFile(directory / "arrays.npz", "self_test.npz")}
    return write_artifact(directory / "model", manifest, new)


def test_a_right_answer_passes(tmp_path: Path) -> None:
    self_test = load_self_test(with_arrays(tmp_path, image=IMAGE, alpha=ALPHA))
    assert np.array_equal(self_test.inputs["image"], IMAGE)
    deviation = self_test.compare({"alpha": ALPHA + np.float32(5e-5)})
    assert deviation.passed
    assert deviation.max_abs == pytest.approx(5e-5, rel=0.01)


@pytest.mark.parametrize("kind", ["one pixel", "everywhere", "not a number"])
def test_a_wrong_answer_fails(tmp_path: Path, kind: str) -> None:
    self_test = load_self_test(with_arrays(tmp_path, image=IMAGE, alpha=ALPHA))
    answer = ALPHA.copy()
    if kind == "one pixel":
        answer[0, 2, 3] += 2e-3
    elif kind == "everywhere":
        answer += 5e-4
    else:
        answer[0, 0, 0] = np.nan
    assert not self_test.compare({"alpha": answer}).passed


def test_an_answer_of_the_wrong_shape_is_an_error(tmp_path: Path) -> None:
    self_test = load_self_test(with_arrays(tmp_path, image=IMAGE, alpha=ALPHA))
    with pytest.raises(ArtifactError, match=r"of shape \(1, 4, 6\), found \(1, 6, 4\)"):
        self_test.compare({"alpha": ALPHA.reshape(1, 6, 4)})
    with pytest.raises(ArtifactError, match="found nothing"):
        self_test.compare({})
    with pytest.raises(ArtifactError, match="tolerance for the precision `int8`, found fp32"):
        self_test.compare({"alpha": ALPHA}, "int8")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"image": IMAGE}, "expected the array `alpha`"),
        ({"image": IMAGE[:, :2], "alpha": ALPHA}, "expected the array `image`"),
        ({"image": IMAGE.astype(np.int32), "alpha": ALPHA}, "found int32"),
        ({"image": IMAGE[0], "alpha": ALPHA}, "expected the array `image`"),
    ],
)
def test_an_archive_that_does_not_fit_the_graph_is_refused(
    tmp_path: Path, arrays: dict[str, np.ndarray], message: str
) -> None:
    with pytest.raises(ArtifactError, match=message):
        load_self_test(with_arrays(tmp_path, **arrays))


def test_a_file_that_is_no_archive_is_refused(tmp_path: Path) -> None:
    opened = with_arrays(tmp_path, image=IMAGE, alpha=ALPHA)
    opened.file("self_test").write_bytes(b"not an archive")
    with pytest.raises(ArtifactError, match="expected an npz archive"):
        load_self_test(opened)

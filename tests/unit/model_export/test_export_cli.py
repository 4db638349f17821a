"""The command line refuses what it cannot do, says what was expected and found, and exits non-zero."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from model_export.__main__ import main
from model_export.errors import SourceError
from model_export.source import locate
from tests.support.networks import tiny_checkpoint


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return tiny_checkpoint(tmp_path)


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What is said on stderr by a command that cannot be carried out."""
    assert main(list(arguments)) == 2
    said = capsys.readouterr()
    assert said.out == ""
    return said.err


def export(source: object, folder: Path, *options: str) -> tuple[str, ...]:
    return ("onnx", str(source), "-o", str(folder / "out"), "--size", "64x64", *options)


def test_a_source_that_is_not_there(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    said = refused(capsys, *export(tmp_path / "absent.pth", tmp_path))
    assert "expected a .safetensors or .pth file, a directory that holds one, or a Hugging Face id" in said
    assert "absent.pth`" in said


@pytest.mark.parametrize("source", ["models/absent.pth", "a/b/c", "../model", "~/model", "a/b@", "model"])
def test_what_is_no_path_and_no_hugging_face_id(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, source: str
) -> None:
    assert f"found nothing at `{source}`" in refused(capsys, *export(source, tmp_path))


def test_repositories_of_other_files_are_not_asked(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    said = refused(capsys, *export("onnx-community/BiRefNet_dynamic-ONNX-CUDA", tmp_path))
    assert "expected a checkpoint, found ONNX files in onnx-community/BiRefNet_dynamic-ONNX-CUDA" in said


def test_a_file_that_is_no_checkpoint(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8")
    assert "photo.jpg`" in refused(capsys, *export(tmp_path / "photo.jpg", tmp_path))


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_truncated_checkpoint(
    capsys: pytest.CaptureFixture[str], checkpoint: Path, tmp_path: Path, suffix: str
) -> None:
    whole = tmp_path / f"whole{suffix}"
    if suffix == ".pth":
        torch.save(load_file(checkpoint), whole)
    else:
        whole = checkpoint
    half = tmp_path / f"half{suffix}"
    half.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    said = refused(capsys, *export(half, tmp_path))
    assert f"half{suffix}: not a " in said
    assert not (tmp_path / "out").exists()


def test_wrong_keys_are_named(capsys: pytest.CaptureFixture[str], checkpoint: Path, tmp_path: Path) -> None:
    state = load_file(checkpoint)
    state["decoder.novelty.weight"] = torch.zeros(3)
    del state["bb.norm2.bias"]
    save_file(state, tmp_path / "wrong.safetensors")
    said = refused(capsys, *export(tmp_path / "wrong.safetensors", tmp_path))
    assert "unknown decoder.novelty.weight" in said
    assert "missing bb.norm2.bias" in said


@pytest.mark.parametrize("size", ["100x64", "64x33", "0x0"])
def test_a_size_that_the_network_cannot_take(
    capsys: pytest.CaptureFixture[str], checkpoint: Path, tmp_path: Path, size: str
) -> None:
    said = refused(capsys, "onnx", str(checkpoint), "-o", str(tmp_path / "out"), "--size", size)
    assert f"expected a size of multiples of 32, found {size}" in said


@pytest.mark.parametrize(
    "options", [["--size", "64"], ["--size", "64x64x3"], ["--size", "-64x64"], ["--max-batch", "many"], []]
)
def test_arguments_that_cannot_be_read(checkpoint: Path, tmp_path: Path, options: list[str]) -> None:
    output = ["-o", str(tmp_path / "out")] if options else []
    with pytest.raises(SystemExit) as caught:
        main(["onnx", str(checkpoint), *output, *options])
    assert caught.value.code == 2


@pytest.mark.parametrize(
    ("options", "field"), [(["--name", "a b"], "name"), (["--max-batch", "0"], "max_batch"), (["--name", ""], "name")]
)
def test_values_that_the_manifest_refuses_cost_no_export(
    capsys: pytest.CaptureFixture[str], checkpoint: Path, tmp_path: Path, options: list[str], field: str
) -> None:
    said = refused(capsys, *export(checkpoint, tmp_path, *options))
    assert f"manifest field `{field}`" in said
    assert "tracing" not in said


def test_foreign_files_in_the_way_cost_no_export(
    capsys: pytest.CaptureFixture[str], checkpoint: Path, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "model.onnx").write_bytes(b"someone's")
    said = refused(capsys, *export(checkpoint, tmp_path))
    assert "foreign file" in said
    assert "tracing" not in said
    assert (tmp_path / "out" / "model.onnx").read_bytes() == b"someone's"


def test_verifying_what_is_no_artifact(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "expected an artifact directory" in refused(capsys, "verify", str(tmp_path))


def located(directory: Path) -> Path:
    return locate(str(directory), lambda _: None).path


def test_a_directory_with_one_checkpoint_is_a_source(checkpoint: Path) -> None:
    assert located(checkpoint.parent) == checkpoint
    (checkpoint.parent / "README.md").write_text("a card")
    assert located(checkpoint.parent) == checkpoint


def test_a_directory_with_several_must_be_told_unless_one_has_the_usual_name(checkpoint: Path) -> None:
    (checkpoint.parent / "other.pth").write_bytes(b"")
    with pytest.raises(SourceError, match=r"found other\.pth, tiny\.safetensors; name the file"):
        located(checkpoint.parent)
    usual = checkpoint.parent / "model.safetensors"
    usual.write_bytes(b"")
    assert located(checkpoint.parent) == usual


def test_a_directory_with_shards_is_refused(tmp_path: Path) -> None:
    for part in (1, 2):
        (tmp_path / f"model-0000{part}-of-00002.safetensors").write_bytes(b"")
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(
        SourceError, match=r"expected one checkpoint in `.*`, found one in shards \(model-00001-of-00002"
    ):
        located(tmp_path)


def test_a_directory_without_one_is_none(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="found none"):
        located(tmp_path)


def test_help_needs_no_torch() -> None:
    script = (
        "import sys\n"
        "from model_export.__main__ import main\n"
        "try:\n    main(['onnx', '--help'])\n"
        "except SystemExit:\n    pass\n"
        "sys.exit('torch' in sys.modules)\n"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert result.returncode == 0
    assert "--size" in result.stdout

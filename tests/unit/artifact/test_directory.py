"""Artifact directories: what is written is read, and nothing damaged or half-written is taken for an artifact."""

import contextlib
import json
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import artifact.writing
from artifact import (
    Artifact,
    ArtifactError,
    Manifest,
    NewFile,
    TensorSpec,
    check_target,
    open_artifact,
    rewrite_manifest,
)
from artifact.writing import write_artifact

MANIFEST = Manifest(
    name="tiny",
    kind="matte",
    inputs=(TensorSpec("image", "uint8", ("batch", 32, 32, 3)),),
    outputs=(TensorSpec("alpha", "float32", ("batch", 32, 32)),),
    input_size=(32, 32),
    max_batch=4,
    backbone="swin_v1_t",
    licence="MIT",
)


def write(directory: Path, content: bytes = b"graph", **files: bytes) -> Artifact:
    """An artifact whose model holds `content`; further files by role."""
    source = directory.parent / "sources"
    source.mkdir(parents=True, exist_ok=True)
    new = {}
    for role, data in {"model": content, **files}.items():
        (source / role).write_bytes(data)
        new[role] = NewFile(source / role, f"{role}.onnx", "fp32")
    return write_artifact(directory, MANIFEST, new)


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_what_is_written_is_read(tmp_path: Path) -> None:
    written = write(tmp_path / "new" / "model", weights=b"weights")
    opened = open_artifact(str(tmp_path / "new" / "model"))
    assert opened.manifest == written.manifest
    assert opened.file("model").read_bytes() == b"graph"
    assert names(tmp_path / "new") == ["model", "sources"]
    assert names(opened.directory) == ["model.json", "model.onnx", "weights.onnx"]


def test_files_are_readable_by_others_as_the_umask_says(tmp_path: Path) -> None:
    previous = os.umask(0o022)
    try:
        opened = write(tmp_path / "model")
    finally:
        os.umask(previous)
    assert opened.directory.stat().st_mode & 0o777 == 0o755
    assert {path.stat().st_mode & 0o777 for path in opened.directory.iterdir()} == {0o644}


def test_the_content_id_follows_the_files(tmp_path: Path) -> None:
    first, same, other = write(tmp_path / "a"), write(tmp_path / "b"), write(tmp_path / "c", b"other")
    assert first.sha256 == same.sha256 != other.sha256
    assert rewrite_manifest(first, replace(first.manifest, parity={"max_abs": 0.0})).sha256 == same.sha256


def test_an_unknown_role_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="in the role `plan`, found the roles model"):
        write(tmp_path / "model").file("plan")


def test_a_changed_file_is_detected(tmp_path: Path) -> None:
    opened = write(tmp_path / "model")
    opened.file("model").write_bytes(b"grapf")
    with pytest.raises(ArtifactError, match=r"model\.onnx: expected SHA-256 [0-9a-f]{64}, found [0-9a-f]{64}"):
        open_artifact(opened.directory)
    assert open_artifact(opened.directory, verify_hashes=False).manifest == opened.manifest


@pytest.mark.parametrize("verify_hashes", [True, False])
def test_a_missing_file_is_detected(tmp_path: Path, verify_hashes: bool) -> None:
    opened = write(tmp_path / "model")
    opened.file("model").unlink()
    with pytest.raises(ArtifactError, match="the role `model`, found nothing"):
        open_artifact(opened.directory, verify_hashes=verify_hashes)


def test_what_is_no_artifact_says_so(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="found no such directory"):
        open_artifact(tmp_path / "absent")
    with pytest.raises(ArtifactError, match="found a directory without it"):
        open_artifact(tmp_path)
    (tmp_path / "model.json").write_text('{"format_version": 1')
    with pytest.raises(ArtifactError, match="expected JSON"):
        open_artifact(tmp_path)
    (tmp_path / "model.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ArtifactError, match="cannot be read"):
        open_artifact(tmp_path)
    (tmp_path / "model.json").write_text("{}")
    with pytest.raises(ArtifactError, match="`format_version`: expected an integer, found nothing"):
        open_artifact(tmp_path)


def test_a_failure_leaves_no_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artifact.writing, "_write_manifest", fail)
    with pytest.raises(OSError, match="disk full"):
        write(tmp_path / "model")
    assert names(tmp_path) == ["sources"]


def fail(*_: object) -> None:
    raise OSError("disk full")


def test_replacing_keeps_what_is_not_the_artifacts(tmp_path: Path) -> None:
    target = tmp_path / "default_model"
    target.mkdir()
    (target / "CARD.md").write_text("a card")
    (target / "__init__.py").write_text('"""A package."""')
    write(target, b"old", weights=b"weights")
    replaced = write(target, b"new")
    assert names(target) == ["CARD.md", "__init__.py", "model.json", "model.onnx"]
    assert replaced.file("model").read_bytes() == b"new"
    assert (target / "CARD.md").read_text() == "a card"


def test_replacing_with_the_same_files_changes_nothing_else(tmp_path: Path) -> None:
    first = write(tmp_path / "model")
    again = write(tmp_path / "model")
    assert again == first
    assert names(first.directory) == ["model.json", "model.onnx"]


def test_a_kept_entry_stays_and_must_be_there(tmp_path: Path) -> None:
    first = write(tmp_path / "model")
    (tmp_path / "plan").write_bytes(b"plan")
    new = {"plan": NewFile(tmp_path / "plan", "h200.plan", "fp16")}
    both = write_artifact(first.directory, first.manifest, new)
    assert sorted(both.manifest.files) == ["model", "plan"]
    assert both.file("model").read_bytes() == b"graph"
    both.file("model").unlink()
    with pytest.raises(ArtifactError, match="file that the manifest keeps"):
        write_artifact(first.directory, first.manifest, new)


def test_foreign_files_are_not_overwritten(tmp_path: Path) -> None:
    target = tmp_path / "model"
    target.mkdir()
    (target / "model.onnx").write_bytes(b"someone's only copy")
    with pytest.raises(ArtifactError, match="found a foreign file"):
        write(target)
    assert (target / "model.onnx").read_bytes() == b"someone's only copy"
    with pytest.raises(ArtifactError, match="found a file"):
        write(target / "model.onnx")


def test_a_target_that_cannot_be_written_to_is_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"in the way")
    with pytest.raises(ArtifactError, match=r"expected a place to write to, found .*file: Not a directory"):
        check_target(tmp_path / "file" / "deeper" / "model", ["model.onnx"])
    check_target(tmp_path / "not" / "there" / "yet", ["model.onnx"])
    assert names(tmp_path) == ["file"]


def test_a_name_that_ends_in_a_hash_owns_no_other(tmp_path: Path) -> None:
    """A plan's file name may carry a hash; a foreign file without it is still foreign."""
    (tmp_path / "plan").write_bytes(b"plan")
    new = {"plan": NewFile(tmp_path / "plan", "model-0123456789abcdef.plan", "fp16")}
    opened = write_artifact(tmp_path / "model", MANIFEST, new)
    (opened.directory / "model.plan").write_bytes(b"someone's")
    write(opened.directory)
    assert names(opened.directory) == ["model.json", "model.onnx", "model.plan"]
    with pytest.raises(ArtifactError, match="foreign file"):
        write_artifact(opened.directory, MANIFEST, {"plan": NewFile(tmp_path / "plan", "model.plan", "fp16")})


@pytest.mark.parametrize("steps", range(1, 11))
def test_a_crash_while_replacing_leaves_one_whole_artifact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    """Die after each of the writer's steps in turn: what can be opened is the old artifact or the new one."""
    write(tmp_path / "model", b"old", weights=b"old weights")
    taken = 0

    def counted(step: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **options: Any) -> Any:
            nonlocal taken
            taken += 1
            if taken > steps:
                raise KeyboardInterrupt
            return step(*arguments, **options)

        return run

    for name in ("_copy", "_write_manifest", "_install"):
        monkeypatch.setattr(artifact.writing, name, counted(getattr(artifact.writing, name)))
    monkeypatch.setattr(Path, "unlink", counted(Path.unlink))
    with contextlib.suppress(KeyboardInterrupt):
        write(tmp_path / "model", b"new", weights=b"new weights")
    monkeypatch.undo()
    opened = open_artifact(tmp_path / "model")
    content = {role: opened.file(role).read_bytes() for role in ("model", "weights")}
    assert content in (
        {"model": b"old", "weights": b"old weights"},
        {"model": b"new", "weights": b"new weights"},
    )
    healed = write(tmp_path / "model", b"newer", weights=b"newer weights")
    assert healed.file("model").read_bytes() == b"newer"


def test_a_reader_sees_the_old_or_the_new_artifact_while_it_is_replaced(tmp_path: Path) -> None:
    write(tmp_path / "model", b"0" * 100_000)
    done = threading.Event()
    seen: list[str] = []
    failures: list[ArtifactError] = []

    def read() -> None:
        while not done.is_set():
            try:
                seen.append(open_artifact(tmp_path / "model").manifest.files["model"].sha256)
            except ArtifactError as error:
                failures.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    written = {
        write(tmp_path / "model", bytes([digit]) * 100_000).manifest.files["model"].sha256
        for digit in b"0123456789" * 3
    }
    done.set()
    reader.join()
    assert not failures
    assert set(seen) <= written
    assert seen


def test_the_manifest_on_disk_is_plain_json(tmp_path: Path) -> None:
    opened = write(tmp_path / "model")
    mapping = json.loads((opened.directory / "model.json").read_text(encoding="utf-8"))
    assert mapping["files"]["model"]["path"] == "model.onnx"
    assert mapping["format_version"] == 1

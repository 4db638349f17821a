"""Writes artifact directories so that a reader sees the old artifact or the new one, never a mixture.

A new directory is assembled beside its place and renamed. In an existing one, files are first written under names
that carry their hash; the manifest that points at them replaces the old in one step; then they take their plain
names, and the manifest follows. A crash at any moment leaves one whole artifact, and files that are not the
artifact's (a card, a package's `__init__.py`) are not touched.
"""

import json
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from artifact.directory import Artifact, ArtifactError, file_sha256, open_artifact, read_manifest
from artifact.manifest import MANIFEST_NAME, FileEntry, Manifest, contained_path

_STAGED = ".staged-"


@dataclass(frozen=True, slots=True)
class NewFile:
    """A file to be put into an artifact.

    Attributes:
        source: Where it is now; it is copied.
        name: Its path in the artifact.
        precision: As in the manifest.
        extra: Further fields of its entry there.
    """

    source: Path
    name: str
    precision: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


def write_artifact(directory: Path | str, manifest: Manifest, new_files: Mapping[str, NewFile]) -> Artifact:
    """Create an artifact directory, or replace the artifact in an existing one.

    Args:
        directory: Where; its parent is made if need be.
        manifest: Complete but for `new_files`; entries it already has must lie in the directory and are kept.
        new_files: By role.

    Raises:
        ArtifactError: A file would overwrite one that is not the artifact's, or a kept entry is not there.
        ManifestError: A name leaves the directory.
    """
    target = Path(directory)
    entries = {
        role: FileEntry(
            contained_path(new.name, f"files.{role}.path"), file_sha256(new.source), new.precision, new.extra
        )
        for role, new in new_files.items()
    }
    complete = replace(manifest, files={**manifest.files, **entries})
    Manifest.parse(complete.to_mapping())
    sources = {entries[role].path: new.source for role, new in new_files.items()}
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        _replace_within(target, complete, sources)
    else:
        _assemble_beside(target, complete, sources)
    return open_artifact(target)


def check_target(directory: Path | str, names: Iterable[str]) -> None:
    """Whether `write_artifact` may put files of these names there; to be asked before the work, not after.

    Raises:
        ArtifactError: The directory is a file, cannot be written to, holds a damaged manifest, or a file that is not
            an artifact's is in the way.
    """
    target = Path(directory)
    if target.exists() and not target.is_dir():
        raise ArtifactError(f"{target}: expected a directory or nothing, found a file")
    _check_writable(target)
    old = _paths_of(target)
    owned = old | {_plain_name(name) for name in old}
    for name in names:
        if (target / name).exists() and name not in owned:
            raise ArtifactError(f"{target / name}: expected no such file or one of an artifact, found a foreign file")


def _check_writable(target: Path) -> None:
    """By writing: permissions alone do not tell of file systems that are read-only or full."""
    place = next(path for path in (target, *target.absolute().parents) if path.exists())
    try:
        with tempfile.TemporaryDirectory(prefix=".birefnet-", dir=place):
            pass
    except OSError as error:
        raise ArtifactError(f"{target}: expected a place to write to, found {place}: {error.strerror}") from error


def rewrite_manifest(artifact: Artifact, manifest: Manifest) -> Artifact:
    """Replace `model.json` in one step; the files stay as they are."""
    _write_manifest(artifact.directory, manifest)
    return Artifact(artifact.directory, manifest)


def _assemble_beside(target: Path, manifest: Manifest, sources: Mapping[str, Path]) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.parent / f".{target.name}.partial-{uuid.uuid4().hex}"
    partial.mkdir()
    try:
        for name, source in sources.items():
            _copy(source, partial / name)
        _write_manifest(partial, manifest)
        open_artifact(partial)
        partial.replace(target)  # an empty directory in its place is replaced too
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _replace_within(target: Path, manifest: Manifest, sources: Mapping[str, Path]) -> None:
    check_target(target, sources)
    old = _paths_of(target)
    digests = {entry.path: entry.sha256 for entry in manifest.files.values()}
    staged = {name: _staged_name(name, digests[name]) for name in sources}
    try:
        for name, source in sources.items():
            _copy(source, target / staged[name])
        _check_kept(target, manifest, set(digests) - set(sources))
    except BaseException:
        for temporary in staged.values():
            (target / temporary).unlink(missing_ok=True)
        raise
    _write_manifest(target, _with_paths(manifest, staged))
    for name, temporary in staged.items():
        _install(target / temporary, target / name)
    _write_manifest(target, manifest)
    for name in {*staged.values(), *old} - set(digests):
        (target / name).unlink(missing_ok=True)


def _paths_of(target: Path) -> set[str]:
    """The files of the artifact that is there already."""
    if not (target / MANIFEST_NAME).exists():
        return set()
    return {entry.path for entry in read_manifest(target).files.values()}


def _check_kept(target: Path, manifest: Manifest, names: set[str]) -> None:
    for entry in manifest.files.values():
        if entry.path in names and (not (target / entry.path).is_file()):
            raise ArtifactError(f"{target / entry.path}: expected the file that the manifest keeps, found nothing")


def _with_paths(manifest: Manifest, renamed: Mapping[str, str]) -> Manifest:
    entries = {role: replace(entry, path=renamed.get(entry.path, entry.path)) for role, entry in manifest.files.items()}
    return replace(manifest, files=entries)


def _staged_name(name: str, digest: str) -> str:
    path = PurePosixPath(name)
    return path.with_name(f"{path.stem}{_STAGED}{digest[:16]}{path.suffix}").as_posix()


def _plain_name(name: str) -> str:
    """What `_staged_name` was given: a crash may have left a manifest that still points at staged names."""
    path = PurePosixPath(name)
    return path.with_name(re.sub(rf"{re.escape(_STAGED)}[0-9a-f]{{16}}$", "", path.stem) + path.suffix).as_posix()


def _install(staged: Path, final: Path) -> None:
    """Give a file its plain name in one step, keeping the staged one for readers that are between two manifests."""
    link = final.with_name(f".{final.name}.partial")
    link.unlink(missing_ok=True)
    try:
        link.hardlink_to(staged)
    except OSError:  # a file system without hard links
        _copy(staged, link)
    link.replace(final)


def _copy(source: Path, destination: Path) -> None:
    destination.parent.mkdir(parents=True, exist_ok=True)
    with source.open("rb") as reader, destination.open("wb") as writer:
        shutil.copyfileobj(reader, writer)
        writer.flush()
        os.fsync(writer.fileno())


def _write_manifest(directory: Path, manifest: Manifest) -> None:
    temporary = directory / f".{MANIFEST_NAME}.{uuid.uuid4().hex}"
    try:
        with temporary.open("w", encoding="utf-8") as stream:
            json.dump(manifest.to_mapping(), stream, indent=2, ensure_ascii=False)
            stream.write("\n")
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(directory / MANIFEST_NAME)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise

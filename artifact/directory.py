"""Opens artifact directories: reads `model.json` and proves every file of it by its hash."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from artifact.fields import ManifestError
from artifact.manifest import MANIFEST_NAME, PLAN_PREFIX, Manifest

_CHUNK_BYTES = 1 << 20


class ArtifactError(Exception):
    """A directory is no artifact, or a damaged one; the message names the file, what was expected and found."""


@dataclass(frozen=True, slots=True)
class Artifact:
    """An exported model on disk: the directory and what its manifest says."""

    directory: Path
    manifest: Manifest

    def file(self, role: str) -> Path:
        """Where the file of a role lies.

        Raises:
            ArtifactError: The artifact has no such role.
        """
        entry = self.manifest.files.get(role)
        if entry is None:
            roles = ", ".join(sorted(self.manifest.files)) or "none"
            raise ArtifactError(f"{self.directory}: expected a file in the role `{role}`, found the roles {roles}")
        return self.directory / entry.path

    @property
    def sha256(self) -> str:
        """Content id: equal for two artifacts that hold the same files in the same roles.

        Plans do not count: machines build them from the rest, and replicas on different GPUs serve one artifact.
        """
        files = self.manifest.files.items()
        lines = sorted(f"{role} {entry.sha256}\n" for role, entry in files if not role.startswith(PLAN_PREFIX))
        return hashlib.sha256("".join(lines).encode()).hexdigest()


def open_artifact(path: Path | str, verify_hashes: bool = True) -> Artifact:
    """Read and check an artifact directory.

    Args:
        path: The directory.
        verify_hashes: Also compare every file's SHA-256 with the manifest's (about a second per gigabyte).

    Raises:
        ArtifactError: No directory, no or a bad manifest, a file missing or changed.
    """
    directory = Path(path)
    manifest = read_manifest(directory)
    while True:
        try:
            _check_files(directory, manifest, verify_hashes)
        except ArtifactError:
            # A writer may have replaced the artifact between our two reads; then the new manifest tells the truth.
            current = read_manifest(directory)
            if current == manifest:
                raise
            manifest = current
        else:
            return Artifact(directory, manifest)


def read_manifest(directory: Path) -> Manifest:
    """Read `model.json` of a directory, without looking at the other files.

    Raises:
        ArtifactError: It is missing, no JSON, or not a manifest.
    """
    path = directory / MANIFEST_NAME
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError) as error:
        found = "a directory without it" if directory.is_dir() else "no such directory"
        raise ArtifactError(
            f"{directory}: expected an artifact directory with {MANIFEST_NAME}, found {found}"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ArtifactError(f"{path}: cannot be read: {error}") from error
    try:
        return Manifest.parse(json.loads(text))
    except json.JSONDecodeError as error:
        raise ArtifactError(f"{path}: expected JSON, found {error}") from error
    except ManifestError as error:
        raise ArtifactError(f"{path}: {error}") from error


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, as 64 lower-case hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _check_files(directory: Path, manifest: Manifest, verify_hashes: bool) -> None:
    for role, entry in manifest.files.items():
        path = directory / entry.path
        if not path.is_file():
            raise ArtifactError(f"{path}: expected the file in the role `{role}`, found nothing")
        if not verify_hashes:
            continue
        try:
            found = file_sha256(path)
        except OSError as error:
            raise ArtifactError(f"{path}: cannot be read: {error}") from error
        if found != entry.sha256:
            raise ArtifactError(f"{path}: expected SHA-256 {entry.sha256}, found {found}")

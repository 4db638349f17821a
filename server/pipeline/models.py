"""The models that are served, by the names that clients use."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from artifact import MANIFEST_NAME, Artifact, ArtifactError, Manifest, open_artifact
from server import default_model
from server.errors import UnknownModelError

# It travels in a header and in metric labels, and is part of URLs.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,99}")


class ModelsError(Exception):
    """The models that were asked for cannot be served together; the message says which and why."""


@dataclass(frozen=True, slots=True)
class Model:
    """A served model.

    Attributes:
        name: What clients call it.
        artifact: The exported directory.
    """

    name: str
    artifact: Artifact

    @property
    def artifact_id(self) -> str:
        """What the engine calls it; another artifact under the same name has another."""
        return f"{self.name}@{self.artifact.sha256[:12]}"

    @property
    def manifest(self) -> Manifest:
        return self.artifact.manifest

    def facts(self, *, is_default: bool) -> dict[str, Any]:
        """What `/models` says of it, as JSON types."""
        manifest = self.manifest
        return {
            "name": self.name,
            "default": is_default,
            "kind": manifest.kind,
            "title": manifest.name,
            "size": list(manifest.input_size),
            "backbone": manifest.backbone,
            "max_batch": manifest.max_batch,
            "licence": manifest.licence,
            "origin": dict(manifest.origin),
            "sha256": self.artifact.sha256,
        }


class Models:
    """Served models by name, the default one first."""

    def __init__(self, models: Iterable[Model]) -> None:
        self._by_name = {model.name: model for model in models}
        if not self._by_name:
            raise ValueError("models: expected at least one, found none")

    @property
    def default(self) -> Model:
        """The model of requests that name none."""
        return next(iter(self._by_name.values()))

    @property
    def artifacts(self) -> Mapping[str, Artifact]:
        """By artifact id, as the engine takes them."""
        return {model.artifact_id: model.artifact for model in self._by_name.values()}

    def find(self, name: str | None) -> Model:
        """The model of a name, or the default one.

        Raises:
            UnknownModelError: It names the models that are served.
        """
        if name is None:
            return self.default
        model = self._by_name.get(name)
        if model is None:
            known = ", ".join(self._by_name)
            raise UnknownModelError(f"expected one of the models {known}, found {name[:100]!r}")
        return model

    def listing(self) -> list[dict[str, Any]]:
        """Facts of every model, the default one first."""
        return [model.facts(is_default=model is self.default) for model in self._by_name.values()]


def open_models(
    requested: Sequence[str], models_dir: Path | None = None, *, verify_hashes: bool = True
) -> tuple[Model, ...]:
    """Open the artifacts that were asked for, or the embedded one.

    Args:
        requested: `DIR` or `NAME=DIR` each. Without a name it is the manifest's.
        models_dir: A folder of artifact directories, each under its folder's name; those of other kinds than `matte`
            are left out.
        verify_hashes: Also prove every file.

    Returns:
        In the order of `requested`, then of the folder's names; the first is the default.

    Raises:
        ModelsError: A directory is no sound artifact, not of kind `matte`, or a name is taken twice.
    """
    models = [_open(*_split(text), verify_hashes=verify_hashes) for text in requested]
    if models_dir is not None:
        models += _open_folder(models_dir, verify_hashes=verify_hashes)
    if not models:
        models = [_open(None, default_model.directory(), verify_hashes=verify_hashes)]
    seen: dict[str, Model] = {}
    for model in models:
        if model.manifest.kind != "matte":
            found = model.manifest.kind
            raise ModelsError(f"{model.artifact.directory}: expected an artifact of kind matte, found {found}")
        if model.manifest.io != "image":
            raise ModelsError(
                f"{model.artifact.directory}: expected an artifact that takes images, found one that was exported with "
                "--io tensor; export it without, or adopt its file with birefnet-export adopt"
            )
        if not _NAME.fullmatch(model.name):
            raise ModelsError(
                f"{model.artifact.directory}: expected a model name of letters, digits and ._:/@+-, "
                f"found {model.name!r}: name it with NAME=DIR"
            )
        if (other := seen.get(model.name)) is not None:
            raise ModelsError(
                f"two models are called {model.name}: {other.artifact.directory} and {model.artifact.directory}; "
                "name them with NAME=DIR"
            )
        seen[model.name] = model
    return tuple(models)


def _split(text: str) -> tuple[str | None, Path]:
    name, separator, directory = text.partition("=")
    # A path may hold an equals sign: then what stands before it does not look like a name.
    if separator and _NAME.fullmatch(name) and not Path(text).is_dir():
        return name, Path(directory)
    return None, Path(text)


def _open(name: str | None, directory: Path, *, verify_hashes: bool) -> Model:
    try:
        artifact = open_artifact(directory, verify_hashes)
    except ArtifactError as error:
        raise ModelsError(str(error)) from error
    return Model(name if name is not None else artifact.manifest.name, artifact)


def _open_folder(folder: Path, *, verify_hashes: bool) -> list[Model]:
    try:
        directories = sorted(entry for entry in folder.iterdir() if (entry / MANIFEST_NAME).is_file())
    except OSError as error:
        raise ModelsError(f"{folder}: expected a folder of artifact directories, found: {error.strerror}") from error
    if not directories:
        raise ModelsError(f"{folder}: expected artifact directories with {MANIFEST_NAME} in it, found none")
    models = [_open(directory.name, directory, verify_hashes=verify_hashes) for directory in directories]
    return [model for model in models if model.manifest.kind == "matte"]

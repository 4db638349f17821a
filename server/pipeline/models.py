"""The models that are served, by the names that clients use.

Which ones they are may change at any time (`server.pipeline.roster` does it): a request borrows its model for as long
as it needs it, and so sees one and the same from beginning to end.
"""

import asyncio
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from artifact import MANIFEST_NAME, Artifact, ArtifactError, Manifest, open_artifact
from server import default_model
from server.engine.quotas import ModelLimits, ModelLimitsError, parse_model_limits
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
        limits: Of the requests for it.
        copy: Tells apart two copies of one artifact under one name: one that still answers, and one that comes.
    """

    name: str
    artifact: Artifact
    limits: ModelLimits = field(default_factory=ModelLimits)
    copy: int = 1

    @property
    def artifact_id(self) -> str:
        """What the engine calls it; another artifact under the same name has another."""
        copy = f".{self.copy}" if self.copy > 1 else ""
        return f"{self.name}@{self.artifact.sha256[:12]}{copy}"

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
            "limits": self.limits.as_json(),
        }


class Models:
    """Served models by name, and who is using them. All methods belong to one event loop."""

    def __init__(self, models: Iterable[Model]) -> None:
        """Serve these; the first is the default one."""
        self._by_name = {model.name: model for model in models}
        if not self._by_name:
            raise ValueError("models: expected at least one, found none")
        self._default = next(iter(self._by_name))
        self._borrowed: Counter[str] = Counter()  # by artifact id
        self._returned: list[asyncio.Future[None]] = []  # who waits for that to change

    @property
    def default(self) -> Model:
        """The model of requests that name none."""
        return self._by_name[self._default]

    @property
    def artifacts(self) -> Mapping[str, Artifact]:
        """By artifact id, as the engine takes them."""
        return {model.artifact_id: model.artifact for model in self}

    @property
    def max_batches(self) -> Mapping[str, int]:
        """Largest batches by artifact id, of the models that have a limit of their own, as the engine takes them."""
        return {model.artifact_id: model.limits.max_batch for model in self if model.limits.max_batch is not None}

    def __iter__(self) -> Iterator[Model]:
        """The default one first."""
        return iter(sorted(self._by_name.values(), key=lambda model: model.name != self._default))

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

    @contextmanager
    def borrow(self, name: str | None) -> Iterator[Model]:
        """Use the model of a name, or the default one: it stays loaded while the context is open.

        Raises:
            UnknownModelError: As `find`.
        """
        model = self.find(name)
        self._borrowed[model.artifact_id] += 1
        try:
            yield model
        finally:
            self._return(model.artifact_id)

    def borrowed(self, artifact_id: str) -> int:
        """How many are using an artifact now."""
        return self._borrowed.get(artifact_id, 0)

    async def returned(self, artifact_id: str) -> None:
        """Wait until nobody uses an artifact."""
        while self.borrowed(artifact_id):
            changed = asyncio.get_running_loop().create_future()
            self._returned.append(changed)
            await changed

    def put(self, model: Model) -> Model | None:
        """From now on serve a model under its name; returns the one that it takes the place of."""
        former = self._by_name.get(model.name)
        self._by_name[model.name] = model
        return former

    def remove(self, name: str) -> Model:
        """From now on serve none under this name, which is not the default's; returns the one that was.

        Raises:
            UnknownModelError: There is none.
        """
        model = self.find(name)
        if name == self._default:
            raise ValueError(f"This is a bug: the default model {name} is removed")
        return self._by_name.pop(model.name)

    def make_default(self, name: str) -> Model:
        """From now on it is the model of requests that name none.

        Raises:
            UnknownModelError: There is none of that name.
        """
        model = self.find(name)
        self._default = name
        return model

    def listing(self) -> list[dict[str, Any]]:
        """Facts of every model, the default one first."""
        return [model.facts(is_default=model is self.default) for model in self]

    def _return(self, artifact_id: str) -> None:
        self._borrowed[artifact_id] -= 1
        if not self._borrowed[artifact_id]:
            del self._borrowed[artifact_id]
            for waiter in self._returned:
                if not waiter.done():
                    waiter.set_result(None)
            self._returned.clear()


def open_model(name: str | None, directory: Path, *, verify_hashes: bool = True) -> Model:
    """Open one artifact directory; without a name it is the manifest's.

    Raises:
        ModelsError: It is no sound artifact of kind `matte` that takes images, or the name is none.
    """
    model = _open(name, directory, verify_hashes=verify_hashes)
    _check(model)
    return model


def check_name(name: str) -> None:
    """Insist on a name that can travel in headers, labels and URLs.

    Raises:
        ModelsError: It cannot.
    """
    if not _NAME.fullmatch(name):
        raise ModelsError(f"expected a model name of letters, digits and ._:/@+-, found {name!r}")


def limited(models: Iterable[Model], limits: Sequence[str]) -> tuple[Model, ...]:
    """The same models with limits of their own, each as `NAME limit=number …`.

    Raises:
        ModelsError: A text is no such limits, or names no model of these, or one twice.
    """
    found = {model.name: model for model in models}
    for text in limits:
        try:
            name, parsed = parse_model_limits(text)
        except ModelLimitsError as error:
            raise ModelsError(f"model_limits: {error}") from None
        if name not in found or found[name].limits != ModelLimits():
            raise ModelsError(
                f"model_limits: expected each of the models {', '.join(found)} at most once, found {name}"
            )
        found[name] = replace(found[name], limits=parsed)
    return tuple(found.values())


def open_models(
    requested: Sequence[str],
    models_dir: Path | None = None,
    *,
    verify_hashes: bool = True,
    may_be_empty: bool = False,
) -> tuple[Model, ...]:
    """Open the artifacts that were asked for, or the embedded one.

    Args:
        requested: `DIR` or `NAME=DIR` each. Without a name it is the manifest's.
        models_dir: A folder of artifact directories, each under its folder's name; those of other kinds than `matte`
            are left out.
        verify_hashes: Also prove every file.
        may_be_empty: The folder may hold none yet.

    Returns:
        In the order of `requested`, then of the folder's names; the first is the default.

    Raises:
        ModelsError: A directory is no sound artifact, not of kind `matte`, or a name is taken twice.
    """
    models = [_open(*_split(text), verify_hashes=verify_hashes) for text in requested]
    if models_dir is not None:
        models += _open_folder(models_dir, verify_hashes=verify_hashes, may_be_empty=may_be_empty)
    if not models:
        models = [_open(None, default_model.directory(), verify_hashes=verify_hashes)]
    seen: dict[str, Model] = {}
    for model in models:
        _check(model)
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


def _check(model: Model) -> None:
    directory, manifest = model.artifact.directory, model.manifest
    if manifest.kind != "matte":
        raise ModelsError(f"{directory}: expected an artifact of kind matte, found {manifest.kind}")
    if manifest.io != "image":
        raise ModelsError(
            f"{directory}: expected an artifact that takes images, found one that was exported with "
            "--io tensor; export it without, or adopt its file with birefnet-export adopt"
        )
    try:
        check_name(model.name)
    except ModelsError as error:
        raise ModelsError(f"{directory}: {error}: name it with NAME=DIR") from None


def _open_folder(folder: Path, *, verify_hashes: bool, may_be_empty: bool) -> list[Model]:
    try:
        directories = sorted(entry for entry in folder.iterdir() if (entry / MANIFEST_NAME).is_file())
    except OSError as error:
        raise ModelsError(f"{folder}: expected a folder of artifact directories, found: {error.strerror}") from error
    if not directories and not may_be_empty:
        raise ModelsError(f"{folder}: expected artifact directories with {MANIFEST_NAME} in it, found none")
    models = [_open(directory.name, directory, verify_hashes=verify_hashes) for directory in directories]
    return [model for model in models if model.manifest.kind == "matte"]

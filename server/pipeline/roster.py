"""Models come, go and change places while they are served.

A new artifact is loaded, warmed and tested beside the one it takes the place of; then one assignment makes it the one
that is found under the name. Whoever has borrowed the former one is answered by it, and it is unloaded when the last
has brought it back. What fails changes nothing.

Rules of this module: one event loop. No await between a decision about the served models and the change itself.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from artifact import ArtifactError
from server.backends.base import BackendFault
from server.engine import Engine
from server.engine.quotas import ModelLimits, Quotas
from server.engine.warmup import SelfTestFailedError
from server.errors import ConflictError, InvalidOptionError, ModelRefusedError, NotReadyError
from server.pipeline.models import Model, Models, ModelsError, check_name, open_model

_log = logging.getLogger(__name__)

_REFUSED = (ModelsError, ArtifactError, BackendFault, SelfTestFailedError)
_FAILURES = 16  # that are remembered, of different names
_RETRY_S = 5

State = Literal["loading", "warm", "draining", "failed"]


@dataclass(frozen=True, slots=True)
class Place:
    """Where artifacts may come from, and what may not go.

    Attributes:
        folder: The only one that artifacts are read from; None where none may be added.
        unready_reason: Why no change is made now; None when changes are welcome.
        needed_by: Says of the name of a model what needs it, or None where nothing does.
    """

    folder: Path | None
    unready_reason: Callable[[], str | None] = lambda: None
    needed_by: Callable[[str], str | None] = lambda name: None


class Roster:
    """Changes which models are served."""

    def __init__(self, engine: Engine, models: Models, quotas: Quotas, place: Place) -> None:
        self._engine = engine
        self._models = models
        self._quotas = quotas
        self._place = place
        self._loading: dict[str, str] = {}  # directory, by name
        self._failed: dict[str, tuple[str, str]] = {}  # directory and reason, by name; the latest change of a name only
        self._leaving: list[Model] = []
        self._tasks: set[asyncio.Task[Any]] = set()
        self._turn = asyncio.Lock()  # one artifact is loaded at a time: each needs memory beside the served ones

    def listing(self) -> list[dict[str, Any]]:
        """What is served, and what is coming and going, as JSON types; a name may occur more than once."""
        warm = self._engine.precisions  # at the start of the process they are not all
        served = [
            self._row(
                model,
                "warm" if model.artifact_id in warm else "loading",
                default=model is self._models.default,
                limits=model.limits.as_json(),
                inside=dict(self._quotas.inside(model.name)),
            )
            for model in self._models
        ]
        leaving = [
            self._row(model, "draining", in_use=self._models.borrowed(model.artifact_id)) for model in self._leaving
        ]
        loading = [{"name": name, "state": "loading", "directory": where} for name, where in self._loading.items()]
        failed = [
            {"name": name, "state": "failed", "directory": where, "reason": reason}
            for name, (where, reason) in self._failed.items()
        ]
        return [*served, *loading, *leaving, *failed]

    async def put(self, name: str, directory: str, limits: ModelLimits | None = None) -> Mapping[str, Any]:
        """Serve an artifact under a name, instead of the one that is served under it, if any.

        It goes on to its end even if the caller is cancelled. Where the same artifact is served already, only its
        limits are set.

        Args:
            name: Of the model.
            directory: Of the artifact, relative to the folder.
            limits: Of its requests; None keeps those of the name.

        Returns:
            What happened (`added`, `replaced`, `limited` or `unchanged`) and the model, as JSON types.

        Raises:
            InvalidOptionError: The name or the directory is not one that may be used.
            ConflictError: The name is being changed.
            NotReadyError: No change is made now.
            ModelRefusedError: The artifact cannot be served; everything is as it was.
        """
        self._check_open()
        path = self._inside_folder(directory)
        try:
            check_name(name)
        except ModelsError as error:
            raise InvalidOptionError(str(error)) from None
        self._check_unchanging(name)
        self._loading[name] = directory
        self._failed.pop(name, None)
        return await asyncio.shield(self._spawn(self._load(name, path, limits)))

    def remove(self, name: str) -> Mapping[str, Any]:
        """Stop serving a name; what was let in for it is answered.

        Raises:
            UnknownModelError: None is served under it.
            ConflictError: It is the default model, is needed, or is being changed.
            NotReadyError: No change is made now.
        """
        self._check_open()
        self._models.find(name)
        self._check_unchanging(name)
        if name == self._models.default.name:
            raise ConflictError(f"{name} is the default model: make another one the default first")
        if (need := self._place.needed_by(name)) is not None:
            raise ConflictError(f"{name} is needed by {need}: end that first")
        model = self._models.remove(name)
        self._quotas.forget(name)
        self._retire(model)
        _log.info("model removed", extra={"model": model.artifact_id})
        return self._row(model, "draining", in_use=self._models.borrowed(model.artifact_id))

    def make_default(self, name: str) -> None:
        """Let requests that name no model have this one.

        Raises:
            UnknownModelError: None is served under the name.
            NotReadyError: No change is made now.
        """
        self._check_open()
        model = self._models.make_default(name)
        _log.info("model is the default", extra={"model": model.artifact_id})

    async def close(self) -> None:
        """Break off what is under way."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _load(self, name: str, path: Path, limits: ModelLimits | None) -> Mapping[str, Any]:
        directory = self._loading[name]
        try:
            async with self._turn:
                opened = await asyncio.to_thread(open_model, name, path)
                done = await self._exchange(opened, limits)
        except _REFUSED as error:
            reason = self._without_folder(str(error))
            self._remember_failure(name, directory, reason)
            _log.error("model refused: %s", error, extra={"model": name, "directory": directory})
            raise ModelRefusedError(reason) from error
        finally:
            del self._loading[name]
        model = self._models.find(name)
        _log.info("model %s", done, extra={"model": model.artifact_id, "directory": directory})
        row = self._row(model, "warm", default=model is self._models.default, limits=model.limits.as_json())
        return {"done": done, "model": row}

    async def _exchange(self, opened: Model, limits: ModelLimits | None) -> str:
        """Load an opened model, and put it in the place of the one of its name."""
        former = next((model for model in self._models if model.name == opened.name), None)
        if limits is None:
            limits = former.limits if former is not None else ModelLimits()
        if (
            former is not None
            and former.manifest == opened.manifest
            and former.limits.max_batch == limits.max_batch  # it is warm for its largest batch
        ):
            self._models.put(replace(former, artifact=opened.artifact, limits=limits))
            return "unchanged" if limits == former.limits else "limited"
        model = self._apart(replace(opened, limits=limits))
        await self._engine.load(model.artifact_id, model.artifact, limits.max_batch)
        self._models.put(model)
        if former is None:
            return "added"
        self._retire(former)
        return "replaced"

    def _apart(self, model: Model) -> Model:
        """With an id that no other has which is still loaded."""
        taken = {other.artifact_id for other in (*self._models, *self._leaving)}
        while model.artifact_id in taken:
            model = replace(model, copy=model.copy + 1)
        return model

    def _retire(self, model: Model) -> None:
        """Unload it when nobody uses it any more."""

        async def wait_and_unload() -> None:
            try:
                await self._models.returned(model.artifact_id)
                await self._engine.unload(model.artifact_id)
            finally:
                self._leaving.remove(model)
            _log.info("model unloaded", extra={"model": model.artifact_id})

        self._leaving.append(model)
        self._spawn(wait_and_unload())

    def _spawn(self, work: Any) -> "asyncio.Task[Any]":  # noqa: ANN401 - a coroutine of any result
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(_report)
        return task

    def _check_open(self) -> None:
        if (reason := self._place.unready_reason()) is not None:
            raise NotReadyError(reason, retry_after_s=_RETRY_S)

    def _check_unchanging(self, name: str) -> None:
        if name in self._loading:
            raise ConflictError(f"{name} is being changed already: wait until it is not listed as loading any more")

    def _inside_folder(self, directory: str) -> Path:
        if self._place.folder is None:
            raise ModelRefusedError("this server has no models_dir, the folder that artifacts are added from")
        try:
            root = self._place.folder.resolve()
            path = (root / directory).resolve()
        except (OSError, RuntimeError, ValueError):  # a loop of links, a null byte
            root = path = Path()
        if path == root or not path.is_relative_to(root):
            raise InvalidOptionError(
                f"directory: expected that of an artifact in models_dir, relative to it, found {directory[:200]!r}"
            )
        return path

    def _without_folder(self, text: str) -> str:
        """Text without the place of the folder on this machine, which is nobody's business."""
        folder = self._place.folder
        for root in () if folder is None else (folder.resolve(), folder):
            text = text.replace(f"{root}/", "")
        return text

    def _relative(self, directory: Path) -> str | None:
        """Where an artifact lies in the folder; None for one from elsewhere."""
        folder = self._place.folder
        if folder is None:
            return None
        path, root = directory.resolve(), folder.resolve()
        return path.relative_to(root).as_posix() if path.is_relative_to(root) else None

    def _remember_failure(self, name: str, directory: str, reason: str) -> None:
        self._failed[name] = (directory, reason)
        while len(self._failed) > _FAILURES:
            del self._failed[next(iter(self._failed))]

    def _row(self, model: Model, state: State, **more: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON
        return {
            "name": model.name,
            "state": state,
            "artifact": model.artifact_id,
            "directory": self._relative(model.artifact.directory),
            "size": list(model.manifest.input_size),
            "sha256": model.artifact.sha256,
            **more,
        }


def _report(task: "asyncio.Task[Any]") -> None:
    """Whoever waited for it may have left; a bug must not go unnoticed."""
    if not task.cancelled() and (error := task.exception()) is not None and not isinstance(error, ModelRefusedError):
        _log.error("a change of the models ended by an unexpected error", exc_info=error)

"""From what the user calls SOURCE to one checkpoint file."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from model_export.errors import SourceError
from model_export.registry import REGISTRY, KnownCheckpoint
from modeling.birefnet.network import BiRefNet
from modeling.weights import WeightsError, load_network

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
ACCEPTED = "a .safetensors or .pth file, or a directory that holds one"
COMMON_STEMS = {"model", "pytorch_model"}
"""File names that say nothing of the model."""


@dataclass(frozen=True, slots=True)
class HubFile:
    """Where on Hugging Face a file came from.

    Attributes:
        id: `owner/name`.
        revision: Branch, tag or commit that was asked for.
        commit: What that was, 40 hexadecimal digits.
        file: Path inside the repository.
        licence: As the model card says it, if it does.
    """

    id: str
    revision: str
    commit: str
    file: str
    licence: str | None = None

    def to_mapping(self) -> dict[str, str]:
        return {"id": self.id, "revision": self.revision, "commit": self.commit, "file": self.file}


@dataclass(frozen=True, slots=True)
class Located:
    """A checkpoint file, and where on the hub it came from if it did."""

    path: Path
    hub: HubFile | None = None

    @property
    def name(self) -> str:
        """The repository's name, else the file's, or its folder's where the file has the name that everybody's has."""
        if self.hub is not None:
            return self.hub.id.partition("/")[2]
        return self.path.resolve().parent.name if self.path.stem in COMMON_STEMS else self.path.stem


def locate(source: str, report: Callable[[str], None], registry: Iterable[KnownCheckpoint] = REGISTRY) -> Located:
    """The checkpoint file that SOURCE means.

    Args:
        source: A file, or a directory with `model.safetensors` or exactly one checkpoint.
        report: Told what is being done.
        registry: Rows to recognise a hub id by.

    Raises:
        SourceError: There is none, or more than one.
    """
    return Located(find_checkpoint(source))


def find_checkpoint(source: str) -> Path:
    """The checkpoint file of a path.

    Args:
        source: A file, or a directory with `model.safetensors` or exactly one checkpoint.

    Raises:
        SourceError: There is none, or more than one.
    """
    path = Path(source)
    if path.is_dir():
        return _only_checkpoint(path)
    if not path.exists():
        looks_like_id = source.count("/") == 1 and not source.startswith((".", "/", "~"))
        hint = "; if it is a Hugging Face id, download its model.safetensors first" if looks_like_id else ""
        raise SourceError(f"expected {ACCEPTED}, found nothing at `{source}`{hint}")
    if path.suffix not in SUFFIXES:
        raise SourceError(f"expected {ACCEPTED}, found `{source}`")
    return path


def load_checkpoint(path: Path) -> BiRefNet:
    """The network of a checkpoint, in fp32, in evaluation mode.

    Raises:
        SourceError: The file is damaged, of another architecture, or its keys do not fit; all wrong keys are named.
    """
    try:
        return load_network(path)
    except WeightsError as error:
        raise SourceError(str(error)) from error


def _only_checkpoint(directory: Path) -> Path:
    preferred = directory / "model.safetensors"
    if preferred.is_file():
        return preferred
    found = sorted(path for path in directory.iterdir() if path.suffix in SUFFIXES and path.is_file())
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise SourceError(f"expected one checkpoint in `{directory}`, found {names}; name the file")
    return found[0]

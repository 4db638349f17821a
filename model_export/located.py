"""What SOURCE leads to: a checkpoint file, and where it came from. No files are read here."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from model_export.errors import SourceError

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
USUAL_NAMES = ("model.safetensors", "pytorch_model.bin")
"""Names that the hub's own tools give, most wanted first; they say nothing of the model."""

_SHARD = re.compile(r"-\d{5}-of-\d{5}\.\w+$")


@dataclass(frozen=True, slots=True)
class HubFile:
    """Where on Hugging Face a file came from.

    Attributes:
        id: `owner/name`.
        revision: Branch, tag or commit that was asked for.
        commit: What that was, 40 hexadecimal digits.
        file: Path inside the repository.
        licence: As the model card says it; None where it does not, or was not at hand.
    """

    id: str
    revision: str
    commit: str
    file: str
    licence: str | None = None

    def to_mapping(self) -> dict[str, str]:
        """For the manifest."""
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
        return self.path.resolve().parent.name if self.path.name in USUAL_NAMES else self.path.stem


def choose_checkpoint(names: Iterable[str], where: str) -> str:
    """Which of a folder's files is its checkpoint: the one with the usual name, else the only one.

    Args:
        names: Paths inside it, with forward slashes.
        where: It, for the error.

    Raises:
        SourceError: There is none, or several; or one that was cut into shards.
    """
    found = sorted(name for name in names if PurePosixPath(name).suffix in SUFFIXES)
    usual = next((name for name in USUAL_NAMES if name in found), None)
    if usual is not None:
        return usual
    if any(_SHARD.search(name) for name in found):
        raise SourceError(
            f"expected one checkpoint in {where}, found one in shards ({', '.join(found)}); join them into one file"
        )
    if len(found) != 1:
        raise SourceError(f"expected one checkpoint in {where}, found {', '.join(found) or 'none'}; name the file")
    return found[0]

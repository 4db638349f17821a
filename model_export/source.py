"""From what the user calls SOURCE to one checkpoint file."""

import re
from collections.abc import Callable, Iterable
from pathlib import Path

from model_export.errors import SourceError
from model_export.located import SUFFIXES, Located, choose_checkpoint
from model_export.registry import REGISTRY, KnownCheckpoint, recognise_id
from modeling.birefnet.network import BiRefNet
from modeling.weights import WeightsError, load_network

ACCEPTED = (
    "a .safetensors or .pth file, a directory that holds one, or a Hugging Face id (owner/name, owner/name@revision)"
)

_HUB_ID = re.compile(r"([A-Za-z0-9_][\w.-]*/[A-Za-z0-9_][\w.-]*?)(?:@(\S+))?", re.ASCII)


def locate(source: str, report: Callable[[str], None], registry: Iterable[KnownCheckpoint] = REGISTRY) -> Located:
    """The checkpoint file that SOURCE means, fetched if it is on the hub and not in the cache.

    Args:
        source: A file, a directory with `model.safetensors` or exactly one checkpoint, or a Hugging Face id. What is
            there as a file is not looked for on the hub.
        report: Told what is being done.
        registry: Says which hub ids hold something else than checkpoints.

    Raises:
        SourceError: There is none, or more than one, or it could not be fetched whole.
    """
    path = Path(source)
    if path.is_dir():
        names = [entry.name for entry in path.iterdir() if entry.is_file()]
        return Located(path / choose_checkpoint(names, f"`{source}`"))
    if path.exists():
        if path.suffix not in SUFFIXES:
            raise SourceError(f"expected {ACCEPTED}, found `{source}`")
        return Located(path)
    reference = _HUB_ID.fullmatch(source)
    if reference is None or path.suffix in SUFFIXES:
        raise SourceError(f"expected {ACCEPTED}, found nothing at `{source}`")
    hub_id, revision = reference[1], reference[2] or "main"
    row = recognise_id(hub_id, registry)
    if row is not None and row.form != "checkpoint":
        raise SourceError(f"expected a checkpoint, found {row.form.upper()} files in {hub_id}")
    # Not before it is needed: a local file needs no HTTP client.
    from model_export.hub import Hub

    return Hub.from_environment().locate(hub_id, revision, report)


def load_checkpoint(path: Path) -> BiRefNet:
    """The network of a checkpoint, in fp32, in evaluation mode.

    Raises:
        SourceError: The file is damaged, of another architecture, or its keys do not fit; all wrong keys are named.
    """
    try:
        return load_network(path)
    except WeightsError as error:
        raise SourceError(str(error)) from error

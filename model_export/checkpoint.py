"""From SOURCE and options to the network that is exported, and everything that is known of where it came from."""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model_export.errors import PatchOrderError, SourceError
from model_export.located import Located
from model_export.registry import (
    REGISTRY,
    UNSPECIFIED,
    KnownCheckpoint,
    forbids_commerce,
    recognise_digest,
    recognise_id,
)
from model_export.source import load_checkpoint, locate
from modeling.birefnet.config import backbone_name
from modeling.birefnet.network import BiRefNet
from modeling.patch_order import PatchOrder, PatchOrderEvidence, detect_patch_order, legacy_to_current
from modeling.tensor_digest import tensor_digest
from modeling.weights import CONFIG_KEY, read_metadata

DEFAULT_SIZE = (1024, 1024)
"""(height, width) of a checkpoint that the registry does not know."""

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class CheckpointOptions:
    """What the user says of a checkpoint; None leaves it to the registry and to the weights.

    Attributes:
        patch_order: That the weights in the file were trained for.
        licence: Of the weights.
        size: (height, width) of the working size.
    """

    patch_order: PatchOrder | None = None
    licence: str | None = None
    size: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint, resolved.

    Attributes:
        network: In fp32, in evaluation mode, its weights in the current patch order whatever the file's.
        path: The file.
        name: For the model, unless the user has a better one.
        sha256: Of the file.
        tensor_sha256: Of the weights as they came (`modeling.tensor_digest`).
        row: What the registry knows of it.
        patch_order: That the file came in.
        licence: Of the weights.
        size: (height, width) of the working size.
        origin: For the manifest.
    """

    network: BiRefNet
    path: Path
    name: str
    sha256: str
    tensor_sha256: str
    row: KnownCheckpoint | None
    patch_order: PatchOrder
    licence: str
    size: tuple[int, int]
    origin: dict[str, Any]


def resolve_checkpoint(
    source: str, options: CheckpointOptions, report: Report, registry: Iterable[KnownCheckpoint] = REGISTRY
) -> Checkpoint:
    """Find, load, recognise and convert.

    Args:
        source: A file, a directory, or a Hugging Face id.
        options: What the user says of it.
        report: Told what is being done, what was concluded, and every warning.
        registry: Rows to recognise it by.

    Raises:
        SourceError: There is no such checkpoint, it does not fit, or it is not what the registry says it is.
        PatchOrderError: What is known of the patch order is not enough, or contradicts itself.
    """
    rows = tuple(registry)
    located = locate(source, report, rows)
    report(f"loading {located.path}")
    network = load_checkpoint(located.path)
    sha256, tensors = _file_digest(located.path), tensor_digest(network.state_dict())
    row = recognise_digest(sha256, tensors, rows)
    if row is None and located.hub is not None:
        row = recognise_id(located.hub.id, rows)
    report(f"tensor SHA-256 {tensors}: {'not in the registry' if row is None else f'recognised as {row.hub_id}'}")
    _check_backbone(row, network)
    evidence = detect_patch_order(network.state_dict())
    order = settle_patch_order(options.patch_order, _claim(row, located.path), evidence, report)
    if order == "legacy":
        network.load_state_dict(legacy_to_current(network.state_dict()))
    size = _size(options, row, report)
    return Checkpoint(
        network=network,
        path=located.path,
        name=located.name,
        sha256=sha256,
        tensor_sha256=tensors,
        row=row,
        patch_order=order,
        licence=_licence(options, row, located, report),
        size=size,
        origin=_origin(located, sha256, tensors, row, evidence),
    )


def load_reference(source: str, patch_order: PatchOrder, report: Report) -> BiRefNet:
    """The network of a checkpoint whose patch order is known, converted as the export converted it.

    Raises:
        SourceError: There is no such checkpoint, or it does not fit.
    """
    path = locate(source, report).path
    report(f"loading {path}")
    network = load_checkpoint(path)
    if patch_order == "legacy":
        network.load_state_dict(legacy_to_current(network.state_dict()))
    return network


@dataclass(frozen=True, slots=True)
class Claim:
    """A patch order that something other than the weights' statistics says, and who says it."""

    order: PatchOrder
    by: str
    constructed: bool = False
    """Whether it is so by construction, so that weights which say nothing do not matter."""


def settle_patch_order(
    told: PatchOrder | None, claim: Claim | None, evidence: PatchOrderEvidence, report: Report
) -> PatchOrder:
    """The order to take: what the user says, else what claim and weights agree on.

    Raises:
        PatchOrderError: The user says nothing, and there is no claim, or the weights contradict it or are undecided.
            The weights alone are no proof: no released checkpoint was there to try the detector on.
    """
    found = evidence.decision
    if told is not None:
        if found not in {told, "undecided"}:
            report(f"WARNING: the patch order is {told} as you say, but the weights speak against it: {evidence}")
        elif claim is not None and claim.order != told:
            report(f"WARNING: the patch order is {told} as you say; {claim.by} says {claim.order}")
        return told
    if claim is not None and (found == claim.order or (claim.constructed and found == "undecided")):
        report(f"patch order {claim.order}: {claim.by}; the weights: {evidence}")
        return claim.order
    expected = "a checkpoint of known patch order" if claim is None else f"patch order {claim.order} ({claim.by})"
    raise PatchOrderError(
        f"expected {expected}, found {evidence}. Say --patch-order current for weights trained with the official code "
        "of November 2024 or later, --patch-order legacy for older ones"
    )


def _claim(row: KnownCheckpoint | None, path: Path) -> Claim | None:
    if row is not None and row.patch_order is not None:
        return Claim(row.patch_order, f"the registry on {row.hub_id}, {row.certainty}")
    if CONFIG_KEY in read_metadata(path):
        return Claim("current", "written by this software, which knows no other order", constructed=True)
    return None


def _check_backbone(row: KnownCheckpoint | None, network: BiRefNet) -> None:
    found = backbone_name(network.config)
    if row is not None and row.backbone not in {None, found}:
        raise SourceError(
            f"expected a {row.backbone}, which {row.hub_id} is, found a {found}: not the checkpoint that the registry "
            "knows. To export it all the same, give its file by its path"
        )


def _size(options: CheckpointOptions, row: KnownCheckpoint | None, report: Report) -> tuple[int, int]:
    if options.size is not None:
        return options.size
    size, why = (DEFAULT_SIZE, "the default") if row is None else (row.size, f"native to {row.hub_id}")
    report(f"working size {size[0]}x{size[1]}, {why}")
    return size


def _licence(options: CheckpointOptions, row: KnownCheckpoint | None, located: Located, report: Report) -> str:
    """The user's, else the registry's, else the model card's; if one of them forbids commerce, that is said."""
    registered = None if row is None or row.licence == UNSPECIFIED else row.licence
    card = None if located.hub is None else located.hub.licence
    given = [licence for licence in (options.licence, registered, card, UNSPECIFIED) if licence is not None]
    report(f"licence of the weights: {given[0]}")
    for licence in dict.fromkeys(given):
        warn_of_licence(licence, report)
    return given[0]


def warn_of_licence(licence: str, report: Report) -> None:
    """Say so if a licence forbids commercial use."""
    if forbids_commerce(licence):
        report(f"WARNING: {licence} does not allow commercial use of these weights, nor of what is exported from them")


def _origin(
    located: Located, sha256: str, tensors: str, row: KnownCheckpoint | None, evidence: PatchOrderEvidence
) -> dict[str, Any]:
    known = {} if row is None else {"recognised_as": row.hub_id, "task": row.task}
    hub = {} if located.hub is None else {"hub": located.hub.to_mapping()}
    statistic = {"current": round(evidence.current, 2), "legacy": round(evidence.legacy, 2)}
    return {
        "source": str(located.path),
        "sha256": sha256,
        "tensor_sha256": tensors,
        **known,
        **hub,
        "patch_order_evidence": {"decision": evidence.decision, **statistic},
    }


def _file_digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()

"""The released checkpoints: what their files do not say of themselves. A table, no files and no network.

From the model cards, the official repository's history and its issues (commit 25cb930, July 2026).
"""

import itertools
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from modeling.patch_order import PatchOrder

Certainty = Literal["proven", "inferred", "presumed"]
"""How a row's patch order is known: read off files and code, concluded from the date of training, or only likely."""

Task = Literal["segmentation", "matting"]
Form = Literal["checkpoint", "onnx", "gguf"]

UNSPECIFIED = "unspecified"
SWIN_L, SWIN_T = "swin_v1_l", "swin_v1_t"


@dataclass(frozen=True, slots=True)
class KnownCheckpoint:
    """One released checkpoint.

    Attributes:
        hub_id: `owner/name` on Hugging Face; `ZhengPeng7/BiRefNet-massive` is published on GitHub alone.
        backbone: As `modeling.birefnet.config.backbone_name` says it; None where the repository holds several.
        size: Native working size, (height, width); what it was trained for.
        patch_order: Of the weights in the file; None where nobody knows.
        certainty: Of the patch order.
        task: `matting` for weights trained on mattes with soft edges and transparency, else `segmentation`.
        licence: SPDX identifier of the weights' licence, or `unspecified`.
        aliases: Other hub ids of the same weights.
        sha256: Digests of files known to hold these weights.
        tensor_sha256: `modeling.tensor_digest` of the weights; says more than a file's digest, and is not known of
            any release yet: an export prints it, so that rows can be filled in.
        form: What the repository holds; only a `checkpoint` can be exported.
    """

    hub_id: str
    backbone: str | None = SWIN_L
    size: tuple[int, int] = (1024, 1024)
    patch_order: PatchOrder | None = "legacy"
    certainty: Certainty = "inferred"
    task: Task = "segmentation"
    licence: str = "MIT"
    aliases: tuple[str, ...] = ()
    sha256: frozenset[str] = frozenset()
    tensor_sha256: frozenset[str] = frozenset()
    form: Form = "checkpoint"


_AUTHOR = "ZhengPeng7/"
_GENERAL_FP16 = "9ab37426bf4de0567af6b5d21b16151357149139362e6e8992021b8ce356a154"

REGISTRY: tuple[KnownCheckpoint, ...] = (
    KnownCheckpoint(_AUTHOR + "BiRefNet", sha256=frozenset({_GENERAL_FP16})),
    KnownCheckpoint(_AUTHOR + "BiRefNet_lite", SWIN_T, aliases=(_AUTHOR + "BiRefNet_T",)),
    # 2560 wide and 1440 high; uploaded in September 2024 and never changed.
    KnownCheckpoint(_AUTHOR + "BiRefNet_lite-2K", SWIN_T, (1440, 2560), certainty="proven"),
    KnownCheckpoint(_AUTHOR + "BiRefNet_HR", size=(2048, 2048), patch_order="current"),
    KnownCheckpoint(_AUTHOR + "BiRefNet_HR-matting", size=(2048, 2048), patch_order="current", task="matting"),
    KnownCheckpoint(_AUTHOR + "BiRefNet-matting", task="matting"),
    KnownCheckpoint(_AUTHOR + "BiRefNet-portrait"),
    KnownCheckpoint(_AUTHOR + "BiRefNet_512x512", size=(512, 512), patch_order="current", certainty="presumed"),
    # Trained at 256 to 2304 a side; any size is native.
    KnownCheckpoint(_AUTHOR + "BiRefNet_dynamic", patch_order="current"),
    KnownCheckpoint(_AUTHOR + "BiRefNet_dynamic-matting", patch_order="current", task="matting"),
    KnownCheckpoint(
        _AUTHOR + "BiRefNet_lite-matting", SWIN_T, patch_order="current", certainty="presumed", task="matting"
    ),
    KnownCheckpoint(_AUTHOR + "BiRefNet-DIS5K"),
    KnownCheckpoint(_AUTHOR + "BiRefNet-DIS5K-TR_TEs"),
    KnownCheckpoint(_AUTHOR + "BiRefNet-HRSOD", certainty="proven"),
    KnownCheckpoint(_AUTHOR + "BiRefNet-COD"),
    KnownCheckpoint(_AUTHOR + "BiRefNet-legacy"),
    KnownCheckpoint(_AUTHOR + "BiRefNet-massive"),
    KnownCheckpoint("briaai/RMBG-2.0", licence="CC-BY-NC-4.0"),
    # ToonOut: a fine-tune of 2025. Its card was not read, and what it was fine-tuned from, with which code, is open.
    KnownCheckpoint("MatteoKartoon/BiRefNet", patch_order=None, certainty="presumed", licence=UNSPECIFIED),
    KnownCheckpoint("onnx-community/BiRefNet_dynamic-ONNX-CUDA", patch_order="current", form="onnx"),
    KnownCheckpoint("Acly/BiRefNet-GGUF", None, patch_order=None, certainty="presumed", form="gguf"),
)


def recognise_id(hub_id: str, registry: Iterable[KnownCheckpoint] = REGISTRY) -> KnownCheckpoint | None:
    """The row of a hub id or alias; the hub does not mind case."""
    wanted = hub_id.casefold()
    return next((row for row in registry if wanted in {name.casefold() for name in (row.hub_id, *row.aliases)}), None)


def recognise_digest(
    sha256: str, tensor_sha256: str, registry: Iterable[KnownCheckpoint] = REGISTRY
) -> KnownCheckpoint | None:
    """The row that knows the weights, or else the file, by its digest."""
    rows = tuple(registry)
    by_tensors = (row for row in rows if tensor_sha256 in row.tensor_sha256)
    by_file = (row for row in rows if sha256 in row.sha256)
    return next(by_tensors, None) or next(by_file, None)


def forbids_commerce(licence: str) -> bool:
    """Whether a licence's identifier says that commercial use is not allowed."""
    words = re.split(r"[^a-z]+", licence.casefold())
    return "nc" in words or "noncommercial" in words or ("non", "commercial") in itertools.pairwise(words)

"""The table of released checkpoints is consistent, and rows are found by every name and digest they have."""

import re
from dataclasses import replace

import pytest

from model_export.registry import REGISTRY, forbids_commerce, recognise_digest, recognise_id
from modeling.birefnet.network import SIZE_MULTIPLE

GENERAL = "9ab37426bf4de0567af6b5d21b16151357149139362e6e8992021b8ce356a154"


def test_names_and_digests_are_unique_and_well_formed() -> None:
    names = [name.casefold() for row in REGISTRY for name in (row.hub_id, *row.aliases)]
    assert len(set(names)) == len(names) == 22
    assert all(re.fullmatch(r"[\w.-]+/[\w.-]+", name) for name in names)
    digests = [digest for row in REGISTRY for digest in (*row.sha256, *row.tensor_sha256)]
    assert len(set(digests)) == len(digests)
    assert all(re.fullmatch(r"[0-9a-f]{64}", digest) for digest in digests)
    assert all(side % SIZE_MULTIPLE == 0 for row in REGISTRY for side in row.size)


@pytest.mark.parametrize(
    ("name", "backbone", "size", "order", "task", "licence"),
    [
        ("ZhengPeng7/BiRefNet", "swin_v1_l", (1024, 1024), "legacy", "segmentation", "MIT"),
        ("zhengpeng7/birefnet_t", "swin_v1_t", (1024, 1024), "legacy", "segmentation", "MIT"),
        ("ZhengPeng7/BiRefNet_lite-2K", "swin_v1_t", (1440, 2560), "legacy", "segmentation", "MIT"),
        ("ZhengPeng7/BiRefNet_HR-matting", "swin_v1_l", (2048, 2048), "current", "matting", "MIT"),
        ("ZhengPeng7/BiRefNet_512x512", "swin_v1_l", (512, 512), "current", "segmentation", "MIT"),
        ("briaai/RMBG-2.0", "swin_v1_l", (1024, 1024), "legacy", "segmentation", "CC-BY-NC-4.0"),
    ],
)
def test_rows(name, backbone, size, order, task, licence) -> None:
    row = recognise_id(name)
    assert row is not None
    assert (row.backbone, row.size, row.patch_order, row.task, row.licence) == (backbone, size, order, task, licence)


def test_only_what_was_read_off_files_counts_as_proven() -> None:
    proven = {row.hub_id for row in REGISTRY if row.certainty == "proven"}
    assert proven == {"ZhengPeng7/BiRefNet_lite-2K", "ZhengPeng7/BiRefNet-HRSOD"}


def test_digests_are_looked_up_and_weights_come_before_files() -> None:
    general = recognise_digest(GENERAL, "no tensors")
    assert general is not None
    assert general.hub_id == "ZhengPeng7/BiRefNet"
    other = replace(general, hub_id="a/b", sha256=frozenset(), tensor_sha256=frozenset({"t"}))
    assert recognise_digest(GENERAL, "t", [general, other]) == other
    assert recognise_digest("none", "none") is None
    assert recognise_id("ZhengPeng7/BiRefNet_unheard-of") is None


@pytest.mark.parametrize(
    ("licence", "forbidden"),
    [
        ("CC-BY-NC-4.0", True),
        ("cc-by-nc-sa-4.0", True),
        ("CC BY-NC 4.0", True),
        ("for non-commercial use", True),
        ("NonCommercial", True),
        ("MIT", False),
        ("unspecified", False),
        ("Apache-2.0", False),
        ("Encore licence", False),
    ],
)
def test_licences_that_forbid_commerce(licence: str, forbidden: bool) -> None:
    assert forbids_commerce(licence) is forbidden

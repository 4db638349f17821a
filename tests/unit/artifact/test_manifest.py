"""The manifest: round trips, unknown fields, and errors that name the field."""

import copy
import json
from typing import Any

import pytest

from artifact import Manifest, ManifestError

FULL: dict[str, Any] = {
    "format_version": 1,
    "name": "default",
    "kind": "matte",
    "io": "image",
    "inputs": [{"name": "image", "dtype": "uint8", "shape": ["batch", 512, 512, 3]}],
    "outputs": [{"name": "alpha", "dtype": "float32", "shape": ["batch", 512, 512]}],
    "input_size": [512, 512],
    "max_batch": 16,
    "backbone": "swin_v1_t",
    "patch_order": "current",
    "licence": "MIT",
    "origin": {"source": "compact.safetensors"},
    "files": {"model": {"path": "model.onnx", "sha256": "0" * 64, "precision": "fp32"}},
    "self_test": {"fp32": {"max_abs": 1e-3, "mean_abs": 1e-4}},
    "parity": {"max_abs": 2e-6},
}


def changed(path: str, value: object) -> dict[str, Any]:
    """FULL with the field at a dotted path set, or removed when the value is `...`."""
    mapping = copy.deepcopy(FULL)
    *parents, last = path.split(".")
    node: Any = mapping
    for key in parents:
        node = node[int(key)] if isinstance(node, list) else node[key]
    if value is ...:
        del node[last]
    else:
        node[int(last) if isinstance(node, list) else last] = value
    return mapping


def test_a_manifest_survives_json() -> None:
    manifest = Manifest.parse(FULL)
    again = Manifest.parse(json.loads(json.dumps(manifest.to_mapping())))
    assert again == manifest
    assert again.to_mapping() == FULL
    assert manifest.input_size == (512, 512)
    assert manifest.inputs[0].shape == ("batch", 512, 512, 3)
    assert manifest.files["model"].precision == "fp32"
    assert manifest.self_test["fp32"].max_abs == 1e-3


def test_what_a_manifest_need_not_say() -> None:
    """Those of before `--io` took images; a graph that came as a graph has no patch order."""
    manifest = Manifest.parse({key: value for key, value in FULL.items() if key not in {"io", "patch_order"}})
    assert (manifest.io, manifest.patch_order) == ("image", None)
    assert "patch_order" not in manifest.to_mapping()


@pytest.mark.parametrize("path", ["novelty", "inputs.0.layout", "files.model.built_for", "origin.commit", "parity.by"])
def test_unknown_fields_are_kept(path: str) -> None:
    mapping = changed(path, {"made": ["by", "tomorrow"]})
    assert Manifest.parse(mapping).to_mapping() == mapping


def test_optional_fields_have_defaults() -> None:
    mapping = dict(FULL)
    for name in ("patch_order", "origin", "self_test", "parity"):
        del mapping[name]
    manifest = Manifest.parse(mapping)
    assert manifest.patch_order is None
    assert manifest.halo is None
    assert manifest.parity == {}
    assert Manifest.parse({**FULL, "halo": 32}).halo == 32


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("format_version", 2),
        ("format_version", "1"),
        ("name", ...),
        ("name", 7),
        ("name", ""),
        ("name", "a name"),
        ("name", "../name"),
        ("name", "two\nlines"),
        ("kind", "mask"),
        ("inputs", []),
        ("inputs.0.dtype", ...),
        ("inputs.0.shape", [0]),
        ("inputs.0.shape", ["batch", 1.5]),
        ("outputs", {}),
        ("input_size", [512]),
        ("input_size", [512, True]),
        ("input_size", [512, -1]),
        ("max_batch", 0),
        ("max_batch", True),
        ("patch_order", "new"),
        ("files", ...),
        ("files.model", "model.onnx"),
        ("files.model.sha256", "0" * 63),
        ("files.model.sha256", "G" * 64),
        ("files.model.path", "../model.onnx"),
        ("files.model.path", "a/../../model.onnx"),
        ("files.model.path", "/etc/passwd"),
        ("files.model.path", "C:\\model.onnx"),
        ("files.model.path", "C:model.onnx"),
        ("files.model.path", "..\\model.onnx"),
        ("files.model.path", "model\0.onnx"),
        ("files.model.path", ""),
        ("files.model.path", "."),
        ("files.model.path", "model.json"),
        ("files.model.path", "./model.json"),
        ("self_test.fp32", 1e-3),
        ("self_test.fp32.max_abs", "small"),
        ("licence", ...),
    ],
)
def test_an_error_names_the_field(path: str, value: object) -> None:
    with pytest.raises(ManifestError) as caught:
        Manifest.parse(changed(path, value))
    named = caught.value.field
    assert path.startswith(named) or named.startswith(path)
    assert f"`{named}`: expected " in str(caught.value)
    assert ", found " in str(caught.value)


def test_two_roles_cannot_share_a_file() -> None:
    entry = FULL["files"]["model"]
    with pytest.raises(ManifestError, match="one role per path"):
        Manifest.parse(changed("files", {"model": entry, "weights": entry}))


@pytest.mark.parametrize("value", [None, [], "manifest", 3])
def test_the_top_level_must_be_an_object(value: object) -> None:
    with pytest.raises(ManifestError, match="expected an object"):
        Manifest.parse(value)

"""The manifest: what `model.json` of an artifact directory says, as a value.

Rules of this module: pure, no files. Whatever it does not know is kept, at every level, so that an older reader never
destroys what a newer writer put there.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any, Literal, Self, cast

from artifact.fields import Fields, ManifestError, checked

FORMAT_VERSION = 1
MANIFEST_NAME = "model.json"
PLAN_PREFIX = "plan."
"""Roles of TensorRT plans begin with it; `artifact.plans` says what is behind them."""

Kind = Literal["matte", "refine"]
Io = Literal["image", "tensor"]
PatchOrder = Literal["current", "legacy"]

_KINDS = ("matte", "refine")
_IOS = ("image", "tensor")
_PATCH_ORDERS = ("current", "legacy")


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output of the graph.

    Attributes:
        name: Its name in the graph.
        dtype: numpy's name of its element type, `uint8`, `float32`.
        shape: A number per fixed axis, a symbol (`batch`) per free one.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    extra: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, value: object, path: str) -> Self:
        fields = Fields(value, path)
        shape = tuple(_axis(axis, fields.name("shape")) for axis in fields.take("shape", list))
        return cls(fields.take("name", str), fields.take("dtype", str), shape, fields.rest())

    def to_mapping(self) -> dict[str, Any]:
        return {"name": self.name, "dtype": self.dtype, "shape": list(self.shape), **self.extra}


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file of the artifact.

    Attributes:
        path: Relative to the directory, with forward slashes; never leaves it.
        sha256: 64 lower-case hexadecimal digits.
        precision: `fp32`, `fp16`, …; None where it has no meaning.
    """

    path: str
    sha256: str
    precision: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, value: object, path: str) -> Self:
        fields = Fields(value, path)
        name = contained_path(fields.take("path", str), fields.name("path"))
        digest = fields.take("sha256", str)
        if not re.fullmatch(r"[0-9a-f]{64}", digest):
            raise ManifestError(fields.name("sha256"), "64 lower-case hexadecimal digits", digest)
        return cls(name, digest, fields.optional("precision", str), fields.rest())

    def to_mapping(self) -> dict[str, Any]:
        precision = {} if self.precision is None else {"precision": self.precision}
        return {"path": self.path, "sha256": self.sha256, **precision, **self.extra}


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far alpha may be from what is expected: the worst pixel, and the mean over all."""

    max_abs: float
    mean_abs: float

    @classmethod
    def parse(cls, value: object, path: str) -> Self:
        fields = Fields(value, path)
        return cls(fields.take("max_abs", float), fields.take("mean_abs", float))

    def to_mapping(self) -> dict[str, Any]:
        return {"max_abs": self.max_abs, "mean_abs": self.mean_abs}


@dataclass(frozen=True, slots=True)
class Manifest:
    """What an artifact directory holds and how it is to be run.

    Attributes:
        name: What people call the model; letters, digits, dots, hyphens, underscores.
        kind: `matte` (image to alpha) or `refine` (image, mask and frame to alpha).
        io: `image` (bytes in, alpha out: what the server runs) or `tensor` (normalised floats in, logits out).
        inputs: Of the graph, in its order.
        outputs: Of the graph, in its order.
        input_size: (height, width) of the working size.
        max_batch: Largest batch the graph takes. Where it takes only that one, `inputs[0].shape[0]` is a number.
        backbone: `swin_v1_t`, `swin_v1_l`, …
        patch_order: Order of the image patches' channels that the weights came with; None where a graph came instead.
        licence: SPDX identifier or a sentence; the licence of the weights.
        origin: Where the weights came from and what exported them.
        halo: Pixels of context that a refiner's tile needs on every side; None for a matte model.
        files: By role: `model` (fp32 ONNX), `self_test`, `weights`, `plan.…`, …
        parity: Figures of `birefnet-export verify`, empty before it ran.
        self_test: Tolerance by precision for the `self_test` file.
        extra: Fields this version does not know.
    """

    name: str
    kind: Kind
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    input_size: tuple[int, int]
    max_batch: int
    backbone: str
    licence: str
    io: Io = "image"
    patch_order: PatchOrder | None = "current"
    origin: Mapping[str, Any] = field(default_factory=dict)
    halo: int | None = None
    files: Mapping[str, FileEntry] = field(default_factory=dict)
    parity: Mapping[str, Any] = field(default_factory=dict)
    self_test: Mapping[str, Tolerance] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION

    @classmethod
    def parse(cls, value: object) -> Self:
        """Read a manifest from parsed JSON.

        Raises:
            ManifestError: A field is missing, of the wrong type or out of its set; it names the field.
        """
        fields = Fields(value)
        version = fields.take("format_version", int)
        if version != FORMAT_VERSION:
            expected = f"{FORMAT_VERSION}, the only version this software reads"
            raise ManifestError("format_version", expected, version)
        return cls(
            format_version=version,
            name=_model_name(fields.take("name", str)),
            kind=cast("Kind", _one_of(fields.take("kind", str), _KINDS, "kind")),
            inputs=_specs(fields, "inputs"),
            outputs=_specs(fields, "outputs"),
            input_size=_size(fields.take("input_size", list)),
            max_batch=_positive(fields.take("max_batch", int), "max_batch"),
            backbone=fields.take("backbone", str),
            licence=fields.take("licence", str),
            io=cast("Io", _one_of(fields.optional("io", str) or "image", _IOS, "io")),
            patch_order=_patch_order(fields.optional("patch_order", str)),
            origin=fields.optional("origin", dict) or {},
            halo=fields.optional("halo", int),
            files=_entries(fields.take("files", dict)),
            parity=fields.optional("parity", dict) or {},
            self_test={
                precision: Tolerance.parse(tolerance, f"self_test.{precision}")
                for precision, tolerance in (fields.optional("self_test", dict) or {}).items()
            },
            extra=fields.rest(),
        )

    def to_mapping(self) -> dict[str, Any]:
        """The manifest as JSON types; `parse` of it is equal to this one."""
        halo = {} if self.halo is None else {"halo": self.halo}
        patch_order = {} if self.patch_order is None else {"patch_order": self.patch_order}
        return {
            "format_version": self.format_version,
            "name": self.name,
            "kind": self.kind,
            "io": self.io,
            "inputs": [spec.to_mapping() for spec in self.inputs],
            "outputs": [spec.to_mapping() for spec in self.outputs],
            "input_size": list(self.input_size),
            "max_batch": self.max_batch,
            "backbone": self.backbone,
            **patch_order,
            "licence": self.licence,
            "origin": dict(self.origin),
            **halo,
            "files": {role: entry.to_mapping() for role, entry in self.files.items()},
            "self_test": {precision: tolerance.to_mapping() for precision, tolerance in self.self_test.items()},
            "parity": dict(self.parity),
            **self.extra,
        }


def contained_path(path: str, name: str) -> str:
    """The path if it is relative, stays inside its directory and is not the manifest's own; else a ManifestError."""
    parts = PurePosixPath(path).parts
    windows = PureWindowsPath(path)
    absolute = PurePosixPath(path).is_absolute() or windows.is_absolute() or bool(windows.drive)
    if (
        not parts
        or absolute
        or ".." in parts
        or "\\" in path
        or "\0" in path
        or str(PurePosixPath(path)) == MANIFEST_NAME
    ):
        raise ManifestError(name, "a relative path inside the artifact directory", path)
    return path


def _model_name(value: str) -> str:
    # It becomes part of URLs, headers and metric labels.
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", value):
        raise ManifestError("name", "1 to 100 letters, digits, dots, hyphens and underscores", value)
    return value


def _axis(value: object, name: str) -> int | str:
    if isinstance(value, str) and value:
        return value
    return _positive(checked(value, int, name), name)


def _positive(value: int, name: str) -> int:
    if value < 1:
        raise ManifestError(name, "an integer of 1 or more", value)
    return value


def _one_of(value: str, choices: tuple[str, ...], name: str) -> str:
    if value not in choices:
        raise ManifestError(name, " or ".join(f"`{choice}`" for choice in choices), value)
    return value


def _patch_order(value: str | None) -> PatchOrder | None:
    return None if value is None else cast("PatchOrder", _one_of(value, _PATCH_ORDERS, "patch_order"))


def _size(value: list[Any]) -> tuple[int, int]:
    if len(value) != 2:
        raise ManifestError("input_size", "[height, width]", value)
    height, width = (_positive(checked(side, int, "input_size"), "input_size") for side in value)
    return height, width


def _specs(fields: Fields, key: str) -> tuple[TensorSpec, ...]:
    specs = fields.take(key, list)
    if not specs:
        raise ManifestError(key, "at least one tensor", specs)
    return tuple(TensorSpec.parse(spec, f"{key}.{index}") for index, spec in enumerate(specs))


def _entries(value: dict[str, Any]) -> dict[str, FileEntry]:
    entries = {role: FileEntry.parse(entry, f"files.{role}") for role, entry in value.items()}
    paths = [entry.path for entry in entries.values()]
    if len(set(paths)) != len(paths):
        raise ManifestError("files", "one role per path", sorted(paths))
    return entries
